import random

import pytest

from gateway.admission import estimate as module
from gateway.admission.estimate import KNOWN_AFTER, Estimator
from gateway.domain.usage import Estimate, Usage, UsageSource


def expect(
    estimator: Estimator, *, size: int = 3000, most: int | None = None, choices: int = 1, counted: int | None = None
) -> Estimate:
    return estimator.estimate(
        "acme", "assistant", prompt_bytes=size, max_output_tokens=most, choices=choices, counted=counted
    )


def report(estimator: Estimator, prompt: int, output: int, *, size: int = 3000, times: int = 1) -> None:
    for _ in range(times):
        usage = Usage(input_tokens=prompt, output_tokens=output)
        estimator.observe("acme", "assistant", prompt_bytes=size, usage=usage)


@pytest.mark.parametrize(
    ("most", "choices", "counted", "expected"),
    [
        (None, 1, None, (1000, 1024)),
        (None, 1, 750, (750, 1024)),
        (100, 1, 750, (750, 100)),
        (4096, 1, 750, (750, 1024)),
        (100, 3, 750, (750, 300)),
        (None, 128, 0, (0, 128 * 1024)),
    ],
)
def test_an_unknown_pair_is_estimated_from_the_request(
    most: int | None, choices: int, counted: int | None, expected: tuple[int, int]
) -> None:
    """The count or a third of the bytes; 1024 tokens of output per choice or what the request allows."""
    answer = expect(Estimator(), most=most, choices=choices, counted=counted)
    assert (answer.prompt_tokens, answer.output_tokens) == expected


def test_a_pair_is_known_after_a_few_reports() -> None:
    """From then on its prompts need no counting; a count that comes anyway is better than any ratio."""
    estimator = Estimator()
    report(estimator, 600, 50, times=KNOWN_AFTER - 1)
    assert not estimator.knows("acme", "assistant")
    assert expect(estimator, counted=999).prompt_tokens == 999
    report(estimator, 600, 50)
    assert estimator.knows("acme", "assistant")
    assert not estimator.knows("acme", "other")
    assert not estimator.knows("other", "assistant")
    assert expect(estimator).prompt_tokens == pytest.approx(600, rel=0.05)
    assert expect(estimator, counted=999).prompt_tokens == 999


def test_learned_prompts_and_outputs_cover_what_they_should() -> None:
    """About 95 of 100 prompts and 90 of 100 outputs take no more than was estimated."""
    rng = random.Random(20)
    estimator, prompts, outputs, n = Estimator(), 0, 0, 4000
    for _ in range(n):
        size, output = rng.randrange(200, 20_000), int(rng.lognormvariate(5, 0.8))
        prompt = int(size * rng.gauss(0.28, 0.02))
        expected = expect(estimator, size=size)
        prompts += prompt <= expected.prompt_tokens
        outputs += output <= expected.output_tokens
        report(estimator, prompt, output, size=size)
    assert prompts / n == pytest.approx(0.95, abs=0.02)
    assert outputs / n == pytest.approx(0.90, abs=0.02)


def test_short_answers_are_soon_expected_to_be_short() -> None:
    """A classifier that says one word must not hold a thousand tokens for each."""
    estimator = Estimator()
    report(estimator, 600, 5, times=300)
    assert expect(estimator).output_tokens < 10


def test_the_requests_own_limit_caps_what_was_learned() -> None:
    estimator = Estimator()
    report(estimator, 600, 3000, times=50)
    assert expect(estimator).output_tokens > 2000
    assert expect(estimator, most=10, choices=2).output_tokens == 20


def test_output_is_learned_per_choice() -> None:
    """A request for many choices does not make the next one look long."""
    one, many = Estimator(), Estimator()
    for _ in range(50):
        one.observe("acme", "assistant", prompt_bytes=10, usage=Usage(input_tokens=3, output_tokens=90))
        many.observe("acme", "assistant", prompt_bytes=10, usage=Usage(input_tokens=3, output_tokens=900), choices=10)
    assert expect(one) == expect(many)


@pytest.mark.parametrize("source", [UsageSource.COUNTED, UsageSource.ESTIMATED, UsageSource.REAPER])
def test_our_own_counts_teach_nothing(source: UsageSource) -> None:
    estimator = Estimator()
    usage = Usage(input_tokens=1, output_tokens=1, source=source)
    estimator.observe("acme", "assistant", prompt_bytes=3000, usage=usage)
    assert repr(estimator) == "Estimator(0 pairs)"


def test_one_wild_report_moves_little() -> None:
    """A backend that counts a thousand times too much once, or nothing at all, does not price a tenant out."""
    estimator = Estimator()
    report(estimator, 600, 50, times=200)
    before = expect(estimator)
    report(estimator, 600_000, 50_000)
    report(estimator, 0, 0)
    after = expect(estimator)
    assert after.prompt_tokens <= before.prompt_tokens * 1.06
    assert after.output_tokens <= before.output_tokens * 1.25


def test_a_wild_first_report_is_clamped() -> None:
    estimator = Estimator()
    report(estimator, 10**12, 10**12, times=KNOWN_AFTER)
    assert expect(estimator, size=100).prompt_tokens <= 400


def test_the_pair_unused_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by pairs; asking for an estimate counts as use."""
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    estimator = Estimator()
    usage = Usage(input_tokens=10, output_tokens=10)
    for model in ("first", "second", "second", "first"):
        for _ in range(KNOWN_AFTER):
            estimator.observe("acme", model, prompt_bytes=30, usage=usage)
    estimator.estimate("acme", "second", prompt_bytes=1, max_output_tokens=None, choices=1, counted=None)
    estimator.observe("acme", "third", prompt_bytes=30, usage=usage)
    assert [estimator.knows("acme", model) for model in ("first", "second")] == [False, True]
    assert repr(estimator) == "Estimator(2 pairs)"

"""What a request is expected to take, and what answers teach about that."""

import dataclasses
import json

import msgspec
import pytest

from gateway.admission.counting import TokenCounter
from gateway.admission.media import IMAGE_TOKENS
from gateway.dialects.openai import CHAT
from gateway.domain.chat import ChatRequest
from gateway.domain.usage import Usage, UsageSource
from gateway.pipeline.reckoning import COUNT_UP_TO_BYTES, Reckoned, Reckoner
from tests.pipeline.driver import configured, counter

ROUTE = configured(targets=2).policies["standard"].routes["assistant"]
NAME = ROUTE.leaves[0].name


def request(content: object) -> ChatRequest:
    asked = {"model": "assistant", "messages": [{"role": "user", "content": content}], "max_tokens": 10}
    return CHAT.decode_request(json.dumps(asked).encode(), ())


def reckon(reckoner: Reckoner, content: object, *, counted: int | None = None) -> Reckoned:
    return reckoner.reckon(CHAT, request(content), tenant="acme", route=ROUTE, counted=counted)


def learn(reckoner: Reckoner, content: object, usage: Usage, *, times: int = 1) -> None:
    for _ in range(times):
        reckoner.learn("acme", request(content), reckon(reckoner, content), NAME, usage)


def test_a_short_prompt_of_an_unknown_pair_is_counted_with_what_its_targets_make_of_it() -> None:
    reckoner = Reckoner(counter())
    reckoned = reckon(reckoner, "word " * 100)
    assert reckoned.counted is not None
    assert 100 < reckoned.counted < 110
    assert reckoned.estimate.prompt_tokens == round(reckoned.counted * 1.15)
    for leaf in ROUTE.leaves:
        reckoner.calibration.observe(leaf.name, counted=100, reported=200)
    assert reckon(reckoner, "word " * 100).estimate.prompt_tokens == 2 * reckoned.counted


def test_a_long_prompt_is_not_counted_here() -> None:
    reckoned = reckon(Reckoner(counter()), "x" * (COUNT_UP_TO_BYTES + 1))
    assert reckoned.counted is None
    assert reckoned.estimate.prompt_tokens > COUNT_UP_TO_BYTES // 3


class Resting(TokenCounter):
    """Its ranks are not there; says whether they were wanted."""

    wanted = 0

    def want(self) -> None:
        """Once more."""
        self.wanted += 1

    def count(self, text: str) -> int:
        """Any number."""
        return len(text)


def test_without_ranks_a_prompt_goes_by_its_size_and_the_next_ones_are_counted() -> None:
    """At a third of its bytes until the pair is known, whatever the first answers tell."""
    resting = Resting()
    reckoner = Reckoner(resting)
    reckoned = [reckon(reckoner, "word " * 100)]
    reckoner.learn("acme", request("word " * 100), reckoned[0], NAME, Usage(input_tokens=10, output_tokens=1))
    reckoned.append(reckon(reckoner, "word " * 100))
    assert [each.counted for each in reckoned] == [None, None]
    assert [each.estimate.prompt_tokens for each in reckoned] == [-(-request("word " * 100).prompt_bytes // 3)] * 2
    assert resting.wanted == 2


def test_a_prompt_whose_size_could_keep_it_from_a_target_is_counted_at_once() -> None:
    leaf = ROUTE.leaves[0]
    narrow = dataclasses.replace(leaf, facts=msgspec.structs.replace(leaf.facts, context=100))
    route = dataclasses.replace(ROUTE, targets=(narrow, *ROUTE.leaves[1:]))
    reckoner = Reckoner(Resting())
    counted = [
        reckoner.reckon(CHAT, request(text), tenant="acme", route=route).counted for text in ("hi", "word " * 100)
    ]
    assert counted[0] is None
    assert counted[1] is not None


def test_a_count_that_was_made_is_used_whatever_is_known() -> None:
    reckoner = Reckoner(counter())
    learn(reckoner, "word " * 100, Usage(input_tokens=500, output_tokens=1), times=20)
    assert reckon(reckoner, "word " * 100).counted is None
    assert reckon(reckoner, "word " * 100, counted=100).estimate.prompt_tokens < 600


def test_an_image_is_reckoned_by_what_it_is_and_not_by_its_bytes() -> None:
    reckoner = Reckoner(counter())
    url = "data:image/png;base64," + "A" * 2_000_000
    parts = [{"type": "text", "text": "word " * 100}, {"type": "image_url", "image_url": {"url": url}}]
    assert IMAGE_TOKENS + 100 < reckon(reckoner, parts).estimate.prompt_tokens < IMAGE_TOKENS + 200
    learn(reckoner, "word " * 100, Usage(input_tokens=105, output_tokens=1), times=20)
    assert IMAGE_TOKENS + 80 < reckon(reckoner, parts).estimate.prompt_tokens < IMAGE_TOKENS + 250


def test_prompts_with_images_teach_of_output_only() -> None:
    reckoner = Reckoner(counter())
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]
    learn(reckoner, parts, Usage(input_tokens=900, output_tokens=5), times=200)
    assert not reckoner.estimator.knows("acme", "assistant")
    whole = CHAT.decode_request(json.dumps({"model": "assistant", "messages": [{"role": "user"}]}).encode(), ())
    assert reckoner.reckon(CHAT, whole, tenant="acme", route=ROUTE).estimate.output_tokens < 20


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=10, cached_input_tokens=5),
        Usage(input_tokens=10, cache_write_tokens=5),
        Usage(input_tokens=10, source=UsageSource.COUNTED),
        Usage(input_tokens=10, source=UsageSource.SUSPECT),
    ],
)
def test_what_tells_nothing_of_the_tokenizer_calibrates_nothing(usage: Usage) -> None:
    reckoner = Reckoner(counter())
    learn(reckoner, "word " * 100, usage)
    assert reckoner.calibration.mean(NAME) == 1.0

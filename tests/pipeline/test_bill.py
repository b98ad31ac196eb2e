"""Who used what and who pays: by attempt, by witness, to the nano-dollar."""

import dataclasses
from decimal import Decimal

import msgspec
import pytest

from gateway.dialects.anthropic.stream import AnthropicStreamDecoder
from gateway.domain.backend import Prices
from gateway.domain.chat import Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import NO_USAGE, Usage, UsageSource
from gateway.pipeline import bill
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.claiming import dearest
from tests.pipeline.driver import Play, configured

PLAN = configured().policies["standard"].routes["assistant"].leaves
TIMEOUTS = configured().policies["standard"].policy.timeouts
REPORTED = Usage(input_tokens=10, output_tokens=4)
PROMPT, WORDS = 100, 7


class _Told(AnthropicStreamDecoder):
    """A stream that has begun."""

    def __init__(self) -> None:
        super().__init__(Label("a", "m", 0), native=True)
        self.prompt = Usage(input_tokens=3, cached_input_tokens=50)


def attempt(
    outcome: Outcome,
    kind: FaultKind | None = None,
    *,
    sent: bool = True,
    text: str | None = None,
    usage: Usage | None = None,
    number: int = 1,
    told: bool = False,
) -> Attempt:
    """A try that is over, at the backend of its number."""
    made = Attempt(number, PLAN[number - 1], "initial", TIMEOUTS, now=0.0, span_id=None)
    if sent:
        made.note_sent(0.5, streaming=True)
    if text is not None:
        made.text.append(text)
        made.note_content(1.0)
    made.usage = usage
    made.decoder = _Told() if told else None
    made.end(outcome, 2.0, None if kind is None else Fault(kind=kind, message="m"))
    return made


def used(made: Attempt) -> Usage:
    return bill.usage_of(made, prompt_tokens=lambda: PROMPT, count=lambda text: WORDS * len(text))


COUNTED = Usage(input_tokens=PROMPT, output_tokens=2 * WORDS, source=UsageSource.COUNTED)
TOLD = Usage(input_tokens=3, cached_input_tokens=50, output_tokens=2 * WORDS, source=UsageSource.COUNTED)
GUESSED = Usage(input_tokens=PROMPT, source=UsageSource.ESTIMATED)
O, K = Outcome, FaultKind  # noqa: E741  # for the table below
WITNESSES: list[tuple[str, Attempt, Usage]] = [
    ("the backend's report", attempt(O.OK, text="hi", usage=REPORTED), REPORTED),
    ("an explicit zero", attempt(O.OK, text="hi", usage=Usage()), Usage()),
    ("a report before the cut", attempt(O.INTERRUPTED, K.LOST, text="hi", usage=REPORTED), REPORTED),
    ("a report with a failure", attempt(O.FAILED, K.SERVER_ERROR, usage=REPORTED), REPORTED),
    ("our count", attempt(O.OK, text="hi"), COUNTED),
    ("our count of a cut answer", attempt(O.INTERRUPTED, K.LOST, text="hi"), COUNTED),
    ("our count of what the client left", attempt(O.CLIENT_GONE, text="hi"), COUNTED),
    ("a prompt that the backend told", attempt(O.CLIENT_GONE, text="hi", told=True), TOLD),
    ("nothing but a prompt", attempt(O.CLIENT_GONE, told=True), msgspec.structs.replace(TOLD, output_tokens=0)),
    ("a prompt, then a report", attempt(O.OK, text="hi", usage=REPORTED, told=True), REPORTED),
    ("a prompt, then a refusal", attempt(O.FAILED, K.OVERLOADED, told=True), NO_USAGE),
    ("an empty answer", attempt(O.OK, text=""), Usage(input_tokens=PROMPT, source=UsageSource.COUNTED)),
    ("the client left before a word", attempt(O.CLIENT_GONE), GUESSED),
    ("we stopped before a word", attempt(O.SHUTDOWN), GUESSED),
    *((f"{kind}, sent", attempt(O.FAILED, kind), GUESSED) for kind in (K.TIMEOUT, K.LOST, K.PROTOCOL, K.TRUNCATED)),
    *(
        (f"{kind}, sent", attempt(O.FAILED, kind), NO_USAGE)
        for kind in (K.SERVER_ERROR, K.OVERLOADED, K.RATE_LIMITED, K.QUOTA, K.AUTH, K.MODEL_MISSING, K.STALE)
    ),
    ("rejected", attempt(O.REJECTED, K.REJECTED), NO_USAGE),
    *(
        (f"{kind}, never sent", attempt(O.FAILED, kind, sent=False), NO_USAGE)
        for kind in (K.CONNECT, K.STALE, K.TIMEOUT, K.LOST, K.PROTOCOL)
    ),
    ("the client left before sending", attempt(O.CLIENT_GONE, sent=False), NO_USAGE),
]


@pytest.mark.parametrize(("made", "expected"), [pytest.param(made, usage, id=name) for name, made, usage in WITNESSES])
def test_usage_is_told_by_the_best_witness(made: Attempt, expected: Usage) -> None:
    """I8: a report, else our count, else the prompt where the backend may have read it, else nothing."""
    assert used(made) == expected


@pytest.mark.parametrize(
    ("outcome", "text", "paid"),
    [
        (O.OK, "hi", True),
        (O.INTERRUPTED, "hi", True),
        (O.CLIENT_GONE, "hi", True),
        (O.CLIENT_GONE, None, True),
        (O.SHUTDOWN, "hi", True),
        (O.SHUTDOWN, None, False),
        (O.FAILED, None, False),
        (O.REJECTED, None, False),
    ],
)
def test_the_tenant_pays_for_the_answer_that_was_theirs(outcome: Outcome, text: str | None, paid: bool) -> None:
    """I7: a client that left had ordered it; what we broke off unsaid is our cost."""
    assert bill.is_paid(attempt(outcome, text=text)) == paid


def test_one_row_an_attempt_and_one_charge_a_request() -> None:
    """Every attempt's cost is kept; each is priced by its own backend, at the time it ended."""
    tries = [
        attempt(O.FAILED, K.TIMEOUT, number=1),
        attempt(O.FAILED, K.CONNECT, sent=False, number=2),
        attempt(O.OK, text="hi", usage=REPORTED, number=3),
    ]
    for made in tries:
        made.usage = used(made)
    job = Play().exchange.job
    rows = bill.rows(job, tries, exchange_id="e1", request_id="r1", outcome=O.OK, wall_offset_s=1000.0, now=9.0)
    assert [(row.attempt, row.backend, row.charge_nano_usd, row.cost_nano_usd) for row in rows] == [
        (1, "a", 0, PROMPT * 1_000),
        (2, "b", 0, 0),
        (3, "c", 10 * 4_000 + 4 * 8_000, 10 * 4_000 + 4 * 8_000),
    ]
    assert bill.charged(tries) == REPORTED
    assert {(row.exchange, row.request_id, row.tenant, row.key, row.model) for row in rows} == {
        ("e1", "r1", "acme", "abcdefghijkl", "assistant")
    }
    assert [row.upstream_model for row in rows] == ["model-a", "model-b", "model-c"]
    assert [row.price_version for row in rows] == [made.target.prices.version for made in tries]
    assert {(row.at, row.policy) for row in rows} == {(1002.0, job.caller.policy.label)}


def test_a_request_that_was_never_tried_has_row_0() -> None:
    """It was admitted, so it is in the ledger, at no price."""
    job = Play().exchange.job
    (row,) = bill.rows(job, [], exchange_id="e1", request_id="r1", outcome=O.CLIENT_GONE, wall_offset_s=0.0, now=9.0)
    assert (row.attempt, row.backend, row.upstream_model, row.price_version) == (0, "", "", "")
    assert (row.outcome, row.usage, row.charge_nano_usd, row.cost_nano_usd, row.at) == (O.CLIENT_GONE, NO_USAGE, 0, 0, 9.0)  # fmt: skip  # noqa: E501
    assert bill.charged([]) is None


def test_a_price_that_changes_while_a_request_runs_is_not_its_price() -> None:
    """It is reserved, noted and charged at what held as it began; who begins later pays what holds by then."""
    begins_at = 1001.0
    dear = Prices(input=Decimal(10), output=Decimal(10)).table("dear")
    target = dataclasses.replace(
        PLAN[0], prices=Prices(input=Decimal(1), output=Decimal(1)).table("cheap", until=begins_at, following=dear)
    )
    made = attempt(O.OK, text="hi", usage=REPORTED)
    made.target = target
    (row,) = bill.rows(
        Play().exchange.job, [made], exchange_id="e1", request_id="r1", outcome=O.OK, wall_offset_s=1000.0, now=9
    )
    assert (row.at, row.price_version.partition(":")[0], row.charge_nano_usd) == (1002.0, "cheap", 14_000)
    assert [dearest([target, PLAN[0]], wall, 10, 0) for wall in (1000.0, begins_at)] == [10_000, 100_000]

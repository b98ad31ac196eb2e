"""An answer that broke off is gone on with by another target of the same weights, where the policy says so."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.pipeline.driver import Play, World, configured, counter
from tests.pipeline.wire import DONE, PING, ROLE, ask, chunk, error, error_event, event, finish, usage_chunk


def facts(name: str, price: float, **more: Any) -> dict[str, Any]:
    """A backend's models."""
    return {"models": {f"model-{name}": {"prices": {"input": price, "output": 2 * price}, **more}}}


SAME = {"weights": "w", "accepts": ["prefill"]}


def shared(b: dict[str, Any] | None = None, *, attempts: int = 3, model: dict[str, Any] | None = None) -> PolicyBook:
    """`a` and `b` serve the same weights, `c` others."""
    places = {"a": facts("a", 1.0, **SAME), "b": facts("b", 2.0, **(b or SAME)), "c": facts("c", 4.0)}
    return configured(attempts=attempts, model={"on_midstream_failure": "continue", **(model or {})}, places=places)


BOOK = shared()
PROMPT = "Say hello."


def named(text: str, *, role: str | None = None) -> bytes:
    """A piece of `a`'s answer, which has an id."""
    delta = {"content": text} | ({} if role is None else {"role": role})
    return event({"id": "answer-a", "model": "model-a", "choices": [{"index": 0, "delta": delta}]})


def broken(world: World | None = None, body: bytes | None = None) -> Play:
    """`a` has said a part of its answer, and is gone."""
    play = Play(World(BOOK) if world is None else world, body=body)
    return play.head().data(ROLE, named("Once upon"), named(" a time")).failed(FaultKind.LOST)


def asked(play: Play) -> dict[str, Any]:
    """What the last backend was sent."""
    return json.loads(play.dispatched[-1].request.body)  # type: ignore[no-any-return]


def events(play: Play) -> list[dict[str, Any]]:
    """What the client was sent, without comments."""
    parts = [part.removeprefix(b"data: ") for part in play.body.split(b"\n\n") if part.startswith(b"data: {")]
    return [json.loads(part) for part in parts]


def test_the_rest_comes_from_the_other() -> None:
    """One text, one id, one end; the seam is told."""
    play = broken()
    assert (play.tried, play.finished) == ("ab", False)
    assert play.body.endswith(b": continued by another backend\n\n")
    play.head().data(ROLE, chunk(" there was"), chunk(" a king."), finish(), usage_chunk(), DONE)
    assert (play.text, play.done, play.error) == ("Once upon a time there was a king.", True, None)
    told = events(play)
    assert {each["id"] for each in told[1:]} == {"answer-a"}
    assert [each.get("gateway") for each in told if "gateway" in each] == [
        {"at_token": counter().count("Once upon a time"), "from": "a", "to": "b", "continued": True}
    ]
    assert play.body.count(b'"role"') == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]},
        {"choices": None, "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
    ],
    ids=["delta", "choices"],
)
def test_what_is_null_is_not_there(odd: dict[str, Any]) -> None:
    """Servers write it for what they have nothing to say of."""
    body = ask(stream_options={"include_usage": True})
    play = broken(body=body).head().data(ROLE, chunk(" there was"), event({"id": "answer-b", **odd}), finish(), DONE)
    assert (play.text, play.done, play.error) == ("Once upon a time there was", True, None)


def test_a_rest_that_cannot_be_read_is_an_honest_end() -> None:
    play = broken().head().data(ROLE, chunk(" there"), event({"choices": {"0": {"delta": {"content": " was"}}}}))
    assert (play.text, play.done, play.code) == ("Once upon a time there", False, "upstream_interrupted")


def test_the_other_is_asked_to_go_on_where_the_first_one_stopped() -> None:
    sent = asked(broken())
    assert sent["messages"] == [
        {"role": "user", "content": PROMPT},
        {"content": "Once upon a time", "role": "assistant"},
    ]
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["model"] == "model-b"


def test_it_may_say_no_more_than_is_left() -> None:
    said = counter().count("Once upon a time")
    assert asked(broken(body=ask(max_tokens=20)))["max_tokens"] == 20 - said
    assert asked(broken(body=ask(max_completion_tokens=30)))["max_completion_tokens"] == 30 - said


def test_a_piece_is_a_token_at_least() -> None:
    """Their tokenizer may cut finer than ours: `max_tokens` is theirs."""
    play = Play(World(BOOK), body=ask(max_tokens=20)).head().data(*map(named, "Once upon")).failed(FaultKind.LOST)
    assert asked(play)["max_tokens"] == 20 - len("Once upon")


def test_the_prompt_is_paid_once_and_what_was_said_is_paid() -> None:
    """Each part at its backend's price; that the second one read all of it again is our cost."""
    play = (
        broken()
        .head()
        .data(chunk(" there was a king."), finish(), usage_chunk(prompt_tokens=30, completion_tokens=6), DONE)
    )
    begun, rest = play.rows
    assert (begun.outcome, rest.outcome) == (Outcome.INTERRUPTED, Outcome.OK)
    said = counter().count("Once upon a time")
    assert (begun.usage.output_tokens, begun.usage.source) == (said, UsageSource.COUNTED)
    assert begun.charge_nano_usd == begun.cost_nano_usd > 0
    assert (rest.usage.prompt_tokens, rest.usage.output_tokens) == (30, 6)
    assert rest.charge_nano_usd == 6 * 4000
    assert rest.cost_nano_usd == 30 * 2000 + 6 * 4000
    used = play.settled[0].used
    assert (used.input_tokens, used.output_tokens) == (begun.usage.prompt_tokens, said + 6)
    assert used.nano_usd == begun.charge_nano_usd + rest.charge_nano_usd


def test_the_client_is_told_the_usage_of_the_whole() -> None:
    body = ask(stream_options={"include_usage": True})
    play = (
        broken(body=body)
        .head()
        .data(chunk(" king."), finish(), usage_chunk(prompt_tokens=30, completion_tokens=6), DONE)
    )
    usage = events(play)[-1]["usage"]
    used = play.settled[0].used
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (used.input_tokens, used.output_tokens)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"n": 2},
        {"stop": ["\n"]},
        {"continue_final_message": True},
    ],
    ids=str,
)
def test_what_is_more_than_text_is_not_gone_on_with(fields: dict[str, Any]) -> None:
    accepts = ["prefill", "tools", "json_schema", "logprobs", "stop"]
    places = {name: facts(name, 1.0, weights="w", accepts=accepts) for name in "ab"}
    book = configured(model={"on_midstream_failure": "continue"}, places=places)
    play = broken(World(book), body=ask(**fields))
    assert (play.tried, play.code, play.done) == ("a", "upstream_interrupted", False)


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "Hm."},
        {"refusal": "No."},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"content": [{"type": "text", "text": "x"}]},
    ],
    ids=str,
)
def test_an_answer_that_turned_out_to_be_more_than_text_is_not_gone_on_with(delta: dict[str, Any]) -> None:
    play = Play(World(BOOK)).head().data(event({"choices": [{"index": 0, "delta": delta}]}), chunk("Hi"))
    assert play.failed(FaultKind.LOST).tried == "a"
    assert play.code == "upstream_interrupted"


@pytest.mark.parametrize(
    "other", [{"weights": "v", "accepts": ["prefill"]}, {"weights": "w"}, {"accepts": ["prefill"]}]
)
def test_only_the_same_weights_at_one_that_takes_a_beginning_will_do(other: dict[str, Any]) -> None:
    places = {"a": facts("a", 1.0, **SAME), "b": facts("b", 1.0, **other), "c": facts("c", 1.0, **SAME)}
    book = configured(model={"on_midstream_failure": "continue"}, places=places)
    assert broken(World(book)).tried == "ac"


def test_not_when_nothing_is_left_to_say() -> None:
    play = broken(body=ask(max_tokens=counter().count("Once upon a time")))
    assert (play.tried, play.code) == ("a", "upstream_interrupted")


def test_not_when_the_requests_time_is_over() -> None:
    places = {name: facts(name, 1.0, **SAME) for name in "ab"}
    book = configured(model={"on_midstream_failure": "continue"}, places=places, timeouts={"total": 10})
    play = Play(World(book)).head().data(chunk("Hi")).wait(9.5).failed(FaultKind.LOST)
    assert (play.tried, play.code) == ("a", "upstream_interrupted")


def test_not_a_second_time() -> None:
    places = {name: facts(name, 1.0, **SAME) for name in "abc"}
    play = broken(World(configured(model={"on_midstream_failure": "continue"}, places=places)))
    play.head().data(chunk(" there")).failed(FaultKind.LOST)
    assert (play.tried, play.text, play.code) == ("ab", "Once upon a time there", "upstream_interrupted")
    assert [row.outcome for row in play.rows] == [Outcome.INTERRUPTED, Outcome.INTERRUPTED]


def test_what_the_request_itself_did_wrong_is_not_gone_on_with() -> None:
    play = Play(World(BOOK)).head().data(chunk("Hi"), error_event("content_filter", "invalid_request_error"))
    assert play.tried == "a"


def test_when_the_other_cannot_the_error_is_as_honest_as_before() -> None:
    play = broken()
    play.head(400).data(error("bad", "invalid_request_error")).ended()
    assert (play.text, play.code, play.done) == ("Once upon a time", "upstream_interrupted", False)
    begun, refused = play.rows
    assert (begun.outcome, refused.outcome) == (Outcome.INTERRUPTED, Outcome.FAILED)
    assert (begun.charge_nano_usd > 0, refused.charge_nano_usd) == (True, 0)


def test_a_stall_is_gone_on_with_too() -> None:
    play = Play(World(BOOK)).head().data(named("Once upon")).wait(15.0)
    assert (play.tried, play.aborted) == ("ab", [1])
    assert play.head().data(chunk(" a time"), finish(), DONE).done


def test_a_client_that_leaves_pays_for_what_it_had() -> None:
    play = broken().head().data(chunk(" there")).hang_up()
    begun, rest = play.rows
    assert (begun.outcome, rest.outcome) == (Outcome.INTERRUPTED, Outcome.CLIENT_GONE)
    assert rest.charge_nano_usd == counter().count(" there") * 4000


def test_pings_pass_and_the_waits_are_those_of_any_stream() -> None:
    play = broken().head().data(PING)
    assert PING in play.body
    assert play.wait(20.0).code == "upstream_timeout"


def test_without_the_policys_word_it_ends_with_an_error() -> None:
    places = {name: facts(name, 1.0, **SAME) for name in "ab"}
    assert broken(World(configured(places=places))).code == "upstream_interrupted"


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), begun=st.integers(1, 6), rest=st.integers(0, 6))
def test_whatever_is_cut_where_the_client_has_the_beginning_of_one_text(seed: int, begun: int, rest: int) -> None:
    """One ending, settled once, what was said is paid once, and nothing is left in flight."""
    random, words = (
        Random(seed),
        ["Once", " upon", " a", " time", " there", " was", " a", " king", " who", " had", " a", "!"],
    )
    world = World(BOOK)
    play = Play(world).head().data(*map(named, words[:begun])).failed(FaultKind.LOST)
    assert play.tried == "ab"
    data = b"".join((ROLE, *map(chunk, words[begun : begun + rest]), finish(), usage_chunk(), DONE))
    data = data[: random.randrange(len(data) + 1)]
    cut = random.randrange(len(data) + 1)
    play.head().data(data[:cut], data[cut:])
    if not play.finished:
        random.choice([play.ended, lambda: play.failed(FaultKind.LOST), play.hang_up, play.shut_down])()
    assert play.finished
    assert len(play.settled) == 1
    assert "".join(words).startswith(play.text)
    assert play.text.startswith("".join(words[:begun]))
    assert play.done is (play.exchange.outcome is Outcome.OK and play.error is None and play.body.endswith(DONE))
    assert play.outstanding == 0
    assert sum(row.charge_nano_usd for row in play.rows) == play.settled[0].used.nano_usd
    targets = BOOK.policies["standard"].routes["assistant"].leaves
    assert not any(each.in_flight for each in world.house.fleet.view(targets, world.now).standings.values())

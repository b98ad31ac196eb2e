import re
from pathlib import Path

import msgspec
import pytest

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage, UsageSource
from gateway.telemetry import semconv
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.spans import Span, spans_of
from tests.telemetry import records

RECORDS = [records.succeeded, records.failed_over, records.limited, records.hung_up, records.broken_off]


def by_name(record: RequestRecord, name: str) -> Span:
    (found,) = [span for span in spans_of(record) if span.name == name]
    return found


def test_a_served_request_shows_each_step_in_order() -> None:
    """The tree of a request that the first backend served."""
    assert [(span.kind, span.name) for span in spans_of(records.succeeded(None))] == [
        ("server", "POST /v1/chat/completions"),
        ("internal", "policy.decide"),
        ("internal", "admission.reserve"),
        ("client", "chat gpt-1"),
        ("internal", "admission.reconcile"),
    ]


def test_the_root_carries_what_people_search_for() -> None:
    """Who asked, for what, how it ended, who served it and what it cost."""
    context = records.trace()
    root = spans_of(records.succeeded(context))[0]
    assert root.span_id == context.span_id
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "user_agent.original": "OpenAI/Python 3.51",
        "gateway.request.id": "req-12345678",
        "gateway.tenant": "acme",
        "gateway.key.id": "k1",
        "gateway.request.model": "assistant",
        "gateway.stream": True,
        "gateway.outcome": "ok",
        "gateway.attempts": 1,
        "gateway.served_by": "backend-1",
        "gateway.ttft_s": 0.05,
        "gateway.overhead_ms": pytest.approx(4.0),
        "gateway.cost.usd": 1.5e-6,
        "gateway.usage.total_tokens": 135,
    }


def test_the_decision_shows_candidates_by_rank_and_why_others_were_left() -> None:
    assert by_name(records.succeeded(None), "policy.decide").attributes == {
        "gateway.policy.id": "standard",
        "gateway.policy.version": "3",
        "gateway.route": "assistant",
        "gateway.strategy": "priority",
        "gateway.decision.id": "d-1",
        "gateway.candidates": ["backend-1/gpt-1", "backend-2/gpt-2"],
        "gateway.excluded": ["eu-1/gpt-3:context"],
    }


def test_a_decision_in_panic_says_so() -> None:
    """All breakers were open; otherwise the attribute is absent."""
    record = records.succeeded(None)
    assert record.routing is not None
    record.routing.decision = msgspec.structs.replace(record.routing.decision, panics=True)
    assert by_name(record, "policy.decide").attributes["gateway.panics"] is True


def test_an_answered_attempt_is_a_genai_client_span() -> None:
    """Input tokens include cached ones, output tokens include reasoning, as the GenAI conventions demand."""
    attributes = by_name(records.succeeded(None), "chat gpt-1").attributes
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-1",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": "chatcmpl-9",
        "gen_ai.response.model": "gpt-x-2026",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.04),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 35,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.cache_creation.input_tokens": 10,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": 8091,
        "peer.service": "backend-1",
        "service.peer.name": "backend-1",
        "http.response.status_code": 200,
        "gateway.attempt.number": 1,
        "gateway.attempt.reason": "initial",
        "gateway.attempt.backend": "backend-1",
        "gateway.attempt.bytes_forwarded": True,
        "gateway.usage.source": "provider",
        "gateway.cost.usd": 1.5e-6,
        "gateway.cost.source": "price_table",
    }


def test_the_opt_in_changes_the_spelling_of_cache_writes() -> None:
    (attempt,) = [span for span in spans_of(records.succeeded(None), latest_semconv=True) if span.kind == "client"]
    assert attempt.attributes["gen_ai.usage.cache_write.input_tokens"] == 10
    assert "gen_ai.usage.cache_creation.input_tokens" not in attempt.attributes


def test_a_failed_attempt_tells_its_fault_and_what_was_done() -> None:
    first = by_name(records.failed_over(None), "chat gpt-1")
    assert first.is_error
    assert first.attributes["error.type"] == "503"
    assert first.attributes["http.response.status_code"] == 503
    assert first.attributes["gateway.attempt.retryable"] is True
    assert first.attributes["gateway.attempt.decision"] == "failover"
    assert first.attributes["gateway.attempt.retry_after_s"] == 2.0
    assert first.attributes["gateway.attempt.bytes_forwarded"] is False


def test_a_request_rescued_by_failover_is_no_error() -> None:
    root, *_, second, _ = spans_of(records.failed_over(None))
    assert not root.is_error
    assert root.attributes["gateway.served_by"] == "backend-2"
    assert not second.is_error
    assert second.attributes["gateway.attempt.reason"] == "failover"


def test_a_denied_request_is_no_error_of_the_server_and_shows_the_limit() -> None:
    """A 429 that we return leaves the status unset, as the HTTP conventions say for 4xx."""
    record = records.limited(None)
    root = spans_of(record)[0]
    assert not root.is_error
    assert "error.type" not in root.attributes
    assert root.attributes["gateway.error.code"] == "rate_limit_exceeded"
    assert by_name(record, "admission.reserve").attributes == {
        "gateway.ratelimit.decision": "denied",
        "gateway.ratelimit.dimension": "tokens",
        "gateway.ratelimit.retry_after_s": 1.5,
        "gateway.ratelimit.reserved_tokens": 0,
        "gateway.ratelimit.estimate.prompt": 110,
        "gateway.ratelimit.estimate.output": 64,
    }


def test_a_client_that_left_cancels_the_attempt_without_an_error() -> None:
    record = records.hung_up(None)
    root = spans_of(record)[0]
    attempt = by_name(record, "chat gpt-1")
    assert not root.is_error
    assert root.attributes["gateway.outcome"] == "client_gone"
    assert not attempt.is_error
    assert attempt.attributes["error.type"] == "cancelled"
    assert attempt.ended == record.ended
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 3


def test_an_answer_that_broke_off_is_an_error_with_finish_reason_error() -> None:
    record = records.broken_off(None)
    root = spans_of(record)[0]
    attempt = by_name(record, "chat gpt-1")
    assert root.is_error
    assert root.attributes["error.type"] == "upstream_interrupted"
    assert attempt.is_error
    assert attempt.attributes["error.type"] == "truncated"
    assert attempt.attributes["gen_ai.response.finish_reasons"] == ["error"]


@pytest.mark.parametrize(("status", "is_error"), [(400, False), (404, False), (499, False), (500, True), (503, True)])
def test_only_our_5xx_are_errors_of_the_server(status: int, is_error: bool) -> None:
    record = records.limited(None)
    record.status, record.error_code = status, None
    root = spans_of(record)[0]
    assert root.is_error is is_error
    assert root.attributes.get("error.type") == (str(status) if is_error else None)


def test_a_backends_own_error_code_is_not_told() -> None:
    """`gateway.error.code` and `error.type` are closed lists: a backend could put anything into its code."""
    record = records.limited(None)
    record.status, record.error_code = 400, "canary-from-a-backend"
    assert spans_of(record)[0].attributes["gateway.error.code"] == "_OTHER"


def test_an_estimate_is_not_told_as_usage() -> None:
    """No token counts at all when nobody counted tokens."""
    record = records.succeeded(None)
    record.attempts[0].usage = Usage(input_tokens=100, source=UsageSource.ESTIMATED)
    attributes = by_name(record, "chat gpt-1").attributes
    assert not [name for name in attributes if name.startswith("gen_ai.usage")]
    assert attributes["gateway.cost.source"] == "estimated"


def test_settlement_shows_how_far_the_estimate_was_off() -> None:
    assert by_name(records.succeeded(None), "admission.reconcile").attributes == {
        "gateway.ratelimit.reserved_tokens": 174,
        "gateway.ratelimit.actual_tokens": 135,
        "gateway.ratelimit.delta_tokens": -39,
        "gateway.usage.source": "provider",
    }


@pytest.mark.parametrize("make", RECORDS, ids=lambda make: make.__name__)
def test_genai_attributes_stand_on_attempts_only(make: records.Maker) -> None:
    """Any `gen_ai.` attribute makes Jaeger show a span as a model call."""
    for span in spans_of(make(None)):
        names = [name for name in span.attributes if name.startswith("gen_ai.")]
        assert bool(names) is (span.kind == "client")


@pytest.mark.parametrize("kind", FaultKind)
def test_every_fault_has_an_error_type_of_the_closed_list(kind: FaultKind) -> None:
    """The type is the status or the kind, never a backend's message."""
    record = records.failed_over(None)
    record.attempts[0] = records.attempt(failed=Fault(kind=kind, message="canary", code="canary"))
    span = by_name(record, "chat gpt-1")
    assert span.attributes["error.type"] == kind.value
    assert "canary" not in repr(span)


def test_strings_that_others_choose_are_cleaned() -> None:
    """A model name, user agent, path or response id can neither break a batch nor carry a pasted key."""
    hostile = "\ud800\n" + "sk-CANARYCANARYCANARY" + "x" * 10_000
    record = msgspec.structs.replace(records.succeeded(None), model=hostile, user_agent=hostile, path=hostile)
    record.attempts[0].response_id = record.attempts[0].response_model = hostile
    record.attempts[0].finish_reasons = (hostile,)
    told = repr([span.attributes for span in spans_of(record)])
    assert told.encode()
    assert "CANARY" not in told
    assert "x" * 300 not in told


def test_every_code_of_ours_is_on_the_list() -> None:
    """Else its errors are told as somebody else's."""
    sources = (path.read_text("utf-8") for path in (Path(__file__).parents[2] / "gateway").rglob("*.py"))
    found = {code for source in sources for code in re.findall(r'\bcode(?:: [\w\[\]]+)? ?= ?"([a-z_]+)"', source)}
    assert found <= semconv.ERROR_CODES, found - semconv.ERROR_CODES

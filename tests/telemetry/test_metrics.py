"""Counts and histograms of finished requests, and what Prometheus reads of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.plan import Decision, Displaced
from gateway.domain.usage import Usage, UsageSource
from gateway.telemetry.exposition import exposition
from gateway.telemetry.families import Gauge, families
from gateway.telemetry.metrics import Budgets, Metrics, Tenants
from gateway.telemetry.record import AttemptRecord, BudgetUse, RequestRecord, ReservationRecord, RoutingRecord
from gateway.telemetry.series import MOST_SERIES, Counter, Histogram


def attempt(backend: str, **more: Any) -> AttemptRecord:
    made: dict[str, Any] = {
        "number": 1,
        "reason": "initial",
        "backend": backend,
        "model": "small",
        "provider": "openai",
        "operation": "chat",
        "started": 10.0,
        "ended": 11.0,
    }
    return AttemptRecord(**made | more)


def record(*attempts: AttemptRecord, **more: Any) -> RequestRecord:
    made: dict[str, Any] = {
        "request_id": "r",
        "method": "POST",
        "route": "/v1/chat/completions",
        "started": 10.0,
        "wall_started": 0.0,
        "ended": 12.0,
        "status": 200,
        "attempts": list(attempts),
    }
    return RequestRecord(**made | more)


def read(metrics: Metrics, *gauges: Gauge) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, as Prometheus' own parser reads it."""
    text = exposition(families(metrics, gauges)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


DOLLAR = "-".join(["3b9aca00"] * 4)
"""A price of one dollar for a million tokens of any kind."""


def test_what_caps_and_floors_give_up_is_counted_by_what_was_used() -> None:
    """At the prices of both places; a failover has a price of its own."""
    metrics = Metrics()

    def note(cost: int, *, had_cache: bool = False, tries: int = 1) -> None:
        displaced = Displaced("cheap/small", DOLLAR, had_cache=had_cache)
        decision = Decision("d", "assistant", "gold@1", "cost", 1, (), displaced=displaced)
        usage = Usage(input_tokens=100, output_tokens=20)
        attempts = [attempt("dear", usage=usage, cost_nano_usd=cost)] * tries
        routing = RoutingRecord(decision=decision, started=10.0, ended=10.0)
        metrics.note(record(*attempts, model="assistant", routing=routing, usage=usage, cost_nano_usd=cost))

    note(200_000)
    note(320_000, had_cache=True)
    note(20_000)
    note(120_000)
    note(900_000, had_cache=True, tries=2)
    samples = read(metrics)
    assert value(samples, "gateway_displaced_total", model="assistant", target="cheap/small") == 5
    assert value(samples, "gateway_displaced_usd_total", model="assistant", way="more") == pytest.approx(280e-6)
    assert value(samples, "gateway_displaced_usd_total", model="assistant", way="less") == pytest.approx(100e-6)
    assert value(samples, "gateway_displaced_cache_tokens_total", model="assistant") == 100


def test_a_request_that_failed_over() -> None:
    """Each try under its backend, the way from one to the other, and what was spent."""
    metrics = Metrics()
    fault = Fault(kind=FaultKind.SERVER_ERROR, message="x")
    usage = Usage(input_tokens=100, output_tokens=20)
    metrics.note(
        record(
            attempt("first", fault=fault),
            attempt("second", number=2, reason="failover", usage=usage, cost_nano_usd=5_000, first_content_at=10.2),
            overhead_s=0.002,
            queued_s=0.3,
            stream=True,
        )
    )
    samples = read(metrics)
    route = "/v1/chat/completions"
    assert value(samples, "gateway_requests_total", route=route, outcome="ok", status="200", code="") == 1
    assert value(samples, "gateway_failovers_total", fault="server_error", to="second", **{"from": "first"}) == 1
    tries = {"model": "small", "backend": "second", "reason": "failover", "fault": ""}
    assert value(samples, "gateway_attempts_total", **tries) == 1
    assert value(samples, "gateway_cost_usd_total", backend="second", model="small") == pytest.approx(5e-6)
    assert value(samples, "gateway_overhead_seconds_count", route=route) == 1
    waits = {labels: each for (name, labels), each in samples.items() if name == "gateway_queue_wait_seconds_sum"}
    assert list(waits.values()) == [0.3]
    target = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "small"}
    assert value(samples, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **target) == 100
    assert value(samples, "gen_ai_client_token_usage_bucket", gen_ai_token_type="output", le="64.0", **target) == 1
    assert value(samples, "gen_ai_client_token_usage_bucket", gen_ai_token_type="output", le="16.0", **target) == 0
    first = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert value(samples, f"{first}_sum", **target) == pytest.approx(0.2)
    pace = "gen_ai_server_time_per_output_token_seconds_sum"
    assert value(samples, pace, **target) == pytest.approx(0.8 / 19)
    failed = "gen_ai_client_operation_duration_seconds_count"
    assert value(samples, failed, error_type="server_error", **target) == 1
    assert value(samples, failed, error_type="", **target) == 1


def test_an_answer_in_one_piece_has_no_first_chunk() -> None:
    """Nor a pace: its content came all at once."""
    metrics = Metrics()
    metrics.note(record(attempt("a", usage=Usage(input_tokens=1, output_tokens=9), first_content_at=10.9)))
    assert metrics.first_tokens.tallies == metrics.paces.tallies == {}


def test_tenants_are_told_of_where_an_operator_wants_it() -> None:
    """So many of them by name, others together; otherwise none."""
    metrics = Metrics(tenants=2)
    usage = Usage(input_tokens=3, output_tokens=4)
    for tenant in ("acme", "beta", "gamma", "delta", "acme", None):
        metrics.note(record(tenant=tenant, usage=usage, cost_nano_usd=2_000, ttft_s=0.2))
    samples = read(metrics)
    counts = {name: value(samples, "gateway_tenant_requests_total", tenant=name, outcome="ok") for name in NAMED}
    assert counts == {"acme": 2, "beta": 1, "_OTHER": 2}
    assert value(samples, "gateway_tenant_tokens_total", tenant="acme", type="output") == 8
    assert value(samples, "gateway_tenant_cost_usd_total", tenant="acme") == pytest.approx(4e-6)
    assert value(samples, "gateway_tenant_first_token_seconds_count", tenant="acme") == 2
    assert not any("tenant" in name for name, _ in read(Metrics()))


NAMED = ("acme", "beta", "_OTHER")


def test_the_fullest_budget_of_a_tenant_is_told_until_its_period_ends() -> None:
    metrics = Metrics()
    for key, ratio, until in (("k1", 0.95, 100.0), ("k2", 0.2, 100.0), ("k3", 1.0, 50.0)):
        use = ReservationRecord(decision="admitted", started=0, ended=0, budget=BudgetUse(ratio, until))
        metrics.note(record(tenant="acme", key_id=key, reservation=use))
    assert metrics.budgets.used(20.0) == {"acme": 1.0}
    assert metrics.budgets.used(60.0) == {"acme": 0.95}
    assert metrics.budgets.used(200.0) == {}


def test_budgets_and_named_tenants_are_bounded() -> None:
    budgets, tenants = Budgets(), Tenants(3)
    for number in range(MOST_SERIES + 50):
        budgets.note((str(number), "", ""), BudgetUse(0.5, 1.0))
        tenants.note(record(tenant=str(number)))
    assert len(budgets.used(0.0)) == MOST_SERIES
    assert len(tenants.requests.values) == 4


@pytest.mark.parametrize("source", [UsageSource.ESTIMATED, UsageSource.REAPER])
def test_an_estimate_is_no_measurement(source: UsageSource) -> None:
    """Only what was reported or counted is told as usage."""
    metrics = Metrics()
    metrics.note(record(attempt("a", usage=Usage(input_tokens=9, source=source))))
    assert metrics.tokens.tallies == {}


def test_who_counted_is_told_for_each_backend() -> None:
    """So that reports which cannot be true stand out."""
    metrics = Metrics()
    for source in (UsageSource.PROVIDER, UsageSource.PROVIDER, UsageSource.SUSPECT):
        metrics.note(record(attempt("a", usage=Usage(input_tokens=1, source=source))))
    samples = read(metrics)
    assert value(samples, "gateway_usage_reports_total", backend="a", model="small", source="provider") == 2
    assert value(samples, "gateway_usage_reports_total", backend="a", model="small", source="suspect") == 1


def test_a_refusal_by_a_limit() -> None:
    """Which kind of limit; nothing of who was refused."""
    metrics = Metrics()
    denied = ReservationRecord(decision="denied", started=0, ended=0, dimension="tokens")
    metrics.note(record(status=429, outcome="rejected", reservation=denied, tenant="acme"))
    text = exposition(families(metrics, ())).decode()
    assert 'gateway_ratelimit_denials_total{dimension="tokens"} 1.0' in text
    assert "acme" not in text


def test_only_a_store_that_takes_time_is_timed() -> None:
    """What is kept in the process answers at once, and a histogram of zeros would say nothing."""
    metrics = Metrics()
    for ended in (5.0, 5.002):
        metrics.note(record(reservation=ReservationRecord(decision="admitted", started=5.0, ended=ended)))
    assert [sum(tally.counts) for tally in metrics.reserving.tallies.values()] == [1]


@given(values=st.lists(st.floats(0, 200), max_size=50))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    """In the first bound that is not below it."""
    bounds = (0.5, 1.0, 100.0)
    histogram = Histogram(bounds)
    for each in values:
        histogram.observe((), each)
    between = zip((-1, *bounds), (*bounds, 1e9), strict=True)
    expected = [sum(low < each <= high for each in values) for low, high in between]
    tally = histogram.tallies.get(())
    assert (tally.counts if tally else [0] * 4) == expected


def test_labels_are_bounded() -> None:
    """What is new beyond the bound is counted under one name; what was known stays."""
    counter, histogram = Counter(), Histogram((1.0,))
    for number in range(MOST_SERIES + 50):
        counter.add((str(number), "x"))
        histogram.observe((str(number),), 0.5)
    counter.add(("0", "x"))
    assert len(counter.values) == len(histogram.tallies) == MOST_SERIES + 1
    assert counter.values["_OTHER", "_OTHER"] == 50
    assert counter.values["0", "x"] == 2


def test_how_things_stand_is_told_under_one_name() -> None:
    """Gauges of one family stand together."""
    gauges: list[Gauge] = [
        Gauge("g", "A gauge.", {"a": "1"}, 1.0),
        Gauge("h", "", {}, 3.0),
        Gauge("g", "", {"a": "2"}, 2.0),
    ]
    samples = read(Metrics(), *gauges)
    assert (value(samples, "g", a="1"), value(samples, "g", a="2"), value(samples, "h")) == (1, 2, 3)

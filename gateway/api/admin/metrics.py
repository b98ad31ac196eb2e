"""`/metrics`: for Prometheus, on the admin port, without a key like the health paths: no tenant is named in it.

Each gateway tells of itself. With several on one machine, each has an admin port of its own.
"""

from collections.abc import Iterator
from typing import Final

from litestar import Response, get

from gateway.api.admin.office import AdminRequest, Office, office
from gateway.telemetry.exposition import CONTENT_TYPE, Gauge, exposition

_BREAKERS: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


@get("/metrics", sync_to_thread=False)
def get_metrics(request: AdminRequest) -> Response[bytes]:
    """What requests added up to, and how things stand."""
    made = office(request)
    now = request.app.state.clock()
    return Response(exposition(made.metrics, lambda: gauges(made, now)), media_type=CONTENT_TYPE)


def gauges(made: Office, now: float) -> Iterator[Gauge]:
    """How things stand."""
    machinery = made.machinery
    yield "gateway_requests_in_flight", "Requests that are not over.", {}, len(machinery.live)
    yield "gateway_ledger_pending", "Batches that wait to be written.", {}, machinery.journal.queued
    yield "gateway_ledger_healthy", "1 while the ledger can be written.", {}, float(machinery.journal.healthy)
    yield (
        "gateway_limits_store_healthy",
        "1 while limits are taken where they are kept.",
        {},
        float(machinery.limiter.trouble() is None),
    )
    for name, value in machinery.limiter.counted().items():
        yield (
            "gateway_limits_events",
            "What happened between this gateway and the store of limits.",
            {"event": name},
            value,
        )
    yield (
        "gateway_telemetry_dropped",
        "Spans and log lines that were not kept.",
        {"signal": "traces"},
        machinery.house.tracing.dropped,
    )
    yield "gateway_telemetry_dropped", "", {"signal": "logs"}, made.log_lines_dropped()
    yield "gateway_telemetry_dropped", "", {"signal": "decisions"}, made.recorder.lost
    yield "gateway_reservations", "Reservations that are not settled.", {}, machinery.limiter.outstanding(now)
    yield "gateway_config_seq", "The last change of the configuration that holds here.", {}, made.desk.now.state.seq
    yield "gateway_config_followed", "1 while changes can be followed.", {}, float(made.desk.trouble is None)
    for sight in machinery.house.fleet.sights(now):
        place = {"backend": sight.backend, "model": sight.model}
        yield "gateway_backend_state", "0 closed, 1 half-open, 2 open.", place, _BREAKERS[sight.breaker]
        yield "gateway_backend_available", "1 while it may be tried.", place, float(sight.barred is None)
        yield "gateway_backend_wait_seconds", "Until it may be tried again, as far as known.", place, sight.wait_s
        yield "gateway_backend_in_flight", "Tries that it works on.", place, sight.in_flight
        yield (
            "gateway_backend_hinted",
            "1 while another gateway's word keeps requests from it.",
            place,
            float(sight.is_hinted),
        )
        yield "gateway_backend_limit", "Tries at once that it is taken to bear.", place, sight.limit


HANDLERS = [get_metrics]

"""`/metrics`: for Prometheus, on the admin port, without a key like the health paths.

No tenant is named in it, unless the operator wants that (GATEWAY_METRICS_TENANTS).
Each gateway tells of itself, of all its workers together. With several gateways on one machine, each has an admin port
of its own.
"""

from collections.abc import Iterator
from typing import Final

from litestar import Response, get

from gateway.api.admin.office import AdminRequest, Office, office
from gateway.control.independence import UNLABELLED
from gateway.domain.policy import PRIORITIES
from gateway.telemetry.exposition import CONTENT_TYPE, exposition, of_process
from gateway.telemetry.families import Family, Gauge, families

_NEVER_S: Final = 7 * 86_400.0
"""What is told of a provider that never answered: as long as one looks back."""
_BREAKERS: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


@get("/metrics")
async def get_metrics(request: AdminRequest) -> Response[bytes]:
    """What requests added up to, and how things stand."""
    made = office(request)
    own = measured(made, request.app.state.clock())
    together = own if made.workers is None else await made.workers.together(own)
    return Response(exposition(together), media_type=CONTENT_TYPE)


def measured(made: Office, now: float) -> list[Family]:
    """What this process measured, and what it takes."""
    return [*families(made.metrics, gauges(made, now)), *of_process()]


def gauges(made: Office, now: float) -> Iterator[Gauge]:
    """How things stand."""
    machinery = made.machinery
    yield Gauge("gateway.workers", "Processes of this gateway that answer.", {}, 1)
    yield Gauge("gateway.requests.in_flight", "Requests that are not over.", {}, len(machinery.live))
    yield Gauge("gateway.connections", "Connections of clients.", {}, machinery.doors.open)
    yield Gauge("gateway.connections.turned_away", "Those that found no place.", {}, machinery.doors.turned_away)
    yield Gauge("gateway.queue.depth", "Requests that wait for their turn.", {}, machinery.house.lobby.depth)
    pressure = machinery.house.lobby.pressure
    for rank, priority in enumerate(PRIORITIES):
        meaning = "1 while requests of this class are refused, for the loop's or the memory's sake."
        yield Gauge("gateway.shedding", meaning, {"priority": priority}, float(rank >= pressure.shed_from), over="max")
    yield from _of_books(made)
    yield Gauge(
        "gateway.limits.store.healthy",
        "1 while limits are taken where they are kept.",
        {},
        float(machinery.limiter.trouble() is None),
        over="min",
    )
    for name, value in machinery.limiter.counted().items():
        if name == "gateways" and made.workers is not None and not made.workers.is_first:
            continue  # All see the same ones.
        meaning = "What happened between this gateway and the store of limits."
        yield Gauge("gateway.limits.events", meaning, {"event": name}, value)
    yield Gauge("gateway.reservations", "Reservations that are not settled.", {}, machinery.limiter.outstanding(now))
    for tenant, ratio in _budgets(made, now).items():
        meaning = "Used part of the fullest budget, of a tenant where tenants are named."
        yield Gauge("gateway.budget.used_ratio", meaning, {"tenant": tenant}, ratio, over="max")
    lost = {
        "traces": machinery.house.tracing.dropped,
        "logs": made.log_lines_dropped(),
        "decisions": made.recorder.lost,
        "metrics": made.reports_dropped(),
    }
    for signal, count in lost.items():
        meaning = "Spans, log lines and the like that were not kept."
        yield Gauge("gateway.telemetry.dropped", meaning, {"signal": signal}, count)
    seq, trouble = made.desk.now.state.seq, made.desk.trouble
    yield Gauge("gateway.config.seq", "The last change of the configuration that holds here.", {}, seq, over="min")
    yield Gauge("gateway.config.followed", "1 while changes can be followed.", {}, float(trouble is None), over="min")
    meaning = "1 while a drill strikes calls of this gateway."
    yield Gauge("gateway.drill.running", meaning, {}, float(made.drills.is_running), over="max")
    yield from _of_independence(made)
    yield from _of_backends(made, now)


def _of_books(made: Office) -> Iterator[Gauge]:
    journal = made.machinery.journal
    yield Gauge("gateway.ledger.pending", "Rows that wait to be written.", {}, journal.queued)
    yield Gauge("gateway.ledger.healthy", "1 while the ledger can be written.", {}, float(journal.healthy), over="min")
    yield Gauge("gateway.ledger.lag", "How long the oldest row waits for the disk.", {}, journal.lag_s, "s", "max")
    if made.ship_lag_s is not None:
        meaning = "Since the fleet's totals had all rows of this ledger."
        yield Gauge("gateway.ledger.ship_lag", meaning, {}, made.ship_lag_s(), "s", "max")


def _of_independence(made: Office) -> Iterator[Gauge]:
    """Of all gateways together, as this one knows it; of one alone where there is no Redis."""
    glance = made.outlook.glance
    for of in glance.concentration:
        if [share.value for share in of.shares] == [UNLABELLED]:
            continue  # Nobody said what fails together: that says nothing of what does.
        domain: dict[str, str] = {"dimension": of.dimension}
        meaning = "Sum of the squared shares of tokens in the last hour: 1 when everything goes to one place."
        yield Gauge("gateway.concentration.index", meaning, domain, of.index, over="max")
        for share in of.shares:
            meaning = "Part of the tokens of the last hour."
            yield Gauge(
                "gateway.concentration.share", meaning, {**domain, "value": share.value}, share.share, over="max"
            )
    for each in glance.remaining:
        if each.n_minus_1 is not None:
            meaning = "What is left without the largest failure domain, over what is usually asked for; at least 1."
            labels = {"model": each.model, "dimension": each.dimension}
            yield Gauge("gateway.n_minus_1", meaning, labels, each.n_minus_1, over="min")
    for provider, age_s in _ages(made).items():
        meaning = "Since the provider's last good answer to anybody, of a week."
        yield Gauge("gateway.standby.age", meaning, {"provider": provider}, age_s, "s", "max")
    for rehearsal in made.outlook.rehearsals:
        lost: dict[str, str] = {
            "policy": rehearsal.policy,
            "dimension": rehearsal.dimension,
            "lost": rehearsal.without,  # Not `without`, which is a word of PromQL's own.
        }
        meaning = "Part of this gateway's requests of the last day's busiest hour that would be served without it."
        yield Gauge("gateway.rehearsal.served_ratio", meaning, lost, rehearsal.served_share, over="min")
    yield from _of_tenants(made)


def _of_tenants(made: Office) -> Iterator[Gauge]:
    """Of tenants that an outage would not leave served in full, where tenants are named."""
    tenants = made.metrics.tenants
    if tenants is None:
        return
    found: dict[tuple[str, str, str], float] = {}
    for rehearsal in made.outlook.rehearsals:
        for each in rehearsal.tenants:
            key = (tenants.name(each.tenant), rehearsal.dimension, rehearsal.without)
            found[key] = min(each.served_share, found.get(key, 1.0))
    for (tenant, dimension, lost), share in found.items():
        meaning = "The same of a tenant, where it is less than all."
        labels = {"tenant": tenant, "dimension": dimension, "lost": lost}
        yield Gauge("gateway.rehearsal.tenant.served_ratio", meaning, labels, share, over="min")


def _ages(made: Office) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in made.outlook.glance.standby:
        age_s = _NEVER_S if each.age_s is None else each.age_s
        found[each.provider] = min(age_s, found.get(each.provider, _NEVER_S))
    return found


def _budgets(made: Office, now: float) -> dict[str, float]:
    """By the tenant's name in labels; where none is named there is one figure for all."""
    tenants = made.metrics.tenants
    found: dict[str, float] = {}
    for tenant, ratio in made.metrics.budgets.used(now).items():
        name = "" if tenants is None else tenants.name(tenant)
        found[name] = max(ratio, found.get(name, 0.0))
    return found


def _of_backends(made: Office, now: float) -> Iterator[Gauge]:
    for sight in made.machinery.house.fleet.sights(now):
        place = {"backend": sight.backend, "model": sight.model}
        yield Gauge(
            "gateway.backend.state", "0 closed, 1 half-open, 2 open.", place, _BREAKERS[sight.breaker], over="max"
        )
        yield Gauge(
            "gateway.backend.available", "1 while it may be tried.", place, float(sight.barred is None), over="min"
        )
        yield Gauge(
            "gateway.backend.wait", "Until it may be tried again, as far as known.", place, sight.wait_s, "s", "max"
        )
        yield Gauge("gateway.backend.in_flight", "Tries that it works on.", place, sight.in_flight)
        meaning = "1 while another gateway's word keeps requests from it."
        yield Gauge("gateway.backend.hinted", meaning, place, float(sight.is_hinted), over="max")
        yield Gauge("gateway.backend.limit", "Tries at once that it is taken to bear.", place, sight.limit)


HANDLERS = [get_metrics]

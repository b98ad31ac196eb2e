"""Whether what stands by works today, and what is asked to find out."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from gateway.config.policies import PolicyBook
from gateway.config.yaml_file import Tree
from gateway.control.standby import Errand, Place, Standby, Success, errands, latest, standbys
from gateway.domain.tenant import PROBER
from tests.control.domains import Labels, domains_book

NOW = 1_000_000.0


PROVIDERS: dict[str, Labels] = {"first": {}, "second": {}, "idle": {}}


def book(probes: Mapping[str, Tree] | None = MappingProxyType({"after": "15m"})) -> PolicyBook:
    """Three providers, two of them for the tenant's model."""
    independence: Tree = {} if probes is None else {"probes": dict(probes)}
    limits = {name: {"concurrency": 5} for name in PROVIDERS}
    models = {"assistant": ["first", "second"]}
    return domains_book(PROVIDERS, models, limits=limits, policy="careful", independence=independence)


def told(made: PolicyBook, *successes: Success, places: Mapping[str, list[Place]] | None = None) -> dict[str, Standby]:
    return {each.provider: each for each in standbys(made, latest(successes), places or {}, NOW)}


@pytest.mark.parametrize(
    ("success", "state", "by"),
    [
        (None, "never", None),
        (Success("acme", "second", NOW - 60), "ready", "traffic"),
        (Success(PROBER, "second", NOW - 1_300), "ready", "probe"),
        (Success(PROBER, "second", NOW - 1_400), "stale", "probe"),
        (Success("zeta", "second", NOW), "never", None),
        (Success("acme", "idle", NOW), "never", None),
    ],
)
def test_a_provider_is_ready_when_it_lately_answered(success: Success | None, state: str, by: str | None) -> None:
    """The tenant, or the gateway itself; not somebody else, and nobody that the tenant has no way to."""
    found = told(book(), *([] if success is None else [success]))
    assert [*found] == ["first", "second"]
    assert (found["second"].state, found["second"].by) == (state, by)
    assert found["first"].state == "never"


def test_what_may_not_be_tried_is_out_however_well_it_was() -> None:
    """On all gateways; where one of them may, it is not. Room is what all of them leave."""
    success = Success("acme", "first", NOW - 1, 250.0, 40.0)
    out, well = Place("first/m", 1, 4.0, is_out=True), Place("first/m", 2, 3.0, is_out=False)
    made = book()
    assert told(made, success, places={"first/m": [out]})["first"].state == "out"
    found = told(made, success, places={"first/m": [out, well]})["first"]
    assert (found.state, found.took_ms, found.ttft_ms) == ("ready", 250.0, 40.0)
    assert (found.bears, found.free) == (5.0, 2.0)


def test_of_two_that_know_the_same_answer_the_one_that_knows_more_counts() -> None:
    """And the later answer before both."""
    one, more = Success("acme", "first", NOW), Success("acme", "first", NOW, 12.0)
    later = Success("acme", "first", NOW + 1)
    assert latest([one], [more]) == latest([more], [one]) == {("acme", "first"): more}
    assert latest([more], [later]) == {("acme", "first"): later}


def due(made: PolicyBook, *successes: Success, tried: float | None = None, spent: int = 0) -> list[str]:
    asked = {} if tried is None else {"first": tried, "second": tried}
    found: list[Errand] = [*errands(made, latest(successes), asked, {"assistant": spent}, NOW)]
    return [each.target.name for each in found]


def test_what_traffic_does_not_reach_is_asked() -> None:
    """When nobody's request had a good answer for so long, and it was not asked meanwhile; never beyond the budget."""
    made = book({"after": "15m", "usd_per_day": 0.5})
    assert due(made) == ["first/m", "second/m"]
    assert due(made, Success("zeta", "first", NOW - 800)) == ["second/m"]
    assert due(made, Success("zeta", "first", NOW - 901)) == ["first/m", "second/m"]
    assert due(made, tried=NOW - 60) == []
    assert due(made, spent=499_999_999) == ["first/m", "second/m"]
    assert due(made, spent=500_000_000) == []
    assert due(book(None)) == []

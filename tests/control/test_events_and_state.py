"""The log of changes: a chain that shows every tampering, and the state that it amounts to."""

import msgspec
import pytest

from gateway.control.desk import raw
from gateway.control.events import FIRST, Action, ChainBroken, Event, chained, decode, encode, follow
from gateway.control.state import State, after, digest_of

POLICY: dict[str, object] = {"models": {"m": {"targets": []}}}


def log(*changes: tuple[Action | str, str, object]) -> list[Event]:
    """Events in a chain."""
    events: list[Event] = []
    for action, resource, content in changes:
        previous = events[-1].hash if events else FIRST
        event = Event(
            seq=len(events) + 1,
            at=float(len(events)),
            actor="environment",
            action=action,
            resource=resource,
            after=raw(content),
            previous=previous,
        )
        events.append(chained(event))
    return events


HISTORY = log(
    ("policy.draft", "gold", POLICY),
    ("policy.activate", "gold", {"revision": 1}),
    ("policy.draft", "gold", POLICY | {"limits": {"requests_per_minute": 1}}),
    ("policy.activate", "gold", {"revision": 2}),
    ("policy.activate", "gold", {"revision": 1}),
    ("tenant.put", "acme", {"policy": "gold"}),
    ("backend.drain", "b", True),
)


def test_a_log_as_it_was_written_can_be_followed() -> None:
    """From its beginning, from its middle, and after a trip through bytes."""
    follow(HISTORY, 0, FIRST)
    follow(HISTORY[3:], 3, HISTORY[2].hash)
    assert [decode(encode(event)) for event in HISTORY] == HISTORY


@pytest.mark.parametrize("place", range(len(HISTORY)))
@pytest.mark.parametrize(
    "change",
    [{"actor": "somebody"}, {"after": raw({"revision": 9})}, {"at": 99.0}, {"previous": "0" * 63 + "1"}, {"seq": 40}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_event_is_found(place: int, change: dict[str, object]) -> None:
    """Whatever of it was changed; also when its own hash was made to fit."""
    for forged in (False, True):
        events = list(HISTORY)
        events[place] = msgspec.structs.replace(events[place], **change)
        if forged:
            events[place] = chained(events[place])
            if place == len(events) - 1 and not change.keys() & {"previous", "seq"}:
                continue  # The last one can be written anew by whoever can write at all.
        with pytest.raises(ChainBroken, match="the log was changed"):
            follow(events, 0, FIRST)


@pytest.mark.parametrize("place", range(len(HISTORY) - 1))
def test_a_missing_event_is_found(place: int) -> None:
    """The chain has no hole."""
    with pytest.raises(ChainBroken):
        follow([event for event in HISTORY if event.seq != place + 1], 0, FIRST)


def test_a_step_back_is_an_activation_like_any_other() -> None:
    """Revisions stay as they were; which one holds is a number."""
    state = after(State(), HISTORY)
    life = state.policies["gold"]
    assert (len(life.revisions), life.active) == (2, 1)
    assert state.overlay == {"policies": {"gold": POLICY}, "tenants": {"acme": {"policy": "gold"}}}
    assert state.drained == {"b"}
    assert (state.seq, state.last) == (len(HISTORY), HISTORY[-1].hash)


def test_a_draft_holds_nowhere() -> None:
    """Until it is activated."""
    assert after(State(), HISTORY[:1]).overlay == {}


def test_what_was_deleted_holds_over_the_files_too() -> None:
    """None in the overlay: the files' entry does not come back."""
    deleted = after(State(), log(("policy.delete", "gold", None), ("tenant.delete", "acme", None)))
    assert deleted.overlay == {"policies": {"gold": None}, "tenants": {"acme": None}}


def test_the_state_is_the_same_however_the_log_was_read() -> None:
    """At once, or event by event."""
    state = State()
    for event in HISTORY:
        state = after(state, [event])
    assert state == after(State(), HISTORY)


def test_what_a_newer_gateway_wrote_is_passed_over_and_what_follows_it_holds() -> None:
    """While gateways are exchanged one by one, old ones read what new ones write."""
    events = log(("backend.drain", "a", True), ("universe.end", "all", {"at": 1}), ("backend.drain", "b", True))
    read = [decode(encode(event)) for event in events]
    follow(read, 0, FIRST)
    state = after(State(), read)
    assert (state.drained, state.seq) == (frozenset({"a", "b"}), 3)


def test_a_digest_is_of_the_content() -> None:
    """Not of how it was written."""
    assert digest_of(b'{"a": 1, "b": [2]}') == digest_of(b'{"b":[2],"a":1}')
    assert digest_of(b'{"a":1}') != digest_of(b'{"a":2}')


@pytest.mark.parametrize(
    ("changes", "active", "before"),
    [
        ([1], 1, 0),
        ([1, 2], 2, 1),
        ([1, 2, 2], 2, 1),
        ([1, 2, 1], 1, 2),
        ([1, 0], None, 1),
        ([1, None], None, 1),
        ([1, None, 2], 2, None),
        ([], None, None),
    ],
    ids=str,
)
def test_what_held_before_is_known(changes: list[int | None], active: int | None, before: int | None) -> None:
    """0 is the files' own; None among the changes is a deletion, behind which nothing held."""
    drafts: list[tuple[Action, str, object]] = [("policy.draft", "gold", POLICY)] * 2
    steps: list[tuple[Action, str, object]] = [
        ("policy.delete", "gold", None) if number is None else ("policy.activate", "gold", {"revision": number})
        for number in changes
    ]
    life = after(State(), log(*drafts, *steps)).policies["gold"]
    assert (life.active, life.before, len(life.revisions)) == (active, before, 2)


def test_a_log_of_very_many_keys_is_read_in_one_pass() -> None:
    """Each key costs the same, however many there are already: what is made is copied once, and what was is left."""
    fields = {"tenant": "acme", "name": "", "digest": "0" * 64, "models": None, "created_at": 1.0, "expires_at": None}
    names = [f"k{number}" for number in range(2000)]
    events = log(*(("key.create", name, fields | {"public_id": name}) for name in names))
    before = after(State(), events[:1])
    whole = after(before, events[1:])
    assert (len(before.keys), list(whole.keys), whole.seq) == (1, names, len(names))

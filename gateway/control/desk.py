"""The operator's desk: what the log says, the configuration made of it, and every change to it.

Files and log together are the configuration: an entry that the log has holds over the files' own. A change is first
tried on a configuration that nobody uses; only one without mistakes is written, and then holds here at once and at the
other gateways as soon as they read on. What cannot be understood there leaves the last good configuration in use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
import msgspec
import structlog

from gateway.config.policies import PolicyBook, Sources, assemble
from gateway.config.problems import ConfigurationError
from gateway.control.events import ACTIONS, FIRST, NOTHING, Action, ChainBroken, Event, chained, follow
from gateway.control.state import State, after
from gateway.control.store import LogStore, LogUnreachable

FOLLOW_S = 1.0
"""How long a change made elsewhere may go unread where nobody rings."""
_TRIES = 5

log = structlog.get_logger()


class Conflict(Exception):
    """Raised when others changed the same thing meanwhile, so that the change was not made."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What holds at one moment. Replaced as a whole."""

    state: State
    book: PolicyBook


class Desk:
    """Follows the log and changes it. Belongs to the event loop's thread."""

    def __init__(
        self,
        sources: Sources,
        store: LogStore,
        *,
        wall: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._store = store
        self._followers: list[Callable[[Snapshot], None]] = []
        self._wall = wall
        self._changing = anyio.Lock()
        self._now = Snapshot(State(), assemble(sources))
        self.trouble: str | None = None
        """Why the log cannot be followed at present; None when it can. What holds goes on meanwhile."""
        self.has_read = False
        """Whether what holds is more than the files: whether the log, or what is remembered of it, was ever read."""

    @property
    def now(self) -> Snapshot:
        """What holds."""
        return self._now

    def book(self) -> PolicyBook:
        """The configuration that holds; a request keeps the one it started with."""
        return self._now.book

    def on_change(self, follower: Callable[[Snapshot], None]) -> None:
        """Have this called with what holds, whenever it changes."""
        self._followers.append(follower)

    @property
    def sources(self) -> Sources:
        """The files, as they were read."""
        return self._sources

    async def begin(self) -> None:
        """Read the log for the first time: what is remembered of it, then what is new. Does not raise."""
        try:
            events = await self._store.remembered()
            if events:
                self._take(await self._made_of(events))
            self.has_read = events is not None
        except (LogUnreachable, ConfigurationError, msgspec.DecodeError) as error:
            log.warning("control.not_remembered", reason=str(error).partition("\n")[0])
        await self.refresh()

    async def refresh(self) -> None:
        """Read the log on. Does not raise: what cannot be read or understood is logged and told by `trouble`."""
        try:
            events = await self._store.since(self._now.state.seq, self._now.state.last)
            follow(events, self._now.state.seq, self._now.state.last)
            if events:
                self._take(await self._made_of(events))
        except (LogUnreachable, ChainBroken, ConfigurationError, msgspec.DecodeError) as error:
            reason = str(error).partition("\n")[0]
            if self.trouble != reason:
                log.warning("control.not_followed", reason=reason)
            self.trouble = reason
        else:
            self.trouble = None
            self.has_read = True

    async def reread(self, sources: Sources) -> None:
        """Take these files in place of the former ones, under what the log says; followers are told.

        Raises ConfigurationError, and then nothing has changed.
        """
        async with self._changing:
            state = self._now.state
            book = await anyio.to_thread.run_sync(assemble, sources, state.overlay)
            self._sources = sources
            self._take(Snapshot(state, book))

    async def watch(self) -> None:
        """Follow the log until cancelled."""
        while True:
            await self._store.wait(FOLLOW_S)
            async with self._changing:
                await self.refresh()

    def tried(self, state: State) -> PolicyBook:
        """The configuration that this state would be. Raises ConfigurationError with all its mistakes."""
        return assemble(self._sources, state.overlay)

    async def change(
        self,
        actor: str,
        action: Action,
        resource: str,
        decide: Callable[[State], tuple[msgspec.Raw, msgspec.Raw]],
    ) -> Event:
        """Write one change, from `before` to `after` as `decide` says of the state that it is made to.

        `decide` is asked again when another gateway wrote first; it raises what the operator is told when the change
        cannot be made. Raises ConfigurationError, Conflict, LogUnreachable.
        """
        async with self._changing:
            for _ in range(_TRIES):
                state = self._now.state
                before, changed = decide(state)
                event = chained(
                    Event(
                        seq=state.seq + 1,
                        at=self._wall(),
                        actor=actor,
                        action=action,
                        resource=resource,
                        before=before,
                        after=changed,
                        previous=state.last,
                    )
                )
                made = await self._made_of([event])
                if await self._store.add(event):
                    self._take(made)
                    return event
                await self.refresh()
                if self.trouble is not None:
                    raise LogUnreachable(self.trouble)
        raise Conflict("Others are changing the configuration at the same time; try again.")

    def drift(self) -> list[str]:
        """The entries for which the log holds something other than the files say: `policies.standard`."""
        found = []
        for section, table in self._now.state.overlay.items():
            for name, entry in table.items():
                if entry != self._sources.entry(section, name):
                    found.append(f"{section}.{name}")
        return found

    async def events(self) -> list[Event]:
        """The whole log. Raises LogUnreachable, ChainBroken for one that was changed."""
        events = list(await self._store.since(0, FIRST))
        await anyio.to_thread.run_sync(follow, events, 0, FIRST)
        return events

    async def aclose(self) -> None:
        """Let go of the log."""
        await self._store.aclose()

    async def _made_of(self, events: Sequence[Event]) -> Snapshot:
        """What holds with the log's new events, made beside the loop. Raises ConfigurationError.

        What is not understood is passed over: a key that is revoked after it must not stay good until the upgrade is
        over.
        """
        for event in events:
            if event.action not in ACTIONS:
                log.warning("control.not_understood", action=event.action, seq=event.seq)
        state = after(self._now.state, events)
        if state.overlay == self._now.state.overlay:  # Of keys, drains and drills.
            return Snapshot(state, self._now.book)
        return Snapshot(state, await anyio.to_thread.run_sync(self.tried, state))

    def _take(self, made: Snapshot) -> None:
        """Put it in use by replacing one reference."""
        self._now = made
        for follower in self._followers:
            follower(made)


def raw(value: object) -> msgspec.Raw:
    """A value as an event holds it."""
    return NOTHING if value is None else msgspec.Raw(msgspec.json.encode(value))

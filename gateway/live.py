"""The configuration that is live, and what it comes to. Another one takes its place at one moment, between two events.

A request keeps what it began with: its policies, prices and backends, as they were. So the places of a configuration
that is gone stay known until no request can be left that began with it.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from gateway.config.policies import PolicyBook, read
from gateway.config.problems import ConfigurationError
from gateway.config.settings import read_secret, read_text
from gateway.control.desk import Desk
from gateway.domain.backend import Backend, BearerCredential, HeaderCredential, HeaderValue
from gateway.domain.plan import Target
from gateway.routing.fleet import Fleet
from gateway.upstream.credentials.build import identity_of
from gateway.upstream.credentials.identity import Identity
from gateway.upstream.credentials.static import CredentialUnusable, credential_headers
from gateway.upstream.destination import Destination, destination_of

KEPT_S: Final = 3700.0
"""Longer than any request may take."""
SECRETS_EVERY_S = 2.0
"""How often the files that hold credentials are looked at: whoever exchanges one has nothing else to do."""
_MOST_LOGGED: Final = 20

log = structlog.get_logger()


@dataclasses.dataclass(slots=True)
class _Place:
    """A backend of some configuration, and where it is."""

    backend: Backend
    destination: Destination
    left_at: float | None = None
    """When its configuration was exchanged."""


class Live:
    """Where the backends are. Belongs to the event loop's thread."""

    __slots__ = ("_book", "_by_backend", "_fleet", "_scopes", "_secrets", "_tasks", "by_name")

    def __init__(self, book: PolicyBook, *, fleet: Fleet) -> None:
        self.by_name: dict[str, Destination] = {}
        """Where the backends of now are, without those that are left out."""
        self._book = book
        self._fleet = fleet
        self._by_backend: dict[int, _Place] = {}
        """By the backend's identity: it is kept here, so that no other one can come to have the same."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._scopes: dict[Identity, anyio.CancelScope] = {}
        self._secrets: Mapping[str, str] = {}
        """What files held when they were last looked at, by reference."""
        self._place(book.backends, 0.0)

    def destination_of(self, target: Target) -> Destination:
        """Where a target is, of this configuration or of the one that its request began with."""
        return self._by_backend[id(target.place)].destination

    async def run(self) -> None:
        """Keep the credentials of now fresh, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._renew()
            await self._watch_files()

    def adopt(self, book: PolicyBook, now: float) -> None:
        """Be ready for requests of this configuration, which is about to be everybody's."""
        if book is self._book:
            return
        before = self._book.revision
        self._secrets = {}
        self._place(book.backends, now)
        self._book = book
        self._renew()
        log.info("configuration.live", revision=book.revision, before=before)
        self.tell_left_out()

    def tell_left_out(self) -> None:
        """Log the backends of now that no request can go to, and the models that hang on one provider unsaid."""
        for name, reason in self._fleet.unavailable.items():
            log.warning("backend.left_out", backend=name, reason=reason)
        if objections := self._book.objections:
            models = [each.path for each in objections[:_MOST_LOGGED]]
            log.warning("models.on_one_provider", count=len(objections), models=models, help="gateway check")

    def _place(self, backends: Mapping[str, Backend], now: float) -> None:
        """Find out where the backends are, and forget those that left long ago."""
        places: dict[str, _Place] = {}
        unavailable: dict[str, str] = {}
        for name, backend in backends.items():
            try:
                places[name] = _Place(backend, self._destination(name, backend))
            except CredentialUnusable:
                unavailable[name] = "credential_missing"
        for key, place in list(self._by_backend.items()):
            if place.left_at is None:
                place.left_at = now
            elif now - place.left_at > KEPT_S:
                del self._by_backend[key]
        self._by_backend |= {id(place.backend): place for place in places.values()}
        before = dict(self.by_name)
        self.by_name.clear()
        self.by_name |= {name: place.destination for name, place in places.items()}
        self._fleet.adopt(unavailable, {f"{name}/{model}" for name, each in backends.items() for model in each.models})
        for name, destination in self.by_name.items():
            if name in before and before[name].headers != destination.headers:
                log.info("credential.exchanged", backend=name)
                self._fleet.restored(name)  # It was the old credential that had no money, or no rights.

    def _destination(self, name: str, backend: Backend) -> Destination:
        """Where it is. A credential that renews itself goes on where nothing has changed. Raises CredentialUnusable."""
        known = self.by_name.get(name)
        if known is not None and known.identity is not None and self._book.backends.get(name) == backend:
            return known
        headers = credential_headers(name, backend, lambda ref: self._secrets.get(ref) or read_secret(ref))
        return destination_of(name, backend, headers, identity_of(name, backend, read_text))

    async def _watch_files(self) -> None:
        """See when a file holds another secret. One that cannot be read for now holds what it did."""
        while True:
            await anyio.sleep(SECRETS_EVERY_S)
            book = self._book
            references = _files_of(book.backends)
            if not references:
                continue
            read = await anyio.to_thread.run_sync(_secrets_of, references, abandon_on_cancel=True)
            found = {name: self._secrets[name] for name in references & self._secrets.keys()} | read
            if book is self._book and found != self._secrets:
                self._secrets = found
                self._place(book.backends, anyio.current_time())

    def _renew(self) -> None:
        """Keep the credentials of now fresh, and no others."""
        if self._tasks is None:
            return
        wanted = {each.identity for each in self.by_name.values() if each.identity is not None}
        for identity in self._scopes.keys() - wanted:
            self._scopes.pop(identity).cancel()
        for identity in wanted - self._scopes.keys():
            self._scopes[identity] = scope = anyio.CancelScope()
            self._tasks.start_soon(_within, scope, identity, self._fleet)


def _files_of(backends: Mapping[str, Backend]) -> frozenset[str]:
    """The references of these backends' standing credentials that lead to files."""
    found = set()
    for backend in backends.values():
        match backend.credential:
            case BearerCredential(bearer=reference) | HeaderCredential(header=HeaderValue(value=reference)):
                found.add(reference)
            case _:
                pass
    return frozenset(reference for reference in found if reference.startswith("file:"))


def _secrets_of(references: AbstractSet[str]) -> dict[str, str]:
    """Those that can be read. Waits for the disk."""
    found = {}
    for reference in references:
        with contextlib.suppress(LookupError):
            found[reference] = read_secret(reference)
    return found


async def _within(scope: anyio.CancelScope, identity: Identity, fleet: Fleet) -> None:
    with scope:
        await identity.run(fleet)


class Files:
    """The configuration's files, which are read anew whenever somebody wants it."""

    __slots__ = ("_desk", "_paths", "_wanted", "trouble")

    def __init__(self, paths: Sequence[Path], desk: Desk) -> None:
        self.trouble: str | None = None
        """Why the files are not what is live; None when they are, as far as they were read."""
        self._paths = paths
        self._desk = desk
        self._wanted = anyio.Event()

    def want(self) -> None:
        """Read them soon. Any number of times is once."""
        self._wanted.set()

    async def run(self) -> None:
        """Read them whenever it is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            await self.reload(self._paths)

    async def reload(self, paths: Sequence[Path]) -> bool:
        """Read these files; whether they are live now. Those that hold a mistake change nothing."""
        try:
            await self._desk.reread(await anyio.to_thread.run_sync(read, paths))
        except ConfigurationError as error:
            for problem in error.problems[:_MOST_LOGGED]:
                log.error("configuration.refused", problem=str(problem))  # noqa: TRY400  # the trace says nothing
            self.trouble = f"mistakes in the files: {len(error.problems)}; what was live before still is"
            return False
        self.trouble = None
        return True

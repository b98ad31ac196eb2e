"""The scripts in `lua/` as orders to a server: sent once, told once, and kept where they must arrive in the end.

Reads the scripts' files once. Knows no limit: what the words of an order mean is `wording`'s business.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, get_args

import hiredis
import msgspec

from gateway.admission.link import Link, trouble_of
from gateway.admission.resp import Connection, Reply, TimedOut, Word, packed
from gateway.admission.servers import Servers

Name = Literal["reserve", "settle", "renew", "grow", "tell", "owe", "beat", "recall", "conclude"]
MOST_KEPT: Final = 100_000
"""Orders that wait for a store that is away. One more drops the oldest: budgets know it all the same, as totals, and
its slot and what it did not use of a bucket come back with its lease and by refilling."""
_AT_ONCE: Final = 256
"""Orders that nobody waits for and that are sent together: a server does them in a quarter of the time that one may
take."""
_MOST_TRIES: Final = 3
"""Of one order: a script that is not there, a key that moved, then it is enough."""


class Script(msgspec.Struct, frozen=True):
    """A script, with what stands before each of them."""

    source: bytes
    sha: str
    """By which the server knows it once it has seen the source."""


@functools.cache
def script(name: Name) -> Script:
    """The script of that name."""
    folder = importlib.resources.files(__package__) / "lua"
    source = (folder / "common.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


def loading() -> list[bytes]:
    """The commands by which a server gets to know all scripts, so that the first order of each needs no second try."""
    return [packed("SCRIPT", "LOAD", script(name).source) for name in get_args(Name)]


@dataclasses.dataclass(slots=True)
class OrderCounts:
    """What became of orders so far; for metrics."""

    unknown: int = 0
    """Replies that did not come in time, or were errors."""
    kept: int = 0
    """Orders that wait now."""
    dropped: int = 0
    """Orders that waited for too long behind too many."""


class Order:
    """One script to run where its keys are. `told` hears once: what the script gave, or why that is not known."""

    __slots__ = ("_tries", "keys", "name", "told", "words")

    def __init__(self, name: Name, keys: Sequence[str], words: Sequence[Word], told: Callable[[Reply], object]) -> None:
        self._tries = 0
        self.name = name
        self.keys = keys
        self.words = words
        self.told = told

    def __repr__(self) -> str:
        return f"Order({self.name} {self.keys[0]})"

    def send(self, servers: Servers, link: Link, connection: Connection, *, source: bool = False) -> None:
        """Ask `link`, which is connected by `connection`. Each try may take as long as any operation."""
        self._tries += 1
        code = script(self.name)
        how: tuple[Word, Word] = ("EVAL", code.source) if source else ("EVALSHA", code.sha)
        command = packed(*how, len(self.keys), *self.keys, *self.words)
        connection.ask(command, lambda reply: self._replied(servers, link, reply))

    def _replied(self, servers: Servers, link: Link, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if self._tries < _MOST_TRIES and self._sent_again(servers, link, reply):
                return
            code = str(reply).partition(" ")[0]
            if trouble_of(reply) == "cannot serve":
                link.failed(f"answers {code}", at_once=True)
            else:
                link.refused(self.name, code)
        elif isinstance(reply, TimedOut):
            link.failed("does not answer")
        elif not isinstance(reply, Exception):
            link.succeeded()
        self._tries = 0  # Whoever keeps it may send it another day.
        self.told(reply)

    def _sent_again(self, servers: Servers, link: Link, error: hiredis.ReplyError) -> bool:
        """Whether the error only says to ask in another way: then nothing was done yet, and it was asked that way."""
        trouble = trouble_of(error)
        if trouble == "no script" and link.connection is not None:
            self.send(servers, link, link.connection, source=True)
            return True
        if trouble == "moved":
            other = servers.moved(str(error))
            if other is not None and other.connection is not None:
                if str(error).startswith("ASK"):
                    other.connection.ask(packed("ASKING"), _ignore)
                self.send(servers, other, other.connection)
                return True
        return False


class Orders:
    """Sends orders to whoever can be asked, and keeps those that must arrive until they have."""

    __slots__ = ("_kept", "_replayed", "_servers", "_turn", "_turns", "counts", "under_way")

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._kept: deque[Order] = deque()
        self._replayed: set[Order] = set()
        """What waited and is under way now."""
        self._turns: deque[tuple[Name, Sequence[str], Sequence[Word]]] = deque()
        self._turn = 0
        """Of those how many are under way now."""
        self.under_way = 0
        """Sent and not told yet."""
        self.counts = OrderCounts()

    def send(
        self, name: Name, keys: Sequence[str], words: Sequence[Word], told: Callable[[Reply], None] | None = None
    ) -> bool:
        """Send now; False when the server cannot be asked: then nobody is told, and nothing is kept."""
        link = self._servers.link(keys[0])
        if link.connection is None:
            return False
        self.under_way += 1
        order = Order(name, keys, words, lambda reply: self._over(reply, told))
        order.send(self._servers, link, link.connection)
        return True

    def in_turn(self, name: Name, keys: Sequence[str], words: Sequence[Word]) -> None:
        """Send some time, behind all others of this kind and not many at once: housekeeping must delay nobody.

        What cannot be sent when its turn comes is forgotten, and more than fit are not taken.
        """
        if len(self._turns) < MOST_KEPT:
            self._turns.append((name, keys, words))
            self._take_turns()

    def _take_turns(self) -> None:
        while self._turns and self._turn < _AT_ONCE:
            name, keys, words = self._turns.popleft()
            self._turn += self.send(name, keys, words, self._turn_over)

    def _turn_over(self, _reply: Reply) -> None:
        self._turn -= 1
        self._take_turns()

    def deliver(
        self, name: Name, keys: Sequence[str], words: Sequence[Word], told: Callable[[Reply], None] | None = None
    ) -> None:
        """Send now, and again and again until somebody has replied. Only for scripts that may arrive twice."""
        order = Order(name, keys, words, _ignore)

        def replied(reply: Reply) -> None:
            is_unknown = self._over(reply, told)
            if is_unknown:
                self._keep(order)
            if order in self._replayed:
                self._replayed.discard(order)
                if not is_unknown:
                    self.replay()

        order.told = replied
        self._send_or_keep(order)

    def replay(self) -> None:
        """Send what waits to whoever can be asked, a part after the other: each reply in its time, as always."""
        if self._replayed:
            return  # Its replies call this again.
        for _ in range(len(self._kept)):
            order = self._kept.popleft()
            if self._servers.link(order.keys[0]).connection is not None:
                self._replayed.add(order)
            self._send_or_keep(order)
            if len(self._replayed) == _AT_ONCE:
                break
        self.counts.kept = len(self._kept)

    def _send_or_keep(self, order: Order) -> None:
        link = self._servers.link(order.keys[0])
        if link.connection is None:
            self._keep(order)
        else:
            self.under_way += 1
            order.send(self._servers, link, link.connection)

    def _keep(self, order: Order) -> None:
        self._kept.append(order)
        if len(self._kept) > MOST_KEPT:
            self._kept.popleft()
            self.counts.dropped += 1
        self.counts.kept = len(self._kept)

    def _over(self, reply: Reply, told: Callable[[Reply], None] | None) -> bool:
        """Whether it is not known to be done."""
        self.under_way -= 1
        is_unknown = isinstance(reply, Exception)
        self.counts.unknown += is_unknown
        if told is not None:
            told(reply)
        return is_unknown


def _ignore(_reply: Reply) -> None:
    """What matters is another reply."""

"""How many connections there may be: in all, and of one peer.

A connection is a descriptor, and a process has only so many. Who takes them all, by mistake or not, takes them from
other clients, from backends and from the ledger. Peers are told apart by their address alone: behind a load balancer
there is one for many clients, so the bound is generous.
"""

import contextlib
import resource
from typing import Final

PART_FOR_CLIENTS: Final = 0.6
"""Of all descriptors: each request may need one for its backend too."""
PART_FOR_PEER: Final = 0.5
"""Of those for clients."""
_MOST_DESCRIPTORS: Final = 65_536
"""As many as are asked of the system; Linux often grants a thousand to who does not ask."""


class Doors:
    """Counts connections by their peers."""

    __slots__ = ("_by_peer", "_most", "_most_of_peer", "open", "turned_away")

    def __init__(self, most: int, most_of_peer: int) -> None:
        self._most = most
        self._most_of_peer = most_of_peer
        self._by_peer: dict[str, int] = {}
        self.open = 0
        """Connections that there are."""
        self.turned_away = 0
        """Connections that found no place so far."""

    def enter(self, peer: str) -> bool:
        """Let a connection in; False when there are too many. One that was let in has to `leave`."""
        held = self._by_peer.get(peer, 0)
        if held >= self._most_of_peer or self.open >= self._most:
            self.turned_away += 1
            return False
        self.open += 1
        self._by_peer[peer] = held + 1
        return True

    def leave(self, peer: str) -> None:
        """A connection that was let in is gone."""
        self.open -= 1
        left = self._by_peer[peer] - 1
        if left:
            self._by_peer[peer] = left
        else:
            del self._by_peer[peer]


def doors(of_peer: int | None) -> Doors:
    """As many as the process has descriptors for; `of_peer` is how many of one peer, None a part of all."""
    most = int(_descriptors() * PART_FOR_CLIENTS)
    return Doors(most, int(most * PART_FOR_PEER) if of_peer is None else of_peer)


def _descriptors() -> int:
    """How many the process may have, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # Where that is not allowed, what there is has to do.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft

"""What the gateways of a fleet show one another through their Redis: slots of their ledgers, and a word on themselves.

A slot or a word is told as a whole, so that telling it twice changes nothing. What another version shows is left out.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from gateway.accounting import slots
from gateway.accounting.slots import KEPT_S
from gateway.control.given_up import GivenUp
from gateway.control.rehearsal import Rehearsal
from gateway.control.standby import Place, Success

LIVE_S: Final = 60.0
"""A word older than that tells of the past alone: of successes, not of what is borne now."""
ALL_AGAIN_S: Final = 600.0
"""How often slots are told and heard anew that nobody should change any more: a gateway that was killed settles late,
and a Redis may have lost what it had."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway shows of itself."""

    gateway: str
    at: float
    """Seconds since the epoch."""
    places: tuple[Place, ...] = ()
    successes: tuple[Success, ...] = ()
    peaks: Mapping[str, Mapping[int, int]] = {}
    """Public model → minute since the epoch → the most requests at once."""
    given_up: tuple[GivenUp, ...] = ()
    rehearsals: tuple[Rehearsal, ...] = ()
    """What outages would do to the traffic that this gateway recorded."""


class Showcase(Protocol):
    """Where gateways show their parts to one another. Raises LogUnreachable."""

    async def show_slots(self, ledger: str, slots: Mapping[int, bytes]) -> None:
        """Put these in the place of what was shown of the ledger before."""

    async def shown_slots(self, numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        """What all ledgers come to in each of these slots."""

    async def show_word(self, ledger: str, word: bytes) -> None:
        """Put this in the place of what the ledger's gateway showed before."""

    async def shown_words(self) -> dict[bytes, bytes]:
        """What every gateway showed last, by its ledger."""

    async def forget_word(self, ledger: str) -> None:
        """Strike out one that said nothing for long."""


class Others:
    """What all other gateways showed last."""

    __slots__ = ("_all_again_at", "_own", "_shared", "_slots", "_words")

    def __init__(self, own: str, shared: Showcase) -> None:
        """`own` is the name of this gateway's ledger."""
        self._own = own
        self._shared = shared
        self._all_again_at = 0.0
        self._slots: dict[int, list[bytes]] = {}
        self._words: dict[str, Word] = {}

    @property
    def words(self) -> Collection[Word]:
        """Of the last day, one of each ledger."""
        return self._words.values()

    def live(self, now: float) -> list[Word]:
        """Of those that are there now."""
        return [word for word in self._words.values() if now - word.at < LIVE_S]

    def slot(self, number: int) -> Sequence[bytes]:
        """What they used in a slot, packed."""
        return self._slots.get(number, ())

    async def tell(self, word: Word, own: Mapping[int, bytes], changed: set[int]) -> None:
        """Show this gateway's word, and its slots that changed; now and then all of them. Raises LogUnreachable."""
        told = set(own) if word.at >= self._all_again_at else changed & own.keys()
        await self._shared.show_word(self._own, msgspec.json.encode(word))
        if told:
            await self._shared.show_slots(self._own, {number: own[number] for number in told})
        changed -= told

    async def hear(self, now: float) -> None:
        """Know what there is to know now. Raises LogUnreachable."""
        self._words = {name: word async for name, word in self._heard(now)}
        kept = slots.numbers(now - KEPT_S, now)
        is_all = now >= self._all_again_at
        wanted = [number for number in kept if is_all or number not in self._slots or number >= kept[-1] - 1]
        found = await self._shared.shown_slots(wanted)
        for number, by_ledger in zip(wanted, found, strict=True):
            self._slots[number] = [body for name, body in by_ledger.items() if name.decode() != self._own]
        for number in self._slots.keys() - set(kept):
            del self._slots[number]
        if is_all:
            self._all_again_at = now + ALL_AGAIN_S

    async def _heard(self, now: float) -> AsyncIterator[tuple[str, Word]]:
        for ledger, body in (await self._shared.shown_words()).items():
            name = ledger.decode(errors="replace")
            try:
                word = msgspec.json.decode(body, type=Word)
            except msgspec.DecodeError:
                continue
            if now - word.at > KEPT_S:
                await self._shared.forget_word(name)
            elif name != self._own:
                yield name, word

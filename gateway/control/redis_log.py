"""The log of changes in a Redis that a fleet shares: one list, added to by a script that looks first.

Not on any request's path: the plain client is right here. Every call has a deadline.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.accounting.slots import KEPT_S, SLOT_S
from gateway.control.events import Event, decode, encode
from gateway.control.store import LogUnreachable, behind
from gateway.domain.store import RedisPlace

Value = TypeVar("Value")

_WAIT_S: Final = 2.0
_POLL_S: Final = 1.0
_LOG: Final = "gw:{control}:log"
_REPLICAS: Final = "gw:{control}:replicas"
_BELL: Final = "gw:{control}:bell"
_USED: Final = "gw:{control}:used"
_WORDS: Final = "gw:{control}:words"
_ASKED: Final = "gw:{control}:asked"
_ANSWER: Final = "gw:{control}:answer:"
_ANSWER_S: Final = 10
_ADD: Final = """
if redis.call('LLEN', KEYS[1]) + 1 ~= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
"""


class RedisLog:
    """The log in a Redis."""

    def __init__(self, place: RedisPlace) -> None:
        self._client = _client(place)
        self._ears: Any = None if place.kind == "cluster" else self._client.pubsub()

    async def remembered(self) -> None:
        """Nothing: `mirror` keeps a copy."""

    async def since(self, seq: int, last: str) -> Sequence[Event]:
        """The events behind the one numbered `seq`."""
        listed = await _bounded(self._client.lrange(_LOG, max(0, seq - 1), -1))
        return behind([decode(each) for each in listed], seq, last)

    async def add(self, event: Event) -> bool:
        """Add the event if it is the next."""
        asked = self._client.eval(_ADD, 2, _LOG, _BELL, str(event.seq), encode(event))
        return await _bounded(cast("Awaitable[int]", asked)) == 1

    async def wait(self, seconds: float) -> None:
        """Woken by the bell; where it cannot be heard, by the time."""
        try:
            if self._ears is None:
                await asyncio.sleep(min(seconds, _POLL_S))
                return
            if not self._ears.subscribed:
                await _bounded(self._ears.subscribe(_BELL))
            await self._ears.get_message(ignore_subscribe_messages=True, timeout=min(seconds, _POLL_S))
        except (LogUnreachable, RedisError, OSError):
            await asyncio.sleep(min(seconds, _POLL_S))

    async def tell(self, replica: str, told: bytes) -> None:
        """Let the others know what this gateway runs."""
        await _bounded(self._client.hset(_REPLICAS, replica, told))

    async def told(self) -> dict[bytes, bytes]:
        """What every gateway said last."""
        return await _bounded(self._client.hgetall(_REPLICAS))

    async def forget(self, replica: str) -> None:
        """Strike out a gateway that is gone."""
        await _bounded(self._client.hdel(_REPLICAS, replica))

    async def ask(self, request_id: str) -> None:
        """Leave a question. All are forgotten when nobody has asked for a while."""
        await _bounded(self._client.sadd(_ASKED, request_id))
        await _bounded(self._client.expire(_ASKED, _ANSWER_S))

    async def asked(self) -> Sequence[str]:
        """The ids that are asked for and not answered yet."""
        return [each.decode(errors="replace") for each in await _bounded(self._client.smembers(_ASKED))]

    async def answer(self, request_id: str, body: bytes) -> None:
        """Leave an answer for some seconds, and take its question away."""
        await _bounded(self._client.set(_ANSWER + request_id, body, ex=_ANSWER_S))
        await _bounded(self._client.srem(_ASKED, request_id))

    async def answered(self, request_id: str) -> bytes | None:
        """The answer, as soon as there is one."""
        found: bytes | None = await _bounded(self._client.get(_ANSWER + request_id))
        return found

    async def unask(self, request_id: str) -> None:
        """Take a question away that nobody answered."""
        await _bounded(self._client.srem(_ASKED, request_id))

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Keep when keys were last used. Gateways overwrite one another's seconds."""
        await _bounded(self._client.hset(_USED, mapping={key: repr(at) for key, at in used.items()}))

    async def last_use(self) -> Mapping[str, float]:
        """All that is kept of it."""
        kept = await _bounded(self._client.hgetall(_USED))
        return {key.decode(): float(at) for key, at in kept.items()}

    async def show_slots(self, ledger: str, slots: Mapping[int, bytes]) -> None:
        """Put these in the place of what was shown of the ledger before, for a day."""
        pipe = self._client.pipeline(transaction=False)
        for number, body in slots.items():
            pipe.hset(_slot(number), ledger, body)
            pipe.expire(_slot(number), KEPT_S + SLOT_S)
        await _bounded(pipe.execute())

    async def shown_slots(self, numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        """What all ledgers come to in each of these slots."""
        pipe = self._client.pipeline(transaction=False)
        for number in numbers:
            pipe.hgetall(_slot(number))
        return await _bounded(pipe.execute()) if numbers else []

    async def show_word(self, ledger: str, word: bytes) -> None:
        """Put this in the place of what the ledger's gateway showed of itself before."""
        await _bounded(self._client.hset(_WORDS, ledger, word))

    async def shown_words(self) -> dict[bytes, bytes]:
        """What every gateway showed of itself last, by its ledger."""
        return await _bounded(self._client.hgetall(_WORDS))

    async def forget_word(self, ledger: str) -> None:
        """Strike out one that said nothing for long."""
        await _bounded(self._client.hdel(_WORDS, ledger))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._ears is not None:
            await self._ears.aclose()
        await self._client.aclose()


async def _bounded(asked: Awaitable[Value]) -> Value:
    try:
        async with asyncio.timeout(_WAIT_S):
            return await asked
    except TimeoutError:
        raise LogUnreachable(f"the store did not answer within {_WAIT_S:g} s") from None
    except (RedisError, OSError) as error:
        raise LogUnreachable(f"the store cannot be asked ({type(error).__name__})") from error


def _slot(number: int) -> str:
    return f"gw:{{control}}:slot:{number}"


def _client(place: RedisPlace) -> Any:  # the three clients share no type, only their commands
    options: dict[str, Any] = {
        "username": place.username or None,
        "password": place.password or None,
        "socket_timeout": _WAIT_S,
        "socket_connect_timeout": _WAIT_S,
        "ssl": place.tls,
    }
    if place.tls and place.ca_file:
        options["ssl_ca_certs"] = place.ca_file
    if place.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in place.hosts]
        return RedisCluster(startup_nodes=nodes, **options)
    options["retry"] = Retry(NoBackoff(), 0)
    if place.kind == "sentinel":
        asked = {"socket_timeout": _WAIT_S}
        sentinel = Sentinel(list(place.hosts), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]  # redis has no types here
        return sentinel.master_for(place.service, db=place.database, **options)
    host, port = place.hosts[0]
    return Redis(host=host, port=port, db=place.database, **options)

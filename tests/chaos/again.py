"""The same request asked twice, and a ledger that a newer version has written to."""

import asyncio
import sqlite3
from contextlib import closing

from tests.backends.openai_backend import chat_reply
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import rig
from tests.chaos.ways import Way, ask
from tests.running.client import CHAT

CATALOGUE = Catalogue()
row = CATALOGUE.row

KEY = {"idempotency-key": "again-1"}


@row("F45", "the same idempotency key again", ways=(Way.WHOLE,))
async def asked_again(way: Way) -> str:
    """In flight 409, ended the stored answer, another body 422; one request at the backend, one charge."""
    async with rig() as house:
        house.first.script(chat_reply("Once.", delay_s=0.2))
        running = asyncio.create_task(house.client.post(CHAT, json=ask(way), headers=KEY))
        await house.first.wait_requests(1)
        early = await house.client.post(CHAT, json=ask(way), headers=KEY)
        assert (early.status_code, early.headers["x-should-retry"]) == (409, "true")
        answer = await running
        again = await house.client.post(CHAT, json=ask(way), headers=KEY)
        assert (answer.status_code, again.content) == (200, answer.content)
        other = await house.client.post(CHAT, json=ask(way, max_tokens=7), headers=KEY)
        assert (other.status_code, other.headers["x-should-retry"]) == (422, "false")
        assert len(house.first.requests) == 1
        charged = [each.charge_nano_usd for each in house.rows() if each.charge_nano_usd]
        assert len(charged) == 1
    return "one charge"


@row("F41", "a newer version writes to the same ledger", ways=(Way.WHOLE,))
async def beside_a_newer_version(way: Way) -> None:
    """A column that this version does not know changes nothing of what it writes and reads."""
    async with rig() as house:
        (await house.ask(way)).assert_healthy(way)
        with closing(sqlite3.connect(house.store, timeout=5)) as connection, connection:
            connection.execute("ALTER TABLE ledger ADD COLUMN of_a_newer_version TEXT")
            connection.execute("UPDATE ledger SET of_a_newer_version = 'something'")
        answer = await house.ask(way)
        answer.assert_healthy(way)
        assert len(house.rows()) == 2
        assert house.rows_of(answer)[0].charge_nano_usd > 0

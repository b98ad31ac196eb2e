"""Everything that someone who wishes us harm may send: refused as it should be, free, and unseen by any backend.

What other tests play one by one (framing, heads, refusals) is played again by `make attacks` alone.
"""

import pytest

from tests.attacks.playing import play
from tests.attacks.table import OWN, Attack
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

pytestmark = pytest.mark.skipif("config.getoption('--http') != 'edge'", reason="the guards stand at the edge")


@pytest.mark.parametrize("attack", OWN, ids=str)
async def test_it_does_no_harm(running: RunningGateway, backends: list[ScriptedBackend], attack: Attack) -> None:
    """The status is the one that the table says; nothing is told, spent or passed on."""
    rows = len(running.ledger())
    await play(attack, running, backends)
    if 200 not in attack.statuses:
        assert len(running.ledger()) == rows

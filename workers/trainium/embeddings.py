"""`POST /v1/embeddings`: texts or token ids to vectors, as numbers or base64."""

import base64
import time
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from workers.trainium.caller import caller_of, in_time
from workers.trainium.errors import ContextTooLong, InvalidRequest, UnsupportedParameter
from workers.trainium.exchange import Exchange
from workers.trainium.inference import require_model
from workers.trainium.loading import LoadedEmbedder
from workers.trainium.wire import Embed, parse_embeddings
from workers.trainium.worker import Worker

log = structlog.get_logger()


class Embeddings:
    """Answers requests for embeddings."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def answer(self, exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer one request. Raises `RequestError`."""
        started, caller = time.monotonic(), caller_of(headers)
        request = parse_embeddings(body)
        serving = self._worker.require_embedding()
        require_model(request.model, serving.loaded.model)
        texts = _tokens(request, serving.loaded)
        tokens = sum(map(len, texts))
        with self._worker.tracing.generate() as span:
            span.set("gen_ai.request.model", serving.loaded.model)
            span.set("gen_ai.usage.input_tokens", tokens)
            with in_time(caller):
                vectors = await serving.engine.embed(texts)
        reply = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _spell(vector, is_base64=request.is_base64)}
                for index, vector in enumerate(vectors)
            ],
            "model": serving.loaded.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        await exchange.reply(200, msgspec.json.encode(reply), [])
        seconds = round(time.monotonic() - started, 3)
        log.info("request.finished", endpoint="embeddings", prompt_tokens=tokens, texts=len(texts), seconds=seconds)


def _tokens(request: Embed, loaded: LoadedEmbedder) -> list[tuple[int, ...]]:
    """The tokens of every text. Raises `InvalidRequest`, `ContextTooLong`: nothing is cut in silence."""
    width = loaded.runner.arch.width
    if request.dimensions not in (None, width):
        raise UnsupportedParameter(f"this model makes vectors of {width} numbers, no others", param="dimensions")
    texts = []
    for item in request.inputs:
        if isinstance(item, str):
            tokens = loaded.encode(item)
        else:
            tokens = item
            if any(not 0 <= token < loaded.runner.arch.vocab for token in tokens):
                raise InvalidRequest(f"token ids must be between 0 and {loaded.runner.arch.vocab - 1}", param="input")
        if len(tokens) > loaded.max_len:
            raise ContextTooLong(
                f"this model's maximum context length is {loaded.max_len} tokens; a text has {len(tokens)}",
                param="input",
            )
        texts.append(tokens)
    return texts


def _spell(vector: npt.NDArray[np.float32], *, is_base64: bool) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if is_base64 else vector.tolist()

"""How the workers of one gateway ask one another: a socket for each in their folder, one question to a connection.

A question is a line of JSON, its answer whatever comes until the end. Who does not answer in time is left out: a worker
that was killed is about to come again, and nobody waits for it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec
import structlog

WAIT_S: Final = 1.0
"""How long an answer is waited for. It is a millisecond or two away."""
_MOST_BYTES: Final = 64 << 20
_MOST_ASKED: Final = 4096

log = structlog.get_logger()


class Question(msgspec.Struct, frozen=True):
    """What a worker wants to know of another."""

    what: str
    of: str = ""


Answers = Mapping[str, Callable[[str], bytes]]
"""By what is asked: gives the answer, empty for none."""


class Siblings:
    """The other workers. Belongs to the event loop's thread."""

    def __init__(self, folder: Path, worker: int, workers: int, answers: Answers) -> None:
        self._folder = folder
        self._worker = worker
        self._workers = workers
        self._answers = answers

    async def run(self) -> None:
        """Answer the others, until cancelled."""
        place = self._place(self._worker)
        place.unlink(missing_ok=True)  # That of a worker that was killed.
        async with await anyio.create_unix_listener(place, mode=0o600) as listener:
            await listener.serve(self._answer)

    async def ask(self, question: Question) -> dict[int, bytes]:
        """What each of the others answers, by its number; those are left out that say nothing, or nothing in time."""
        found: dict[int, bytes] = {}
        async with anyio.create_task_group() as tasks:
            for number in range(1, self._workers + 1):
                if number != self._worker:
                    tasks.start_soon(partial(self._ask, number, question, found))
        return found

    async def _ask(self, number: int, question: Question, found: dict[int, bytes]) -> None:
        body = bytearray()
        try:
            with anyio.fail_after(WAIT_S):
                async with await anyio.connect_unix(self._place(number)) as stream:
                    await stream.send(msgspec.json.encode(question) + b"\n")
                    async for part in stream:
                        body += part
                        if len(body) > _MOST_BYTES:
                            return
        except (OSError, TimeoutError, anyio.BrokenResourceError) as error:
            log.warning("worker.silent", worker=number, reason=type(error).__name__)
            return
        if body:
            found[number] = bytes(body)

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        asked = bytearray()
        try:
            with anyio.fail_after(WAIT_S):
                async with stream:
                    while not asked.endswith(b"\n") and len(asked) < _MOST_ASKED:
                        asked += await stream.receive()
                    question = msgspec.json.decode(asked, type=Question)
                    await stream.send(self._answers[question.what](question.of))
        except (
            OSError,
            TimeoutError,
            anyio.EndOfStream,
            anyio.BrokenResourceError,
            msgspec.DecodeError,
            KeyError,
        ) as error:
            log.warning("worker.unanswered", reason=type(error).__name__)

    def _place(self, number: int) -> Path:
        return self._folder / f"{number}.sock"

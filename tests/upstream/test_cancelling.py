"""Aborting at every moment: nothing is told after it, no place is lost, no answer reaches another call."""

import asyncio
import random

import pytest

from gateway.domain.wire import Call, WireRequest
from gateway.upstream.transport import Transport
from tests.backends.scripted import End, Request, Script, ScriptedBackend
from tests.upstream.recording import Recording, destination, eventually


@pytest.mark.parametrize("seed", range(2))
async def test_thousands_of_aborted_calls_leak_nothing_and_mix_up_no_answers(
    backend: ScriptedBackend, seed: int
) -> None:
    """Calls are aborted in the turn they are sent, while connecting, waiting, answering and after the end."""
    rng = random.Random(seed)
    transport = Transport(connections_per_backend=32)
    to = destination(backend.base_url)

    def echo(request: Request) -> Script:
        pieces = [(rng.choice([0, 0, 0, 0.001]), request.body) for _ in range(3)]
        end: End = rng.choice(["keep"] * 20 + ["fin", "rst"])  # type: ignore[arg-type]  # a list of literals is of str
        return Script(framing=rng.choice(["length", "chunked"]), steps=pieces, end=end)

    backend.default = echo
    recordings: list[tuple[bytes, Recording]] = []
    aborted: dict[int, tuple[Recording, list[str]]] = {}
    """By number: what each aborted call had been told by then."""

    def give_up(number: int, call: Call, recording: Recording) -> None:
        if not recording.is_over:
            call.abort()
            aborted[number] = (recording, list(recording.told))

    for number in range(2500):
        canary = b"<canary-%d>" % number
        recording = Recording()
        request = WireRequest(method="POST", path="/echo", body=canary)
        call = transport.send(to, request, recording)
        recordings.append((canary, recording))
        moment = rng.random()
        if moment < 0.05:
            give_up(number, call, recording)
        elif moment < 0.4:
            asyncio.get_running_loop().call_later(rng.random() * 0.01, give_up, number, call, recording)
        if rng.random() < 0.1:
            await asyncio.sleep(rng.random() * 0.01)

    await eventually(
        lambda: all(recording.is_over or number in aborted for number, (_, recording) in enumerate(recordings))
    )
    for recording, told in aborted.values():
        assert recording.told == told
    for canary, recording in recordings:
        assert recording.body in {b"", canary, canary * 2, canary * 3}
        assert recording.told[-1:] != ["ended"] or recording.body == canary * 3
    assert len(aborted) > 150
    assert sum(recording.told[-1:] == ["ended"] for _, recording in recordings) > 150
    await eventually(lambda: " busy" not in repr(transport) or " 0 busy, " in repr(transport))
    assert " 0 connecting, 0 waiting" in repr(transport) or repr(transport) == "Transport()"
    await transport.aclose()
    await backend.wait_until(lambda: backend.open == 0)

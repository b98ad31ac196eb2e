"""Random requests at a worker, to see that none makes it compile, that each ends as it must, and that nothing stays.

Everything a request may ask for, mixed by chance: prompts of any length, with and without a common beginning, answers
left in the middle, prompts that do not fit, a queue that is full. Exits with 1 when something was not as it must be.

python -m tests.workers.trainium.soak --seconds 3600 [--model smollm2-135m-instruct]
"""

# ruff: noqa: T201  # printing is the job of `main`

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.workers.trainium.process import WorkerProcess, eventually
from tests.workers.trainium.tiny import write_tiny_model
from workers.trainium.config import default_cache_dir

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
CLIENTS: Final = 7
"""More than there are slots, so that some always wait."""
SCHEMA: Final = {
    "type": "object",
    "properties": {"kind": {"enum": ["ab", "cd"]}, "flags": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["kind"],
    "additionalProperties": False,
}
TOOL: Final = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
WISHES: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0},
    {"temperature": 1.3, "seed": 4, "top_p": 0.8},
    {"temperature": 1, "top_k": 5, "min_p": 0.05},
    {"frequency_penalty": 1, "presence_penalty": 0.5, "repetition_penalty": 1.2},
    {"logit_bias": {"40": 5, "50": -100}},
    {"n": 2, "temperature": 1},
    {"stop": ["a", "zz"]},
    {"cache_salt": "mine"},
    {"ignore_eos": True},
    {"priority": 3},
)
"""What chats and completions take alike."""
CHAT_WISHES: Final[tuple[dict[str, Any], ...]] = (
    {"logprobs": True, "top_logprobs": 4},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
    {"response_format": {"type": "json_object"}},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
    {"tools": [TOOL]},
)


@dataclass(slots=True)
class Found:
    """What a soak came to."""

    ended: Counter[str] = field(default_factory=Counter)
    """How requests ended → how many."""
    compilations: int = 0
    """After the worker was warm."""
    mistakes: list[str] = field(default_factory=list)


def random_request(rng: random.Random, model: str, longest: int, limit: int) -> tuple[str, dict[str, Any]]:
    """A path and a body. Short prompts are as frequent as long ones; one in thirty does not fit into `limit` tokens."""
    size = int(longest ** rng.random()) if rng.random() < 29 / 30 else 40 * limit
    text = "abcd" * rng.choice((0, 0, 20, 80)) + "".join(rng.choices("abcdefghijklmnop ", k=size))
    body: dict[str, Any] = {"model": model, "max_tokens": rng.choice((1, 3, 17, 60)), "stream": rng.random() < 0.5}
    body |= rng.choice(WISHES)
    if rng.random() < 0.4:
        return COMPLETION, body | {"prompt": text} | rng.choice(({}, {"logprobs": 2}))
    body["messages"] = [{"role": "user", "content": text}]
    if rng.random() < 0.2:
        body["messages"].append({"role": "assistant", "content": "ab"})
        return CHAT, body | {"continue_final_message": True, "add_generation_prompt": False}
    return CHAT, body | (rng.choice(CHAT_WISHES) if rng.random() < 0.5 else {})


def soak(worker: WorkerProcess, goes_on: Callable[[int], bool], *, seed: int = 1, longest: int | None = None) -> Found:
    """Ask from several clients while `goes_on`, told how many requests there were. The worker is ready and idle.

    `longest` is of the prompts that fit, in letters; the longest that the worker takes unless told.
    """
    eventually(lambda: worker.metric("trn_worker_executables", state="pending") == 0, 600.0)
    described = worker.http.get("/v1/worker").json()
    model, limit = described["model"], described["caps"]["max_model_len"]
    probe = {"model": model, "prompt": "abc abc", "max_tokens": 30, "temperature": 0, "cache_salt": "probe"}
    before = worker.http.post(COMPLETION, json=probe).json()["choices"][0]["text"]
    made, found = worker.metric("trn_worker_compilations_total"), Found()

    def client(index: int) -> None:
        rng = random.Random(f"{seed} {index}")
        with httpx.Client(base_url=worker.base_url) as http:
            while goes_on(found.ended.total()):
                path, body = random_request(rng, model, longest or limit, limit)
                patience_s = rng.choice((0.02, 0.3, 120.0, 120.0, 120.0))
                ended = "left by the client"
                with suppress(httpx.TimeoutException):
                    ended = _ending(http.post(path, json=body, timeout=patience_s))
                found.ended[ended] += 1
                if ended == "wrong" or (ended == "left by the client" and patience_s > 1):
                    found.mistakes.append(f"{ended}: {path} {sorted(body)}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        for running in [pool.submit(client, index) for index in range(CLIENTS)]:
            running.result()
    slots = described["caps"]["slots"]
    eventually(lambda: worker.load() == {"running": 0, "waiting": 0, "free_slots": slots})
    found.compilations = int(worker.metric("trn_worker_compilations_total") - made)
    if found.compilations:
        found.mistakes.append(f"{found.compilations} executables were made after the worker was warm")
    if worker.http.post(COMPLETION, json=probe).json()["choices"][0]["text"] != before:
        found.mistakes.append("the same question has another answer afterwards")
    return found


def _ending(reply: httpx.Response) -> str:
    if reply.status_code == httpx.codes.OK:
        is_whole = "event-stream" not in reply.headers["content-type"] or reply.text.endswith("data: [DONE]\n\n")
        return "answered" if is_whole else "wrong"
    code = reply.json()["error"]["code"]
    return {(400, "context_length_exceeded"): "too long", (503, "overloaded"): "queue full"}.get(
        (reply.status_code, code), "wrong"
    )


def _resident_mib(pid: int) -> int:
    kib = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text("ascii"))
    return int(kib[1]) >> 10 if kib else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.workers.trainium.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (default: %(default)s)")
    parser.add_argument("--model", help="as `serve` takes it; a tiny one, in which a second holds many, unless told")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: %(default)s)")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = told.model or write_tiny_model(Path(folder) / "tiny.gguf")
        cache = default_cache_dir() if told.model else Path(folder)
        with WorkerProcess(model, cache, "--max-waiting", "2") as worker:
            worker.wait_until_ready()
            until, memory = time.monotonic() + told.seconds, _resident_mib(worker.pid)
            found = soak(worker, lambda _: time.monotonic() < until, seed=told.seed)
            grown = f"{memory} → {_resident_mib(worker.pid)} MiB resident"
            shapes = int(worker.metric("trn_worker_executables", state="ready"))
    ended = ", ".join(f"{count} {how}" for how, count in found.ended.most_common())
    print(f"{found.ended.total()} requests in {told.seconds:.0f} s: {ended}; {grown}")
    print(f"{found.compilations} compilations after the {shapes} of warming up")
    print("\n".join(found.mistakes[:20]) or "no mistake")
    return 1 if found.mistakes else 0


if __name__ == "__main__":
    sys.exit(main())

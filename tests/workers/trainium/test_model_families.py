"""Models of several families from folders of safetensors, against a plain reference; and one model on many devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workers.trainium.fakes import CountingReader
from tests.workers.trainium.process import WorkerProcess
from tests.workers.trainium.tiny_checkpoint import COMMON, FAMILIES, reference_logits, write_checkpoint
from workers.trainium.engine.scheduler import Scheduler
from workers.trainium.engine.sequences import Sampling, Sequence
from workers.trainium.engine.shapes import Buckets
from workers.trainium.errors import DeviceUnavailable, ModelUnavailable
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.runner import Capacity, JaxRunner
from workers.trainium.model.safetensors import Checkpoint
from workers.trainium.model.weights import read_config
from workers.trainium.text import ChatTemplate, Message, Vocabulary, read_template

MAX_LEN = 96
BUCKETS = Buckets(prefill=(32,), decode=(3,), context=(MAX_LEN,))


def load(file: Checkpoint | GgufFile, devices: int = 1) -> JaxRunner:
    runner = JaxRunner.load(
        file, Capacity(3, MAX_LEN), platform="cpu", dtype="float32", report=lambda *_: None, devices=devices
    )
    for shape in BUCKETS.shapes():
        runner.compile(shape)
    return runner


def generate(runner: JaxRunner, prompts: list[list[int]], count: int) -> list[list[int]]:
    scheduler, readers = Scheduler(3, MAX_LEN), [CountingReader() for _ in prompts]
    for index, (prompt, reader) in enumerate(zip(prompts, readers, strict=True)):
        scheduler.submit(Sequence(str(index), tuple(prompt), Sampling(count, 0.0), reader, frozenset()))
    while (batch := scheduler.schedule(runner.ready)) is not None:
        scheduler.update(batch, runner.run(batch))
    return [reader.tokens for reader in readers]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_equals_the_reference(family: str, tmp_path: Path) -> None:
    """Scaled rotations, biases, normed heads, heads of another size, tied or not."""
    folder = write_checkpoint(tmp_path / family, family)
    rng = np.random.default_rng(1)
    prompts = [[int(token) for token in rng.integers(0, 500, size)] for size in (3, 30, 70)]
    for prompt, tokens in zip(prompts, generate(load(Checkpoint(folder)), prompts, 10), strict=True):
        logits = reference_logits(folder, prompt + tokens[:-1])[len(prompt) - 1 :]
        order = np.sort(logits, axis=-1)
        assert (order[:, -1] - order[:, -2]).min() > 1e-3, "a tie would make this test say nothing"
        assert tokens == logits.argmax(axis=-1).tolist()


def test_a_folders_tokenizer_and_template_are_its_own(tmp_path: Path) -> None:
    """Byte-level, with all its end tokens and named marks; tokens beside the vocabulary stand for nothing."""
    folder = write_checkpoint(tmp_path / "m", "qwen2")
    vocabulary = Vocabulary.from_folder(folder, 514)
    for text in ("Hello Wörld 🏔️\r\n", "a<tool_call>b", "abab"):
        assert b"".join(vocabulary.bytes_of(token) for token in vocabulary.encode(text)).decode() == text
    assert vocabulary.end_tokens == {0, 2}
    assert vocabulary.encode("<|im_end|>") == (2,)
    assert vocabulary.bytes_of(2) == vocabulary.bytes_of(513) == b""
    assert vocabulary.size == 514
    source = read_template(folder)
    assert source is not None
    rendered = ChatTemplate(source, vocabulary.marks).render([Message(role="user", content="Hi")])
    assert rendered.startswith("<|endoftext|><|im_start|>user\nHi")
    (folder / "chat_template.jinja").write_text("{{ eos_token }}")
    assert read_template(folder) == "{{ eos_token }}"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"model_type": "mamba"}, "`mamba`"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"hidden_size": None}, "config.json"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(change: dict[str, Any], cause: str) -> None:
    """Fluent nonsense is worse than no answer."""
    with pytest.raises(ModelUnavailable, match=cause):
        read_config(COMMON | FAMILIES["llama3"] | change, "here")


def test_a_folder_is_served_as_a_file_is(tmp_path: Path, worker_cache: Path) -> None:
    """Under the folder's name, chats included."""
    folder = write_checkpoint(tmp_path / "tiny-qwen", "qwen3")
    with WorkerProcess(folder, worker_cache, "--max-model-len", "128", "--slots", "1") as worker:
        worker.wait_until_ready()
        body = {"model": "tiny-qwen", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 4}
        reply = worker.http.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert reply["usage"]["completion_tokens"] == 4


def test_more_devices_than_there_are_or_than_share_evenly_are_refused(tiny_path: Path) -> None:
    """With the numbers."""
    with pytest.raises(DeviceUnavailable, match="64 `cpu` devices"):
        load(GgufFile(tiny_path), devices=64)


SHARED = """
import json, sys
from pathlib import Path
from tests.workers.trainium.test_model_families import generate, load
from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import DeviceUnavailable
from workers.trainium.model.gguf import GgufFile

file = GgufFile(Path(sys.argv[1]))
prompts = json.loads(sys.argv[2])
alone, shared = load(file), load(file, devices=2)
text = shared.lower(Shape("decode", 3, 96)).compile().as_text()
try:
    load(file, devices=3)
    refused = ""
except DeviceUnavailable as error:
    refused = str(error)
def places():
    return [shard.data.unsafe_buffer_pointer() for shard in shared._caches.keys[0].addressable_shards]


before = places()
print(json.dumps({
    "same": generate(alone, prompts, 16) == generate(shared, prompts, 16),
    "in_place": places() == before,
    "name": shared.device_name,
    "sums": text.count(" all-reduce("),
    "moves": text.count("collective-permute(") + text.count("all-to-all("),
    "parts": sorted({str(shard.data.shape) for shard in shared._caches.keys[0].addressable_shards}),
    "refused": refused,
}))
"""


def test_devices_that_share_a_model_say_what_one_says(tiny_path: Path) -> None:
    """Each holds half of the heads and of the cache; two sums per layer join them, and nothing else is moved."""
    rng = np.random.default_rng(4)
    prompts = [[int(token) for token in rng.integers(0, 500, size)] for size in (5, 40)]
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARED, str(tiny_path), json.dumps(prompts)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found["in_place"], "each device updates its part of the cache where it is"
    assert found["name"] == "cpu:cpu x 2"
    assert found["parts"] == ["(4, 1, 96, 16)"]
    assert found["sums"] == 4
    assert found["moves"] == 0
    assert "cannot be split over 3" in found["refused"]

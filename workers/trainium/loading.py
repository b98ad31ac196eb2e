"""From settings to something that can serve: fetch, read, compile. Blocking; runs in the loading thread.

A folder whose configuration says `bert` becomes a model for embeddings, everything else one that writes text.

Reports every step to `Readiness`. JAX is imported here and not before: importing it takes seconds, and its platform is
an environment variable that must be set first.
"""

import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from workers.trainium.config import Settings, plan_buckets
from workers.trainium.engine.embedding import embed_shapes
from workers.trainium.engine.shapes import Buckets, Shape
from workers.trainium.errors import DeviceUnavailable, ModelUnavailable
from workers.trainium.grammar import Grammars
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.safetensors import Checkpoint, read_json
from workers.trainium.neuron import Backend, explain_failure, prepare_environment
from workers.trainium.readiness import Readiness
from workers.trainium.registry import locate
from workers.trainium.text import ChatTemplate, Vocabulary, read_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from workers.trainium.model.embedding import EmbeddingRunner
    from workers.trainium.model.runner import JaxRunner

_STOP_S: Final = 2.0
_EMBED_ROWS: Final = (1, 8)
_EMBED_LENGTHS: Final = (32, 128)
"""Tokens per text; the longest a model takes comes behind them."""
_LONGEST_CAUSE: Final = 600
"""Characters of a device's own words: some print their whole state."""
_NEEDED: Final = 2
"""Executables without which nothing can be served: one prefill, one decode."""

log = structlog.get_logger()


class Stopped(Exception):  # not an error: we are asked to stop
    """Raised when the process is ending while the model is still being loaded."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, with the executables that serve any request."""

    model: str
    """The name clients use."""
    runner: "JaxRunner"
    vocabulary: Vocabulary
    template: ChatTemplate | None
    """None when the file has none: chats are refused then."""
    grammars: Grammars
    buckets: Buckets

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every executable, the most useful first."""
        return self.buckets.shapes()


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    """A model for embeddings on its device."""

    model: str
    """The name clients use."""
    runner: "EmbeddingRunner"
    tokenizer: "Tokenizer"
    max_len: int
    """Tokens of one text."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every executable, the most useful first."""
        lengths = tuple(length for length in _EMBED_LENGTHS if length < self.max_len)
        return embed_shapes(_EMBED_ROWS, (*lengths, self.max_len))

    def encode(self, text: str) -> tuple[int, ...]:
        """The text's tokens, between the marks the model was trained with."""
        return tuple(self.tokenizer.encode(text).ids)


class Loading:
    """One model on its way to serving."""

    def __init__(
        self, settings: Settings, backend: Backend, readiness: Readiness, compiled: Callable[[Shape, float], None]
    ) -> None:
        """`compiled` hears of every executable and the seconds it took, in the loading thread."""
        self._settings = settings
        self._backend = backend
        self._readiness = readiness
        self._compiled = compiled
        self._stopping = threading.Event()
        self._fetched = threading.Event()

    def stop(self) -> None:
        """Make the loading thread raise `Stopped` at its next report; waits until no download is left behind."""
        self._stopping.set()
        self._fetched.wait(_STOP_S)

    def load(self) -> Loaded | LoadedEmbedder:
        """Fetch and read the model and compile the first two executables.

        Raises `ModelUnavailable`, `DeviceUnavailable`, or `Stopped`.
        """
        loaded = self.read()
        for done, shape in enumerate(loaded.shapes[:_NEEDED]):
            self._check_stopping()
            self._readiness.compiling(done, _NEEDED, str(shape))
            with self._explaining():
                self._compile(loaded.runner, shape)
        return loaded

    def read(self) -> Loaded | LoadedEmbedder:
        """Fetch and read the model, and compile nothing. Raises as `load` does."""
        settings = self._settings
        prepare_environment(self._backend, devices=settings.devices, cache_dir=settings.cache_dir)
        with ThreadPoolExecutor(1, thread_name_prefix="import") as pool:
            # Downloading waits for the network while importing keeps a core busy.
            importing = pool.submit(importlib.import_module, "workers.trainium.model.runner")
            try:
                model, path = locate(
                    settings.model, settings.cache_dir, from_wheel=settings.from_wheel, report=self._report_fetching
                )
            finally:
                self._fetched.set()
            importing.result()
        from workers.trainium.model.runner import use_compilation_cache

        self._report_loading(0, 0)
        use_compilation_cache(settings.cache_dir / "executables")
        is_encoder = path.is_dir() and read_json(path / "config.json").get("model_type") == "bert"
        with self._explaining():
            return self._load_embedder(model, path) if is_encoder else self._load_writer(model, path)

    def _load_embedder(self, model: str, path: Path) -> LoadedEmbedder:
        from tokenizers import Tokenizer

        from workers.trainium.model.embedding import EmbeddingRunner

        if self._settings.devices > 1:
            raise DeviceUnavailable("a model for embeddings runs on one device; leave --tensor-parallel-size away")
        backend, checkpoint = self._backend, Checkpoint(path)
        runner = EmbeddingRunner.load(
            checkpoint, platform=backend.platform, dtype=backend.dtype, report=self._report_loading
        )
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        trained = path / "sentence_bert_config.json"
        limit = int(read_json(trained)["max_seq_length"]) if trained.is_file() else runner.arch.positions
        return LoadedEmbedder(model, runner, tokenizer, min(limit, runner.arch.positions, self._settings.max_len))

    def _load_writer(self, model: str, path: Path) -> Loaded:
        from workers.trainium.model.runner import Capacity, JaxRunner
        from workers.trainium.model.weights import read_config

        settings, backend = self._settings, self._backend
        if path.is_dir():
            checkpoint = Checkpoint(path)
            file: GgufFile | Checkpoint = checkpoint
            limit = read_config(checkpoint.config, str(path)).context
            vocabulary = Vocabulary.from_folder(path, read_config(checkpoint.config, str(path)).vocab)
            source = read_template(path)
        else:
            file = gguf = GgufFile(path)
            limit = gguf.integer("llama.context_length")
            vocabulary = Vocabulary.from_gguf(gguf)
            found = gguf.metadata.get("tokenizer.chat_template")
            source = found if isinstance(found, str) else None
        if settings.max_len > limit:
            raise ModelUnavailable(f"--max-model-len {settings.max_len} is more than the {limit} tokens {model} knows")
        runner = JaxRunner.load(
            file,
            Capacity(settings.slots, settings.max_len),
            platform=backend.platform,
            dtype=backend.dtype,
            report=self._report_loading,
            devices=settings.devices,
        )
        buckets = plan_buckets(backend.prefill, settings.slots, settings.max_len)
        template = ChatTemplate(source, vocabulary.marks) if source is not None else None
        return Loaded(model, runner, vocabulary, template, Grammars(vocabulary), buckets)

    def compile_rest(self, loaded: Loaded | LoadedEmbedder) -> None:
        """Compile the other executables while requests are already served. Raises `Stopped`."""
        shapes = loaded.shapes
        for shape in shapes[_NEEDED:]:
            self._check_stopping()
            self._readiness.ready(len(loaded.runner.ready), len(shapes), f"compiling {shape} in the background")
            try:
                self._compile(loaded.runner, shape)
            except Exception:
                # The compiler's own errors have no common type. Requests are served without this shape, only slower.
                log.exception("executable.failed", shape=str(shape))
        self._readiness.ready(len(loaded.runner.ready), len(shapes), "serving")

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """JAX's errors, all of which are `RuntimeError`s, as `DeviceUnavailable` with what to do."""
        try:
            yield
        except RuntimeError as error:
            platform, said = self._backend.platform, str(error)[:_LONGEST_CAUSE]
            hint = explain_failure([said]) or " Is JAX_PLATFORMS set?"
            raise DeviceUnavailable(f"the {platform} device cannot be used: {said.rstrip('. ')}.{hint}") from error

    def _compile(self, runner: "JaxRunner | EmbeddingRunner", shape: Shape) -> None:
        seconds = runner.compile(shape)
        log.info("executable.compiled", shape=str(shape), seconds=round(seconds, 2))
        self._compiled(shape, seconds)

    def _report_fetching(self, done: int, total: int, detail: str) -> None:
        self._check_stopping()
        self._readiness.fetching(done, total, detail)

    def _report_loading(self, done: int, total: int) -> None:
        self._check_stopping()
        self._readiness.loading(done, total)

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopped

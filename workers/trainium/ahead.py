"""`compile`: every graph of a model as files, for a build host that has the device's compiler and no device.

Per shape the StableHLO text and the HLO module as protobuf, which `neuronx-cc compile` takes; and a manifest with what
was checked. Where `neuronx-cc` is installed it is run, and its verdict noted. Blocking.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import WorkerError
from workers.trainium.model.embedding import EmbeddingRunner
from workers.trainium.model.graphs import count_operations, problems_of
from workers.trainium.model.runner import JaxRunner
from workers.trainium.neuron import find_compiler

_COMPILE_S = 7200.0


def write_graphs(
    model: str,
    runner: JaxRunner | EmbeddingRunner,
    shapes: Sequence[Shape],
    folder: Path,
    *,
    target: str,
    report: Callable[[str], None],
) -> list[str]:
    """Write all graphs and `manifest.json` into the folder; returns every problem found, with its shape.

    Raises `WorkerError` when the folder cannot be written.
    """
    compiler = find_compiler()
    entries, problems = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shape in shapes:
            report(str(shape))
            entry = _write_graph(runner, shape, folder)
            if compiler is not None and not entry["problems"]:
                entry["compiled"] = _compile(compiler, folder / entry["hlo"], target)
                if entry["compiled"]["code"] != 0:
                    entry["problems"].append("neuronx-cc refused it; see the manifest")
            entries.append(entry)
            problems += [f"{shape}: {problem}" for problem in entry["problems"]]
        manifest = {
            "model": model,
            "jax": metadata.version("jax"),
            "target": target,
            "compiler": compiler,
            "graphs": entries,
        }
        (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    except OSError as error:
        raise WorkerError(f"cannot write into {folder}: {error}") from error
    return problems


def _write_graph(runner: JaxRunner | EmbeddingRunner, shape: Shape, folder: Path) -> dict[str, Any]:
    lowered = runner.lower(shape)
    text = lowered.as_text()
    name = str(shape).replace(" ", "-").replace("=", "")
    (folder / f"{name}.stablehlo.mlir").write_text(text)
    module: bytes = _module_of(lowered).as_serialized_hlo_module_proto()
    (folder / f"{name}.hlo.pb").write_bytes(module)
    return {
        "shape": str(shape),
        "stablehlo": f"{name}.stablehlo.mlir",
        "hlo": f"{name}.hlo.pb",
        "bytes": len(module),
        "operations": dict(sorted(count_operations(text).items())),
        "donated": runner.donated(shape),
        "problems": problems_of(text, shape, donated=runner.donated(shape)),
    }


def _module_of(lowered: Any) -> Any:
    """The lowered graph as an HLO module, which JAX leaves untyped."""
    return lowered.compiler_ir("hlo")


def _compile(compiler: str, path: Path, target: str) -> dict[str, Any]:
    """What `neuronx-cc` says of one graph."""
    output = path.with_suffix(".neff")
    command = [compiler, "compile", str(path), "--framework", "XLA", "--target", target]
    command += ["--model-type", "transformer", "--output", str(output)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S, check=False)  # noqa: S603  # the compiler the user installed
    except subprocess.TimeoutExpired:
        return {"code": -1, "seconds": _COMPILE_S, "said": "no end in sight"}
    return {
        "code": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "bytes": output.stat().st_size if output.is_file() else 0,
        "said": (done.stdout + done.stderr)[-2000:] if done.returncode else "",
    }

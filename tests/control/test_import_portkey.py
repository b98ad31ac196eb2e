"""Portkey's configs become ours: targets, strategies in strategies, models that conditions ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook, load
from gateway.config.problems import Report
from gateway.control.imports.portkey import ModelsUntold, convert, weights
from gateway.control.imports.reading import NOT_CARRIED
from gateway.domain.backend import BearerCredential, HeaderCredential
from tests.control.foreign import book_of, routes_of

PASTED = "sk-ant-canary"
FALLBACK: dict[str, Any] = {
    "retry": {"attempts": 5, "on_status_codes": [429, 529]},
    "cache": {"mode": "simple", "max_age": 3600},
    "request_timeout": 30000,
    "strategy": {"mode": "fallback", "on_status_codes": [429, 500]},
    "targets": [
        {
            "strategy": {"mode": "loadbalance"},
            "targets": [
                {
                    "virtual_key": "openai-main-258f4d",
                    "weight": 0.75,
                    "override_params": {"model": "gpt-4.1", "temperature": 0},
                },
                {
                    "provider": "azure-openai",
                    "virtual_key": "azure-test-4110dd",
                    "weight": 0.25,
                    "resource_name": "my-res",
                    "deployment_id": "gpt41",
                    "api_version": "2024-10-21",
                },
                {"provider": "openai", "weight": 0},
            ],
        },
        {"provider": "@groq-prod", "override_params": {"model": "@groq-prod/llama-3.3-70b-versatile"}},
        {"provider": "openai", "api_key": PASTED, "custom_host": "http://vllm:8000/v1", "forward_headers": ["x"]},
        {"virtual_key": "mystery"},
    ],
}


def converted(config: object, folder: Path, *models: str) -> tuple[PolicyBook, dict[str, str]]:
    report = Report()
    draft = convert(json.loads(json.dumps(config)), "config.json", report, models)
    text = draft.yaml("x")
    assert "canary" not in text + "".join(map(str, report.warnings))
    places: dict[str, str] = {}
    for note in report.warnings:
        places[note.path] = f"{places[note.path]}; {note.message}" if note.path in places else note.message
    return book_of(draft, folder), places


def test_strategies_in_strategies_become_groups_in_routes(tmp_path: Path) -> None:
    """The public model is the one that the first target asks for: here a client asks for a name, not for a config."""
    book, _ = converted(FALLBACK, tmp_path)
    assert routes_of(book) == {
        "gpt-4.1": (
            "priority",
            ("weighted", "openai-main-258f4d/gpt-4.1*3", "azure-test-4110dd/gpt41*1"),
            "groq-prod/llama-3.3-70b-versatile*1",
            "openai/gpt-4.1*1",
        )
    }
    policy = book.policies["imported"].policy
    assert (policy.retries.attempts, policy.timeouts.total) == (3, 30)


def test_each_key_that_lies_with_portkey_becomes_a_variable(tmp_path: Path) -> None:
    book, notes = converted(FALLBACK, tmp_path)
    openai, azure = book.backends["openai-main-258f4d"], book.backends["azure-test-4110dd"]
    assert openai.credential == BearerCredential(bearer="env:OPENAI_MAIN_258F4D_API_KEY")
    assert isinstance(azure.credential, HeaderCredential)
    assert azure.credential.header.value == "env:AZURE_TEST_4110DD_API_KEY"
    assert azure.base_url == "https://my-res.openai.azure.com/openai"
    assert azure.models["gpt41"].quirks.path == "/deployments/{model}{path}?api-version=2024-10-21"
    assert book.backends["openai"].allow_private
    assert "$OPENAI_MAIN_258F4D_API_KEY" in notes["$.targets[0].targets[0]"]


def test_everything_that_is_lost_is_said_by_its_place(tmp_path: Path) -> None:
    _, notes = converted(FALLBACK, tmp_path)
    assert {place for place, message in notes.items() if message == NOT_CARRIED} == {
        "$.cache",
        "$.targets[0].targets[0].override_params.temperature",
        "$.targets[2].forward_headers",
    }
    assert {place for place, message in notes.items() if message != NOT_CARRIED} == {
        "$.strategy.on_status_codes",
        "$.retry.on_status_codes",
        "$.retry.attempts",
        "$.targets[0].targets[0]",
        "$.targets[0].targets[1]",
        "$.targets[0].targets[2].weight",
        "$.targets[1]",
        "$.targets[2]",
        "$.targets[2].api_key",
        "$.targets[3]",
    }


CONDITIONAL: dict[str, Any] = {
    "strategy": {
        "mode": "conditional",
        "conditions": [
            {"query": {"params.model": {"$eq": "fast"}}, "then": "lb"},
            {"query": {"params.model": {"$in": ["good", "better"]}}, "then": "direct"},
            {"query": {"metadata.user_plan": {"$eq": "paid"}}, "then": "direct"},
        ],
        "default": "direct",
    },
    "targets": [
        {
            "name": "lb",
            "strategy": {"mode": "loadbalance"},
            "targets": [
                {"provider": "openai", "virtual_key": "openai-one", "override_params": {"model": "small"}},
                {"provider": "openai", "virtual_key": "openai-two", "override_params": {"model": "small"}},
            ],
        },
        {"id": "direct", "provider": "openai", "override_params": {"model": "big"}},
    ],
}


def test_a_condition_on_the_model_becomes_a_public_model(tmp_path: Path) -> None:
    """Any other condition is said: here who asks is known by the key, not by what the request says of itself."""
    book, notes = converted(CONDITIONAL, tmp_path, "whatever")
    assert routes_of(book) == {
        "whatever": ("priority", "openai/big*1"),
        "fast": ("weighted", "openai-one/small*1", "openai-two/small*1"),
        "good": ("priority", "openai/big*1"),
        "better": ("priority", "openai/big*1"),
    }
    assert "only the model" in notes["$.strategy.conditions[2]"]


def test_models_that_clients_choose_are_asked_for_by_their_own_names(tmp_path: Path) -> None:
    """Told by the operator, because the config does not know them."""
    config = {"strategy": {"mode": "loadbalance"}, "targets": [{"provider": "openai"}, {"provider": "openrouter"}]}
    with pytest.raises(ModelsUntold):
        converted(config, tmp_path)
    book, _ = converted(config, tmp_path, "gpt-4.1", "gpt-4.1-mini")
    assert routes_of(book) == {
        name: ("weighted", f"openai/{name}*1", f"openrouter/{name}*1") for name in ("gpt-4.1", "gpt-4.1-mini")
    }


@pytest.mark.parametrize(
    "config",
    [
        {"provider": "openai", "override_params": {"model": "a"}},
        {"config": {"provider": "openai", "overrideParams": {"model": "a"}}},
        {"success": True, "data": {"config": {"provider": "@openai-x", "override_params": {"model": "@openai-x/a"}}}},
        {"targets": [{"provider": "openai", "override_params": {"model": "a"}}, {"provider": "groq"}]},
    ],
)  # fmt: skip
def test_one_target_is_enough_however_it_is_wrapped(tmp_path: Path, config: object) -> None:
    book, _ = converted(config, tmp_path)
    (only,) = routes_of(book)["a"][1:]  # type: ignore[index]  # a tuple, as everywhere
    assert only.endswith("/a*1")


def test_a_target_may_be_told_by_its_model_alone(tmp_path: Path) -> None:
    """`@slug/model`, and shares as text."""
    config = {
        "strategy": {"mode": "loadbalance"},
        "targets": [
            {"override_params": {"model": "@openai-prod/gpt-4o"}, "weight": "0.7"},
            {"virtual_key": "open-ai-virtual-1", "override_params": {"model": "gpt-4o"}, "weight": "0.3"},
        ],
    }
    book, _ = converted(config, tmp_path)
    assert routes_of(book) == {"gpt-4o": ("weighted", "openai-prod/gpt-4o*7", "open-ai-virtual-1/gpt-4o*3")}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.75, 0.25], [3, 1]), ([5, 3, 1], [5, 3, 1]), ([1], [1]), ([0.0001, 1], [1, 1000]), ([0.7, 0.3], [7, 3])],
)
def test_shares_become_whole_numbers(shares: list[float], expected: list[int]) -> None:
    assert weights(shares) == expected


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(
    ["", "openai", "@openai-x", "azure-openai", "fallback", "loadbalance", "conditional", "a", "https://a.example/v1",
     PASTED, "http://x:0", "bedrock", "lb", "ollama", "é", "groq-1"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["strategy", "mode", "targets", "weight", "provider", "virtual_key", "api_key", "override_params", "model", "name",
     "conditions", "query", "then", "default", "params.model", "$eq", "$in", "retry", "attempts", "request_timeout",
     "custom_host", "resource_name", "api_version", "config", "x"]
)  # fmt: skip
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6))
PROVIDED = st.fixed_dictionaries(
    {"provider": st.sampled_from(["openai", "@groq-1", "azure-openai", "ollama"])},
    optional={"weight": SCALARS, "override_params": TREES, "name": SCALARS, "api_key": SCALARS, "custom_host": SCALARS},
)
GROUPS = st.recursive(
    PROVIDED,
    lambda inner: st.fixed_dictionaries(
        {
            "strategy": st.fixed_dictionaries(
                {"mode": st.sampled_from(["fallback", "loadbalance", "conditional", "x"])}
            ),
            "targets": st.lists(inner | TREES, max_size=3),
        },
        optional={"weight": SCALARS, "retry": TREES, "request_timeout": SCALARS},
    ),
    max_leaves=6,
)


@given(config=GROUPS | TREES, models=st.lists(st.sampled_from(["a", "b/c", "é"]), max_size=2))
@settings(deadline=None, max_examples=60)
def test_whatever_the_config_holds_what_comes_of_it_is_sound_and_without_secrets(
    tmp_path_factory: pytest.TempPathFactory, config: Any, models: list[str]
) -> None:
    report = Report()
    try:
        draft = convert(config, "config.json", report, models)
    except ModelsUntold:
        return
    text = draft.yaml("a test")
    assert "canary" not in text + "".join(map(str, report.warnings))
    if draft.models:
        file = tmp_path_factory.getbasetemp() / "whatever.yaml"
        file.write_text(text, "utf-8")
        load([file])

"""LiteLLM's configuration becomes ours: what is carried, what is said to be lost, and that no secret moves."""

import datetime as dt
import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook, load
from gateway.config.problems import Report
from gateway.control.imports.litellm import convert
from gateway.control.imports.reading import NOT_CARRIED, Node
from gateway.domain.backend import AwsCredential, AzureCredential, BearerCredential, GoogleCredential, HeaderCredential
from gateway.domain.limits import Limits
from tests.control.foreign import book_of, notes_of, routes_of

PASTED = "sk-live-canary-0001"
PROXY = f"""
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://my-endpoint-europe.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: "2024-08-01-preview"
      rpm: 6
      timeout: 30
    model_info: {{base_model: azure/gpt-4o}}
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-ca
      api_base: https://my-endpoint-canada.openai.azure.com/openai/v1
      api_key: {PASTED}
      rpm: 18
  - model_name: gpt-4o-mini
    litellm_params: {{model: gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY, temperature: 0.2}}
    model_info: {{max_input_tokens: 128000, input_cost_per_token: 1.5e-07, output_cost_per_token: 6e-07}}
  - model_name: local
    litellm_params: {{model: hosted_vllm/meta-llama/Llama-3.3-70B, api_base: os.environ/VLLM_BASE, api_key: EMPTY}}
  - model_name: "openai/*"
    litellm_params: {{model: "openai/*", api_key: os.environ/OPENAI_API_KEY}}
litellm_settings:
  num_retries: 3
  request_timeout: 90
  drop_params: true
  fallbacks: [{{"gpt-4o": ["gpt-4o-mini", "nowhere"]}}]
  success_callback: [langfuse]
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {{"gpt-4": "gpt-4o"}}
general_settings:
  master_key: sk-canary-master
"""


def converted(text: str, folder: Path, **environ: str) -> tuple[PolicyBook, dict[str, str]]:
    report = Report()
    draft = convert(yaml.safe_load(text), "config.yaml", report, environ)
    return book_of(draft, folder), notes_of(report)


@pytest.fixture
def proxy(tmp_path: Path) -> tuple[PolicyBook, dict[str, str]]:
    """A configuration as people have it, converted."""
    return converted(PROXY, tmp_path, VLLM_BASE="http://vllm:8000/v1")


def test_groups_become_routes_with_their_fallbacks_behind_them(proxy: tuple[PolicyBook, dict[str, str]]) -> None:
    """The shuffle there is by what each deployment may take, here by weight."""
    book, _ = proxy
    shared = (
        "priority",
        ("weighted", "azure-my-endpoint-europe/gpt-4o-eu*6", "azure-my-endpoint-canada/gpt-4o-ca*18"),
        "openai/gpt-4o-mini*1",
    )
    assert routes_of(book) == {
        "gpt-4o": shared,
        "gpt-4": shared,
        "gpt-4o-mini": ("priority", "openai/gpt-4o-mini*1"),
        "local": ("priority", "vllm/meta-llama/Llama-3.3-70B*1"),
    }


def test_deployments_become_backends(proxy: tuple[PolicyBook, dict[str, str]]) -> None:
    """With the addresses, key names, paths, prices and contexts that they had."""
    book, _ = proxy
    europe, canada = book.backends["azure-my-endpoint-europe"], book.backends["azure-my-endpoint-canada"]
    assert europe.base_url == "https://my-endpoint-europe.openai.azure.com/openai"
    assert europe.models["gpt-4o-eu"].quirks.path == "/deployments/{model}{path}?api-version=2024-08-01-preview"
    assert isinstance(europe.credential, HeaderCredential)
    assert (europe.credential.header.name, europe.credential.header.value) == ("api-key", "env:AZURE_API_KEY_EU")
    assert canada.base_url == "https://my-endpoint-canada.openai.azure.com/openai/v1"
    assert canada.models["gpt-4o-ca"].quirks.path is None
    local = book.backends["vllm"]
    assert (local.base_url, local.allow_private, local.credential) == ("http://vllm:8000/v1", True, None)
    facts = book.backends["openai"].models["gpt-4o-mini"]
    assert facts.context == 128_000
    assert facts.prices is not None
    assert (facts.prices.input, facts.prices.output) == (Decimal("0.15"), Decimal("0.6"))


def test_what_holds_for_all_becomes_the_policy(proxy: tuple[PolicyBook, dict[str, str]]) -> None:
    book, _ = proxy
    policy = book.policies["imported"].policy
    assert (policy.retries.attempts, policy.timeouts.total) == (3, 90)
    assert {route.on_unsupported for route in policy.models.values()} == {"drop"}
    assert list(book.tenants) == ["default"]


def test_everything_that_is_lost_is_said_by_its_place(proxy: tuple[PolicyBook, dict[str, str]]) -> None:
    """And nothing else: whoever reads the notes knows what to do by hand."""
    _, notes = proxy
    list_ = "$.model_list"
    assert {place for place, message in notes.items() if message == NOT_CARRIED} == {
        f"{list_}[0].litellm_params.timeout",
        f"{list_}[2].litellm_params.temperature",
        "$.litellm_settings.success_callback",
    }
    assert {place for place, message in notes.items() if message != NOT_CARRIED} == {
        f"{list_}[1].litellm_params.api_key",
        f"{list_}[3].litellm_params.api_base",
        f"{list_}[4].model_name",
        "$.litellm_settings.num_retries",
        "$.litellm_settings.fallbacks",
        "$.general_settings.master_key",
    }
    assert "nowhere" in notes["$.litellm_settings.fallbacks"]


def test_no_secret_moves(tmp_path: Path) -> None:
    """One that stands in the file becomes a variable to be set; the same one the same variable, another another."""
    text = f"""
model_list:
  - {{model_name: a, litellm_params: {{model: openai/gpt-4o, api_key: {PASTED}}}}}
  - {{model_name: b, litellm_params: {{model: openai/gpt-4o, api_key: sk-live-canary-0002}}}}
  - {{model_name: c, litellm_params: {{model: openai/gpt-4.1, api_key: {PASTED}}}}}
"""
    report = Report()
    draft = convert(yaml.safe_load(text), "config.yaml", report, {})
    book = book_of(draft, tmp_path)
    assert "canary" not in draft.yaml("x") + "".join(map(str, report.warnings))
    assert [backend.credential for backend in book.backends.values()] == [
        BearerCredential(bearer="env:OPENAI_API_KEY"),
        BearerCredential(bearer="env:OPENAI_API_KEY_2"),
    ]
    assert set(book.backends["openai"].models) == {"gpt-4o", "gpt-4.1"}


PLACES: list[tuple[str, str, str, type | None]] = [
    ("{model: anthropic/claude-haiku-4-5, api_key: os.environ/A}", "anthropic/claude-haiku-4-5",
     "https://api.anthropic.com/v1", HeaderCredential),
    ("{model: anthropic/claude-haiku-4-5, api_base: 'https://proxy.example', api_key: os.environ/A}",
     "anthropic-proxy/claude-haiku-4-5", "https://proxy.example/v1", HeaderCredential),
    ("{model: bedrock/us.amazon.nova-pro-v1:0, aws_region_name: us-east-1}", "bedrock/us.amazon.nova-pro-v1:0",
     "https://bedrock-runtime.us-east-1.amazonaws.com", AwsCredential),
    ("{model: bedrock/converse/us.amazon.nova-pro-v1:0, aws_region_name: eu-west-1, aws_profile_name: prod}",
     "bedrock/us.amazon.nova-pro-v1:0", "https://bedrock-runtime.eu-west-1.amazonaws.com", AwsCredential),
    ("{model: gemini/gemini-2.5-flash}", "gemini/gemini-2.5-flash",
     "https://generativelanguage.googleapis.com/v1beta", HeaderCredential),
    ("{model: vertex_ai/gemini-2.5-flash, vertex_project: p, vertex_location: us-central1}", "vertex/gemini-2.5-flash",
     "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google",
     GoogleCredential),
    ("{model: vertex_ai/claude-haiku-4-5@20251001, vertex_project: p}", "vertex/claude-haiku-4-5@20251001",
     "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/anthropic/models", GoogleCredential),
    ("{model: groq/llama-3.3-70b-versatile, api_key: os.environ/GROQ}", "groq/llama-3.3-70b-versatile",
     "https://api.groq.com/openai/v1", BearerCredential),
    ("{model: openrouter/anthropic/claude-sonnet-4.5}", "openrouter/anthropic/claude-sonnet-4.5",
     "https://openrouter.ai/api/v1", BearerCredential),
    ("{model: ollama_chat/llama3.1, api_base: 'http://localhost:11434'}", "ollama-localhost/llama3.1",
     "http://localhost:11434/v1", None),
    ("{model: openai/mine, api_base: 'https://llm.example/v1'}", "openai-llm/mine", "https://llm.example/v1", None),
    ("{model: mine, custom_llm_provider: openai, api_base: 'https://llm.example/v1', api_key: os.environ/MINE}",
     "openai-llm/mine", "https://llm.example/v1", BearerCredential),
    ("{model: azure/g, api_base: 'https://r.example', tenant_id: t, client_id: c, client_secret: os.environ/S}",
     "azure-r/g", "https://r.example/openai", AzureCredential),
    ("{model: azure/gpt, api_base: 'https://r.openai.azure.com', api_version: preview}", "azure-r/gpt",
     "https://r.openai.azure.com/openai/v1", HeaderCredential),
]  # fmt: skip


OTHER_DIALECTS = {
    "claude-haiku-4-5": "anthropic",
    "claude-haiku-4-5@20251001": "anthropic",
    "us.amazon.nova-pro-v1:0": "bedrock",
    "gemini-2.5-flash": "gemini",
}


@pytest.mark.parametrize(("params", "target", "url", "credential"), PLACES, ids=[case[1] for case in PLACES])
def test_each_provider_is_asked_where_it_is(
    tmp_path: Path, params: str, target: str, url: str, credential: type | None
) -> None:
    """The provider's own variable is the key's default, but never at an address that is not the provider's."""
    book, _ = converted(f"model_list: [{{model_name: m, litellm_params: {params}}}]", tmp_path)
    assert routes_of(book) == {"m": ("priority", f"{target}*1")}
    (place,) = book.backends.values()
    assert place.base_url == url
    assert type(place.credential) is (type(None) if credential is None else credential)
    assert place.dialect == OTHER_DIALECTS.get(target.partition("/")[2], "openai")


def test_embeddings_are_asked_for_where_they_are_served(tmp_path: Path) -> None:
    """In OpenAI's dialect alone: Gemini's other door has them, Bedrock has none."""
    text = """
model_list:
  - {model_name: e, litellm_params: {model: gemini/gemini-embedding-001}, model_info: {mode: embedding}}
  - {model_name: t, litellm_params: {model: bedrock/amazon.titan, aws_region_name: a}, model_info: {mode: embedding}}
"""
    book, notes = converted(text, tmp_path)
    (place,) = book.backends.values()
    assert place.base_url == "https://generativelanguage.googleapis.com/v1beta/openai"
    assert place.models["gemini-embedding-001"].accepts == ("embeddings",)
    assert "embeddings" in notes["$.model_list[1].litellm_params"]


def test_what_the_environment_should_say_and_does_not_is_named(tmp_path: Path) -> None:
    """Where a project or a region is missing, another one must not be taken in silence."""
    text = """
model_list:
  - model_name: m
    litellm_params:
      {model: vertex_ai/gemini-3.5-flash, vertex_project: os.environ/PROJECT, vertex_location: os.environ/LOCATION}
  - {model_name: i, litellm_params: {model: openai/gpt-image-2}, model_info: {mode: image_generation}}
litellm_settings: {request_timeout: 6000}
"""
    book, notes = converted(text, tmp_path, PROJECT="p")
    assert "/projects/p/locations/global/" in book.backends["vertex"].base_url
    assert set(notes) == {
        "$.model_list[0].litellm_params.vertex_location",
        "$.model_list[1].litellm_params.model",
        "$.litellm_settings.request_timeout",
    }
    assert "$LOCATION" in notes["$.model_list[0].litellm_params.vertex_location"]


STRATEGIES = [
    ("least-busy", "least_busy"),
    ("latency-based-routing", "latency"),
    ("cost-based-routing", "cost"),
    ("usage-based-routing-v2", "least_busy"),
    ("made-up", "weighted"),
]


@pytest.mark.parametrize(("theirs", "ours"), STRATEGIES)
def test_the_strategy_is_the_nearest_one(tmp_path: Path, theirs: str, ours: str) -> None:
    text = f"""
router_settings: {{routing_strategy: {theirs}}}
model_list:
  - {{model_name: m, litellm_params: {{model: openai/a, weight: 3}}}}
  - {{model_name: m, litellm_params: {{model: openai/b}}}}
  - {{model_name: m, litellm_params: {{model: openai/b}}}}
"""
    book, notes = converted(text, tmp_path)
    weights = (3, 2) if ours == "weighted" else (1, 2)
    assert routes_of(book)["m"] == (ours, f"openai/a*{weights[0]}", f"openai/b*{weights[1]}")
    assert ("$.router_settings.routing_strategy" in notes) == (theirs in {"made-up", "usage-based-routing-v2"})


def test_what_a_deployment_is_granted_is_its_backends_limit(tmp_path: Path) -> None:
    """Each has its own there, so a backend here serves one of them; the same one twice is still one."""
    text = """
router_settings: {routing_strategy: least-busy}
model_list:
  - {model_name: m, litellm_params: {model: openai/a, rpm: 60, tpm: 1000, max_parallel_requests: 4}}
  - {model_name: n, litellm_params: {model: openai/b, rpm: 60, tpm: 1000, max_parallel_requests: 4}}
  - {model_name: o, litellm_params: {model: openai/a}, rpm: 60, tpm: 1000}
  - {model_name: p, litellm_params: {model: openai/a, rpm: 60, tpm: 1000, max_parallel_requests: 4}}
"""
    book, notes = converted(text, tmp_path)
    assert routes_of(book) == {
        "m": ("priority", "openai/a*1"),
        "n": ("priority", "openai-2/b*1"),
        "o": ("priority", "openai-3/a*1"),
        "p": ("priority", "openai/a*1"),
    }
    part = Limits(requests_per_minute=60, tokens_per_minute=1000)
    assert book.backends["openai"].limits == msgspec.structs.replace(part, concurrency=4)
    assert book.backends["openai-3"].limits == part
    assert notes == {}


def test_an_order_of_deployments_is_kept(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: m, litellm_params: {model: openai/spare, order: 2}}
  - {model_name: m, litellm_params: {model: openai/a, order: 1}}
  - {model_name: m, litellm_params: {model: openai/b, order: 1}}
"""
    book, _ = converted(text, tmp_path)
    assert routes_of(book)["m"] == ("priority", ("weighted", "openai/a*1", "openai/b*1"), "openai/spare*1")


def test_a_budget_of_the_proxy_becomes_one_of_its_tenant(tmp_path: Path) -> None:
    text = """
model_list: [{model_name: m, litellm_params: {model: openai/a}}]
litellm_settings: {max_budget: 100, budget_duration: 30d}
"""
    book, notes = converted(text, tmp_path)
    budget = book.policies["imported"].policy.budget
    assert budget is not None
    assert (budget.usd, budget.per) == (Decimal(100), "month")
    assert "each tenant" in notes["$.litellm_settings.max_budget"]


KEY = "sk-canary-of-a-client"
KEYS: dict[str, Any] = {
    "keys": [
        {
            "token": hashlib.sha256(KEY.encode()).hexdigest(),
            "key_name": "sk-...ient",
            "key_alias": "ci",
            "team_id": "Team_One",
            "models": ["m", "gone"],
            "tpm_limit": 1000,
            "rpm_limit": 10,
            "max_parallel_requests": 2,
            "max_budget": 5.5,
            "budget_duration": "1d",
            "spend": 1.25,
            "expires": "2030-01-31T10:00:00Z",
            "metadata": None,
        },
        {"token": "b" * 64, "models": ["all-team-models"], "blocked": None},
        {"token": "c" * 64, "blocked": True},
        "sk-hash-only",
    ],
    "total_count": 4,
}


def test_clients_keep_their_virtual_keys(tmp_path: Path) -> None:
    """LiteLLM keeps the SHA-256 of a key and so do we: a team is a tenant, limits and budgets go with the key."""
    report = Report()
    tree = yaml.safe_load("model_list: [{model_name: m, litellm_params: {model: openai/a}}]")
    draft = convert(tree, "config.yaml", report, {}, Node(KEYS, "keys.json", report))
    book = book_of(draft, tmp_path)
    assert set(book.tenants) == {"team-one", "default"}
    ci, other = book.keys
    assert (ci.tenant, ci.name, ci.digest, ci.models) == (
        "team-one",
        "ci",
        hashlib.sha256(KEY.encode()).digest(),
        ("m",),
    )
    assert (other.tenant, other.models) == ("default", None)
    assert ci.expires_at == dt.datetime(2030, 1, 31, tzinfo=dt.UTC).timestamp()
    assert draft.tenants["team-one"]["keys"] == [
        {
            "name": "ci",
            "sha256": ci.digest.hex(),
            "models": ["m"],
            "expires": "2030-01-31",
            "limits": {"requests_per_minute": 10, "tokens_per_minute": 1000, "concurrency": 2},
            "budget": {"usd": 5.5, "per": "day"},
        }
    ]
    assert set(notes_of(report)) == {
        "$.keys[0].models",
        "$.keys[0].expires",
        "$.keys[0].spend",
        "$.keys[2]",
        "$.keys[3]",
    }


SCALARS = st.none() | st.booleans() | st.integers(-5, 2000) | st.integers() | st.floats() | st.sampled_from(
    ["", "gpt-4o", "openai/gpt-4o", "azure/x", "os.environ/X", PASTED, "https://a.example/v1", "http://x:0", "1d", "*",
     "ollama/m", "[", "a b", "bedrock/x", "vertex_ai/claude", "é"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["model_name", "litellm_params", "model", "api_base", "api_key", "rpm", "tpm", "weight", "order", "api_version",
     "model_info", "mode", "max_input_tokens", "input_cost_per_token", "fallbacks", "num_retries", "timeout",
     "routing_strategy", "model_group_alias", "max_budget", "tenant_id", "client_secret", "vertex_project",
     "aws_region_name", "supports_vision", "drop_params", "gpt-4o", "x"]
)  # fmt: skip
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5))
ODD = dict.fromkeys(("api_base", "api_key", "api_version", "rpm", "weight", "order", "input_cost_per_token"), SCALARS)
DEPLOYMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "model_name": st.sampled_from(["gpt-4o", "x", "a" * 128]),
            "litellm_params": st.fixed_dictionaries(
                {"model": st.sampled_from(["openai/a", "gpt-4o", "azure/x", "ollama/m", "gemini/g"])}, optional=ODD
            ),
        },
        optional={"model_info": st.dictionaries(NAMES, SCALARS) | TREES},
    )
    | TREES,
    min_size=1,
    max_size=5,
)


@given(
    files=st.fixed_dictionaries(
        {"model_list": DEPLOYMENTS},
        optional={"router_settings": TREES, "litellm_settings": TREES, "general_settings": TREES, "x": TREES},
    ),
    keys=TREES,
)
@settings(deadline=None, max_examples=60)
def test_whatever_the_file_holds_what_comes_of_it_is_sound_and_without_secrets(
    tmp_path_factory: pytest.TempPathFactory, files: Any, keys: Any
) -> None:
    """Odd values are said and left out: nothing crashes, and `gateway check` has nothing to find."""
    report = Report()
    draft = convert(files, "config.yaml", report, {}, Node(keys, "keys.json", report))
    text = draft.yaml("a test")
    assert "canary" not in text + "".join(map(str, report.warnings))
    if draft.models:
        file = tmp_path_factory.getbasetemp() / "whatever.yaml"
        file.write_text(text, "utf-8")
        load([file])

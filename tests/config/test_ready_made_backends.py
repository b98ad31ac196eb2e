"""The ready-made backends: each file is sound as it stands, alone and beside all others, and keeps its promises."""

from pathlib import Path

import pytest
import yaml

from gateway.config.policies import PolicyBook, load

POLICIES = Path(__file__).parents[2] / "policies"
PRICES = POLICIES / "prices.yaml"
FILES = sorted((POLICIES / "backends").glob("*.yaml"))
EXPECTED = {
    "anthropic", "azure-anthropic", "azure-openai", "bedrock", "bedrock-anthropic", "bedrock-openai", "dynamo",
    "gemini", "gemini-openai", "nim", "oci-openai", "ollama", "openai", "sglang", "tensorrt-llm", "triton", "vertex",
    "vertex-openai", "vllm", "worker",
}  # fmt: skip
PLACEHOLDERS = ("my-resource", "my-project", "us-east-1", "us-central1", "us-chicago-1")


def test_there_is_one_for_every_provider() -> None:
    assert {file.stem for file in FILES} >= EXPECTED


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    """Each file in turn."""
    found: Path = request.param
    return found


def test_it_is_sound_as_it_stands(file: Path) -> None:
    """Only secrets may be missing; then the backend is left out, and the warning says so."""
    book = load([PRICES, file])
    assert book.backends
    assert [each for each in book.warnings if "is left out until it is there" not in each.message] == []


def test_each_model_says_how_long_a_prompt_may_be_and_what_it_takes(file: Path) -> None:
    """Routing would send anything to a model that says nothing. So it is written down, not left to the defaults."""
    for backend in yaml.safe_load(file.read_text("utf-8"))["backends"].values():
        for facts in backend["models"].values():
            assert facts.keys() >= {"context", "accepts"}


def test_what_is_somebody_elses_has_a_price_or_says_why_not(file: Path) -> None:
    """A model without prices counts as free, which nobody else's is."""
    book, text = load([PRICES, file]), file.read_text("utf-8")
    for name, backend in book.backends.items():
        for model, facts in backend.models.items():
            if facts.prices is None and facts.priced_as is None and backend.domains.provider != "in-house":
                assert "count as free" in text, (name, model)


def test_what_has_to_be_replaced_is_named_in_its_comment(file: Path) -> None:
    """Whoever copies it need not search."""
    text = file.read_text("utf-8")
    comment = text[: text.index("version: 1")]
    urls = [line for line in text.splitlines() if "base_url:" in line]
    for place in PLACEHOLDERS:
        assert f"`{place}`" in comment or not any(place in url for url in urls)


@pytest.fixture(scope="module")
def all_of_them() -> PolicyBook:
    """One gateway with every backend."""
    return load([PRICES, POLICIES / "backends"])


def test_all_stand_side_by_side(all_of_them: PolicyBook) -> None:
    """Their names differ."""
    assert len(all_of_them.backends) >= len(FILES)


def test_azures_classic_api_is_data(all_of_them: PolicyBook) -> None:
    place = all_of_them.backends["azure-openai-classic"]
    template = place.models["gpt-4.1-mini"].quirks.path
    assert template is not None
    path = template.replace("{model}", "gpt-4.1-mini").replace("{path}", "/chat/completions")
    assert f"{place.base_url}{path}" == (
        "https://my-resource.openai.azure.com/openai/deployments/gpt-4.1-mini/chat/completions?api-version=2024-10-21"
    )


def test_the_same_model_costs_the_same_through_either_door(all_of_them: PolicyBook) -> None:
    """By the price list, which both name."""
    doors = [all_of_them.backends[name].models["gpt-4.1-mini"] for name in ("openai", "azure-openai")]
    assert {facts.priced_as for facts in doors} == {"openai/gpt-4.1-mini"}

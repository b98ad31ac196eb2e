"""The policy book: what the stages look things up in."""

import datetime as dt
import hashlib
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.config.policies import PolicyBook, load
from gateway.config.problems import ConfigurationError, Report
from gateway.config.yaml_file import parse
from gateway.domain.limits import NO_LIMITS, Budget, Limits
from gateway.domain.plan import Route
from gateway.domain.policy import Strategy, When

DEMO = Path(__file__).parents[2] / "policies"
KEY = hashlib.sha256(b"a key of any shape").hexdigest()

TEXT = f"""
version: 1
backends:
  one:
    dialect: openai
    base_url: https://one.example/v1
    models:
      small: {{prices: {{input: 0.1, output: 0.40}}}}
      free: {{}}
  two:
    dialect: openai
    base_url: https://two.example/v1
    credential: {{bearer: env:TWO_KEY}}
    models: {{small: {{}}}}
policies:
  standard:
    models:
      assistant:
        strategy: {{mode: weighted}}
        targets: [{{backend: two, model: small, weight: 3}}, {{backend: one, model: small}}]
      gpt-4.1: {{targets: [{{backend: one, model: small}}, {{backend: one, model: free}}], single_provider_ack: true}}
    limits: {{requests_per_minute: 60, concurrency: 8}}
  other:
    models: {{only-two: {{targets: [{{backend: two, model: small}}], single_provider_ack: true}}}}
tenants:
  acme:
    policy: standard
    limits: {{requests_per_minute: 120}}
    keys: [{{name: ci, sha256: "{KEY}", models: [assistant], expires: 2027-01-01}}]
"""


def book(folder: Path, text: str = TEXT) -> PolicyBook:
    (folder / "x.yaml").write_text(text, encoding="utf-8")
    return load([folder / "x.yaml"])


def test_targets_are_resolved_in_their_order(tmp_path: Path) -> None:
    """A route holds everything an attempt needs; nothing is looked up by name later."""
    route = book(tmp_path).policies["standard"].routes["assistant"]
    assert [(str(target), target.weight) for target in route.leaves] == [("two/small", 3), ("one/small", 1)]
    assert route.strategy.mode == "weighted"
    assert route.leaves[1].place.base_url == "https://one.example/v1"


def test_the_same_target_is_the_same_object(tmp_path: Path) -> None:
    """What is known of a target (health, load) can be kept by it."""
    routes = book(tmp_path).policies["standard"].routes
    assert routes["assistant"].targets[1] is routes["gpt-4.1"].targets[0]


NESTED = """
        strategy: {mode: conditional}
        targets:
          - when: {prompt_tokens_over: 1000, tenants: [acme]}
            strategy: {mode: cost, gamma: 2}
            weight: 3
            targets: [{backend: one, model: small}, {backend: one, model: free}]
          - {backend: one, model: free, when: {stream: true}}
          - strategy: {mode: weighted}
            targets: [{backend: two, model: small, weight: 3}, {backend: one, model: small}]
"""


def test_lists_nest_with_strategies_and_conditions_of_their_own(tmp_path: Path) -> None:
    """A target is the same one under whatever condition it stands, and the route knows all of them."""
    begin, rest = TEXT.split("        strategy: {mode: weighted}\n")
    text = begin + NESTED.lstrip("\n") + rest.split("\n", 1)[1]
    made = book(tmp_path, text)
    route = made.policies["standard"].routes["assistant"]
    long, streamed, others = route.targets
    assert isinstance(long, Route)
    assert (long.strategy, long.weight) == (Strategy(mode="cost", gamma=2.0), 3)
    assert isinstance(others, Route)
    assert route.conditions == (When(prompt_tokens_over=1000, tenants=("acme",)), When(stream=True), None)
    assert streamed is long.targets[1]
    assert others.targets[1] is long.targets[0]
    assert [str(leaf) for leaf in route.leaves] == ["one/small", "one/free", "two/small"]
    assert (route.is_conditional, others.is_conditional) == (True, False)


def test_a_weight_that_nobody_reads_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWO_KEY", "sk-1")
    warnings = book(tmp_path, TEXT.replace("{mode: weighted}", "{mode: priority}")).warnings
    assert [f"{problem.path}: {problem.message}" for problem in warnings] == [
        "$.policies.standard.models.assistant.targets[0].weight: `priority` does not read weights",
        "$.policies.other: no tenant uses this policy",
    ]


def test_prices_are_exact(tmp_path: Path) -> None:
    """A tenth of a dollar in YAML is a hundred million nano-dollars, and no price is free."""
    targets = book(tmp_path).policies["standard"].routes["gpt-4.1"].leaves
    assert (targets[0].prices.input, targets[0].prices.output) == (100_000_000, 400_000_000)
    assert (targets[1].prices.input, targets[1].prices.output) == (0, 0)


LISTED = """
prices:
  openai/gpt-x: {2026-01-01: {input: 1, output: 2}, 2026-07-01: {input: 3, output: 4, reasoning: 5}}
  openai/gpt-y: {}
"""


def test_a_model_may_be_priced_by_the_list(tmp_path: Path) -> None:
    """From the day on that the list says; the policy's revision changes with the list."""
    path = tmp_path / "gateway.yaml"
    text = TEXT.replace("free: {}", "free: {priced_as: openai/gpt-x}") + LISTED
    path.write_text(text)
    made = load([path], today=dt.date(2026, 5, 1))
    prices = next(leaf for leaf in made.policies["standard"].routes["gpt-4.1"].leaves if leaf.model == "free").prices
    july = dt.datetime(2026, 7, 1, tzinfo=dt.UTC).timestamp()
    assert (prices.input, prices.at(july - 1).input, prices.at(july).input) == (10**9, 10**9, 3 * 10**9)
    path.write_text(text.replace("reasoning: 5", "reasoning: 6"))
    other = load([path], today=dt.date(2026, 5, 1))
    assert other.revision != made.revision
    assert other.policies["standard"].revision != made.policies["standard"].revision


def test_own_prices_come_before_the_list(tmp_path: Path) -> None:
    """And the check says that the entry is not read."""
    text = TEXT.replace("free: {}", "free: {priced_as: openai/gpt-x, prices: {input: 7, output: 8}}") + LISTED
    made = book(tmp_path, text)
    prices = next(leaf for leaf in made.policies["standard"].routes["gpt-4.1"].leaves if leaf.model == "free").prices
    assert (prices.input, prices.following) == (7 * 10**9, None)
    assert "$.backends.one.models.free.priced_as" in [problem.path for problem in made.warnings]


DOLLARS = "budget: {usd: 5, per: day}"


@pytest.mark.parametrize(
    ("old", "new", "unseen"),
    [
        ("limits: {requests_per_minute: 120}", DOLLARS, ["two.small", "one.free"]),
        ("limits: {requests_per_minute: 60, concurrency: 8}", DOLLARS, ["two.small", "one.free"]),
        ("limits: {requests_per_minute: 120}", "budget: {tokens: 5, per: day}", []),
        ("models: [assistant], expires", f"{DOLLARS}, expires", ["two.small", "one.free"]),
        ("gpt-4.1: {targets", f"gpt-4.1: {{{DOLLARS}, targets", ["one.free"]),
        ("free: {}", "free: {priced_as: openai/gpt-x}", []),
    ],
)
def test_a_budget_in_dollars_that_cannot_see_is_a_warning(
    tmp_path: Path, old: str, new: str, unseen: list[str]
) -> None:
    """A model without prices counts as free: such a budget would never be spent."""
    assert old in TEXT
    warnings = book(tmp_path, TEXT.replace(old, new) + LISTED).warnings
    found = [problem.path for problem in warnings if "no prices" in problem.message]
    assert found == [f"$.backends.{each.replace('.', '.models.')}" for each in unseen]


def test_the_list_in_the_repository_is_sound() -> None:
    """Each entry has prices, none is free, and what is cached never costs more than what is not."""
    document = load([DEMO / "prices.yaml"])
    assert (document.backends, document.warnings) == ({}, ())
    tree = parse((DEMO / "prices.yaml").read_bytes(), "prices.yaml", Report())
    assert isinstance(tree, dict)
    listed = tree["prices"]
    assert isinstance(listed, dict)
    for name, days in listed.items():
        assert isinstance(days, dict)
        assert days, name
        for prices in days.values():
            assert isinstance(prices, dict)
            assert 0 < prices.get("cached_input", prices["input"]) <= prices["input"] < prices["output"], name  # type: ignore[operator]  # numbers


def test_a_tenants_limits_override_its_policys_one_by_one(tmp_path: Path) -> None:
    """What the tenant does not name stays."""
    tenant = book(tmp_path).tenants["acme"]
    assert (tenant.id, tenant.policy) == ("acme", "standard")
    assert tenant.limits == Limits(requests_per_minute=120, concurrency=8)


@pytest.mark.parametrize(
    ("place", "terms", "expected"),
    [
        (
            "limits:",
            "{on_exceed: next_target,",
            ".limits.on_exceed: `next_target` does not help here: a limit holds for",
        ),
        (
            "limits:",
            "{on_exceed: downgrade, downgrade_to: gpt-4.1,",
            ".limits.on_exceed: `downgrade` does not help here",
        ),
        ("budget:", "{tokens: 9, per: day, on_exceed: next_target,", ".budget.on_exceed: `next_target` does not help"),
    ],
)
def test_what_cannot_help_against_a_limit_is_a_warning(tmp_path: Path, place: str, terms: str, expected: str) -> None:
    """The limit holds all the same: requests beyond it are rejected."""
    old = "limits: {requests_per_minute: 60, concurrency: 8}"
    text = TEXT.replace(old, f"{place} {terms}}}")
    (warning,) = [each for each in book(tmp_path, text).warnings if "on_exceed" in each.path]
    assert f"{warning.path}: {warning.message}".startswith(f"$.policies.standard{expected}")
    assert warning.message.endswith("requests beyond it are rejected")


def test_a_tenants_budget_replaces_its_policys(tmp_path: Path) -> None:
    """Whole: half of one and half of the other would be a budget that nobody wrote."""
    text = TEXT.replace(
        "    limits: {requests_per_minute: 60,", "    budget: {usd: 1.5, per: month}\n    limits: {x: 1,"
    )
    text = text.replace("{x: 1, concurrency: 8}", "{concurrency: 8}")
    assert book(tmp_path, text).tenants["acme"].budget == Budget(usd=Decimal("1.5"), per="month")
    text = text.replace("limits: {requests_per_minute: 120}", "budget: {tokens: 9, per: day, timezone: Europe/Berlin}")
    assert book(tmp_path, text).tenants["acme"].budget == Budget(tokens=9, per="day", timezone="Europe/Berlin")


def test_keys_and_models_have_limits_of_their_own(tmp_path: Path) -> None:
    """They hold besides the tenant's; what is not said is unlimited."""
    text = TEXT.replace("name: ci,", "name: ci, limits: {tokens_per_minute: 9, burst_seconds: 10},")
    text = text.replace("gpt-4.1: {", "gpt-4.1: {limits: {output_tokens_per_minute: 5}, ")
    made = book(tmp_path, text)
    assert made.keys[0].limits == Limits(tokens_per_minute=9, burst_seconds=10)
    models = made.policies["standard"].policy.models
    assert models["gpt-4.1"].limits == Limits(output_tokens_per_minute=5)
    assert models["assistant"].limits == NO_LIMITS == book(tmp_path).keys[0].limits


def test_a_configured_key_is_known_by_its_digest(tmp_path: Path) -> None:
    """It ends with the beginning of its day of expiry, UTC; its public id is the digest's beginning."""
    (key,) = book(tmp_path).keys
    assert (key.tenant, key.name, key.models) == ("acme", "ci", ("assistant",))
    assert (key.digest.hex(), key.public_id) == (KEY, KEY[:12])
    assert key.expires_at == dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp()


def test_a_revision_changes_with_what_its_policy_does_and_with_nothing_else(tmp_path: Path) -> None:
    """A backend's change is its policies' change; order in the file, other policies and tenants are not."""
    before = book(tmp_path)
    label = before.policies["standard"].label
    assert label == f"standard@{before.policies['standard'].revision}"
    assert len(before.policies["standard"].revision) == 8

    backend_one = book(tmp_path, TEXT.replace("one.example", "uno.example"))
    assert backend_one.policies["standard"].label != label
    assert backend_one.policies["other"].label == before.policies["other"].label
    assert backend_one.revision != before.revision

    tenant = book(tmp_path, TEXT.replace("requests_per_minute: 120", "requests_per_minute: 121"))
    assert tenant.policies["standard"].label == label
    assert tenant.revision != before.revision

    first, second = "      small: {prices: {input: 0.1, output: 0.40}}\n", "      free: {}\n"
    assert first + second in TEXT
    reordered = book(tmp_path, TEXT.replace(first + second, second + first))
    assert reordered.policies["standard"].label == label
    assert reordered.revision == before.revision


def test_warnings_name_missing_secrets_and_idle_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep nobody from starting; the warning goes when its cause does."""
    monkeypatch.delenv("TWO_KEY", raising=False)
    missing = "env:TWO_KEY: the environment variable is not set; `two` is left out until it is there"
    assert [f"{problem.path}: {problem.message}" for problem in book(tmp_path).warnings] == [
        f"$.backends.two.credential.bearer: {missing}",
        "$.policies.other: no tenant uses this policy",
    ]
    monkeypatch.setenv("TWO_KEY", "sk-1")
    assert [problem.path for problem in book(tmp_path).warnings] == ["$.policies.other"]


ALONE = "standard.models.assistant: only the provider `small` serves it: when that fails, so does every request for it"


@pytest.mark.parametrize(
    ("domains", "found"),
    [
        (["{provider: small}", "{provider: small, cloud: other}"], True),
        (["{provider: small}", "{provider: large}"], False),
        (["{provider: small}", "{cloud: same}"], False),
        (["{cloud: same}", "{cloud: same}"], False),
    ],
)
def test_a_model_that_hangs_on_one_provider_says_so_or_is_told_of(
    tmp_path: Path, domains: list[str], *, found: bool
) -> None:
    """Two backends of one provider are one; a backend without a label is a provider of its own.

    It can be served, and is refused where a configuration is written; where the policy asks for independence, anywhere.
    """
    text = TEXT.replace("env:TWO_KEY", "file:/etc/key")
    for name, labels in zip(("one", "two"), domains, strict=True):
        text = text.replace(f"https://{name}.example/v1\n", f"https://{name}.example/v1\n    domains: {labels}\n")
    told = [str(each).partition(";")[0] for each in book(tmp_path, text).objections]
    assert told == [f"{tmp_path}/x.yaml: $.policies.{ALONE}"] * found
    with pytest.raises(ConfigurationError) as caught:
        book(tmp_path, text.replace("version: 1", "version: 2"))
    assert [str(each).partition(";")[0] for each in caught.value.objections] == told

    strict = text.replace("  standard:\n", "  standard:\n    independence: {max_share: {provider: 0.7}}\n")
    if found:
        with pytest.raises(ConfigurationError) as caught:
            book(tmp_path, strict)
        assert [str(each).partition(";")[0] for each in caught.value.problems] == told
        strict = strict.replace("        strategy: {mode: weighted}\n", "        single_provider_ack: true\n")
    assert not book(tmp_path, strict).objections


def test_files_of_a_folder_are_merged_by_name(tmp_path: Path) -> None:
    """Cut into files, the book is the same. Hidden and other files are not read; one given twice counts once."""
    whole = book(tmp_path)
    backends, rest = TEXT.split("policies:")
    policies, tenants = rest.split("tenants:")
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "backends.yaml").write_text(backends)
    (folder / "policies.yml").write_text(f"version: 1\npolicies:{policies}")
    (folder / "tenants.yaml").write_text(f"version: 1\ntenants:{tenants}")
    (folder / ".old.yaml").write_text("not: read")
    (folder / "README.md").write_text("not read")
    assert load([folder]).revision == whole.revision
    assert load([folder, folder / "tenants.yaml"]).revision == whole.revision


def test_the_book_cannot_be_changed(tmp_path: Path) -> None:
    """A request keeps the book it started with, so nobody may write into it."""
    made = book(tmp_path)
    for mapping in (made.backends, made.policies, made.tenants, made.policies["standard"].routes):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]  # the point of the test


def test_the_demo_is_sound_and_needs_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of the box only the worker answers; the two others are left out until their variable is set."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    demo = load([DEMO])
    assert [problem.path for problem in demo.warnings] == [
        "$.backends.openai.credential.bearer",
        "$.backends.nvidia.credential.bearer",
    ]
    routes = demo.policies[demo.tenants["demo"].policy].routes
    assert [target.backend for target in routes["assistant"].leaves] == ["worker", "openai", "nvidia"]
    assert demo.keys == ()


def test_affinity_may_be_asked_for_where_a_list_inside_leaves_a_choice(tmp_path: Path) -> None:
    """The route carries it as a whole."""
    begin, rest = TEXT.split("        strategy: {mode: weighted}\n")
    nested = "        affinity: prefix\n" + NESTED.lstrip("\n")
    routes = book(tmp_path, begin + nested + rest.split("\n", 1)[1]).policies["standard"].routes
    assert [routes[name].has_affinity for name in ("assistant", "gpt-4.1")] == [True, False]

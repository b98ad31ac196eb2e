"""Recorded traffic under what holds and under a draft: what a simulation says of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook, Sources, assemble
from gateway.control.portability import portability
from gateway.control.recorded import Features
from gateway.control.replay import Replay
from gateway.control.simulate import Question, simulate
from gateway.control.simulated import Simulation
from gateway.domain.backend import Capability
from gateway.domain.policy import DIMENSIONS
from gateway.domain.preferences import Preferences
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose

MODES = ("priority", "weighted", "latency", "least_busy", "cost")
DAY = 1_700_000_000.0
Tree = dict[str, Any]


def book(
    *order: str,
    mode: str = "priority",
    models: Sequence[str] | Tree = ("assistant",),
    midstream: str = "error",
    tenants: Mapping[str, str] = MappingProxyType({}),
    **policy: object,
) -> PolicyBook:
    """Three providers behind each model, of different dialects, abilities and prices."""
    made = tree(*order, mode=mode, models=models, midstream=midstream, tenants=tenants, **policy)
    return assemble(Sources((("test.yaml", made),), complete=True, mistakes=()))


def tree(
    *order: str,
    mode: str = "priority",
    models: Sequence[str] | Tree = ("assistant",),
    midstream: str = "error",
    tenants: Mapping[str, str] = MappingProxyType({}),
    **policy: object,
) -> Tree:
    """The same as a file has it."""
    facts: dict[str, tuple[str, Tree]] = {
        "big": ("openai", {"prices": {"input": 10, "output": 30}}),
        "claude": ("anthropic", {"prices": {"input": 3, "output": 15}, "context": 10_000}),
        "own": ("openai", {"prices": {"input": 1, "output": 1}, "accepts": ["stop"], "context": 1_000}),
    }
    return {
        "version": 1,
        "backends": {
            name: {
                "dialect": dialect,
                "base_url": "https://models.example/v1",
                "models": {"m": model},
                "domains": {"provider": f"provider-of-{name}"},
                "limits": {"requests_per_minute": 3},
            }
            for name, (dialect, model) in facts.items()
        },
        "policies": {
            "standard": {
                "models": models
                if isinstance(models, dict)
                else {
                    model: {
                        "strategy": {"mode": mode},
                        "on_midstream_failure": midstream,
                        "targets": [{"backend": name, "model": "m"} for name in order or facts],
                    }
                    for model in models
                }
            }
            | policy
        },
        "tenants": {"acme": {"policy": "standard"}}
        | {name: {"policy": "standard", "metadata": {"region": region}} for name, region in tenants.items()},
    }


def asked(
    tenant: str = "acme",
    *,
    at: float = DAY,
    needs: tuple[Capability, ...] = (),
    prompt: int = 100,
    output: int = 50,
    seed: int = 1,
    served_by: str | None = "big/m",
    **more: Any,
) -> Features:
    facts: dict[str, Any] = {
        "at": at,
        "tenant": tenant,
        "key": "k1",
        "policy": "standard@00000000",
        "model": "assistant",
        "endpoint": "chat",
        "stream": False,
        "needs": needs,
        "estimated_prompt_tokens": prompt,
        "estimated_output_tokens": output,
        "prompt_tokens": prompt,
        "cached_tokens": 0,
        "output_tokens": output,
        "is_measured": True,
        "seed": seed,
        "served_by": served_by,
        "first_choice": served_by,
        "attempts": 1,
        "cost_nano_usd": 0,
        "ttft_ms": None,
        "outcome": "ok",
        "is_limited": False,
    }
    return Features(**(facts | more))


def simulated(
    requests: Sequence[Features], before: PolicyBook, after: PolicyBook | None = None, **without: str
) -> Simulation:
    taken = {dimension: value for dimension in DIMENSIONS if (value := without.get(dimension)) is not None}
    question = Question(policy="standard", before=before, after=after or before, without=taken)
    return simulate(question, lambda: [requests])


def requests() -> st.SearchStrategy[list[Features]]:
    """Any traffic."""
    return st.lists(
        st.builds(
            asked,
            st.sampled_from(["acme", "other"]),
            at=st.floats(DAY, DAY + 600),
            needs=st.sampled_from([(), ("tools",), ("json_schema", "tools"), ("vision",), ("stop",)]),
            prompt=st.integers(1, 20_000),
            output=st.integers(0, 2_000),
            seed=st.integers(0, 2**32 - 1),
            stream=st.booleans(),
            is_limited=st.booleans(),
            unsupported=st.sampled_from([(), (("claude/m", "unsupported:n"),)]),
            served_by=st.sampled_from(["big/m", "own/m", None]),
            ttft_ms=st.one_of(st.none(), st.floats(1, 10_000)),
            preferences=st.sampled_from(
                [None, Preferences(ignore=("big",)), Preferences(sort="latency", order=("own",), only=("big", "own"))]
            ),
        ),
        max_size=30,
    )


@given(requests(), st.sampled_from(MODES), st.booleans())
def test_what_holds_changes_nothing_when_it_is_replayed(traffic: list[Features], mode: str, capped: bool) -> None:
    """Whatever the strategy: the same seeds draw the same, and caps see the same shares.

    Also where something else is different, so that the draft is replayed by itself.
    """
    more: Tree = {"independence": {"max_share": {"provider": 0.5}}} if capped else {}
    for midstream in ("error", "restart"):
        same = simulated(traffic, book(mode=mode, **more), book(mode=mode, midstream=midstream, **more))
        assert same.moved == 0
        assert same.before == same.after
        assert same.changes == ()
        assert same.losses == ()


@given(requests(), st.sampled_from(MODES))
def test_a_request_lands_where_it_is_chosen_to_go(traffic: list[Features], mode: str) -> None:
    """A kind's targets are sifted once; the whole choice, made for each request by itself, comes to the same."""
    held = book(mode=mode)
    replay, policy = Replay(held, "standard"), held.policies["standard"]
    route = policy.routes["assistant"]
    for each in traffic:
        kind = replay.kind(each)
        assert kind is not None
        plan, _ = choose(
            kind.request,
            Estimate(prompt_tokens=each.estimated_prompt_tokens, output_tokens=each.estimated_output_tokens),
            policy=policy.policy,
            policy_label=policy.label,
            route=route,
            tenant=each.tenant,
            fleet=kind.view,
            seed=each.seed,
            decision_id="",
        )
        assert replay.landing(each, kind).target is (None if plan is None else plan.targets[0])


@given(requests(), st.sampled_from(MODES))
def test_the_parts_add_up(traffic: list[Features], mode: str) -> None:
    """Targets, domains, tenants and refusals are all the same requests, told apart in different ways."""
    told = simulated(traffic, book(), book("own", "claude", mode=mode))
    replayed = [each for each in traffic if not each.is_limited]
    assert told.requests == len(replayed) == len(traffic) - told.left_out
    for side, refused in (
        (told.before, sum(each.before for each in told.refusals)),
        (told.after, sum(each.after for each in told.refusals)),
    ):
        assert side.served + refused == told.requests
        for parts in (side.targets, *side.domains.values()):
            assert sum(each.requests for each in parts) == side.served
            assert sum(each.tokens for each in parts) == side.tokens
            assert sum(each.cost_nano_usd for each in parts) == side.cost_nano_usd
    assert sum(each.served_after for each in told.tenants) == told.after.served
    assert sum(each.cost_after_nano_usd for each in told.tenants) == told.after.cost_nano_usd
    assert sum(each.requests for each in told.changes) == told.moved


@given(requests(), st.sampled_from(MODES), st.sampled_from(["big", "claude", "own"]))
def test_a_provider_that_is_taken_away_gets_nothing(traffic: list[Features], mode: str, gone: str) -> None:
    """And what nobody else can serve is refused, for that reason."""
    told = simulated(traffic, book(mode=mode), provider=f"provider-of-{gone}")
    assert all(each.name != f"{gone}/m" for each in told.after.targets)
    assert told.after.served <= told.before.served
    assert all("outage" in each.because for each in told.refusals if each.after > each.before)


def test_an_outage_shows_what_has_nowhere_to_go() -> None:
    """Pictures that only one of the providers sees, after the other one of them."""
    traffic = [asked(), asked(needs=("vision",)), asked(needs=("vision",), prompt=15_000)]
    told = simulated(traffic, book(), provider="provider-of-big")
    assert [(each.name, each.requests) for each in told.after.targets] == [("claude/m", 2)]
    (refused,) = told.refusals
    assert (refused.code, refused.before, refused.after) == ("no_backend_available", 0, 1)
    assert refused.because == "capability:vision, context, outage"
    assert told.after.served_share == pytest.approx(2 / 3)
    (loss,) = told.losses
    assert (loss.model, loss.requests) == ("assistant", 1)


def test_a_draft_that_moves_a_model_says_what_it_costs() -> None:
    """In whole nano-dollars, by tenant, the largest change first."""
    traffic = [asked("acme"), asked("acme"), asked("other", prompt=1_000)]
    told = simulated(traffic, book("big", "own"), book("own", "big"))
    assert [(each.tenant, each.before, each.after, each.requests) for each in told.changes] == [
        ("other", "big/m", "own/m", 1),
        ("acme", "big/m", "own/m", 2),
    ]
    assert told.before.cost_nano_usd == (200 + 1_000) * 10_000 + 150 * 30_000
    assert told.after.cost_nano_usd == (1_200 + 150) * 1_000
    assert sum(each.cost_nano_usd for each in told.changes) == told.after.cost_nano_usd - told.before.cost_nano_usd


def test_a_cached_prompt_is_cold_elsewhere() -> None:
    """It costs its cache's price only where it was served."""
    traffic = [asked(cached_tokens=100)]
    stays, goes = (simulated(traffic, book("big"), book(name)) for name in ("big", "own"))
    assert stays.after.cost_nano_usd == 100 * 10_000 + 50 * 30_000  # no price for what is cached: that of the input
    assert goes.after.cost_nano_usd == 150 * 1_000


def test_what_a_dialect_could_not_be_told_it_cannot_be_told_elsewhere() -> None:
    """A draft's first target speaks the dialect that had no words for a field; the next one is asked."""
    told = simulated([asked(unsupported=(("claude/m", "unsupported:n"),))], book(), book("claude", "big"))
    assert [each.name for each in told.after.targets] == ["big/m"]


def test_a_limit_that_bursts_is_told_with_its_minute() -> None:
    """The minute's requests, against what the backend grants."""
    traffic = [asked(at=DAY + second) for second in (0, 1, 2, 3, 60)]
    told = simulated(traffic, book("big", "own"), book("own", "big"))
    first = told.pressure[0]
    assert (first.backend, first.limit, first.granted) == ("own", "requests_per_minute", 3)
    assert (first.peak_before, first.peak_after, first.minutes_over) == (0, 4, 1)
    assert first.first_over_at == DAY - DAY % 60


def test_times_to_the_first_token_are_the_targets_own() -> None:
    """Mixed by who would get how many streams; what was never seen is said to be unknown."""
    traffic = [asked(stream=True, ttft_ms=float(ms)) for ms in range(100, 201)]
    told = simulated(traffic, book("big", "own"), book("own", "big"))
    assert told.before.ttft_p50_ms == pytest.approx(150, abs=2)
    assert told.before.ttft_known_share == 1.0
    assert (told.after.ttft_p50_ms, told.after.ttft_known_share) == (None, 0.0)


def test_a_model_that_the_draft_drops_is_refused() -> None:
    """As the client would be told."""
    told = simulated([asked()], book(), book(models=["another"]))
    assert told.changes[0].after == "refused: model_not_found"


def test_other_policies_requests_are_not_replayed() -> None:
    """Nor those that a limit refused then."""
    told = simulated([asked(policy="gold@1"), asked(is_limited=True), asked()], book())
    assert (told.requests, told.left_out) == (1, 1)


def test_caps_are_replayed() -> None:
    """Of two providers of which one may have no more than half, each gets about half."""
    traffic = [asked(at=DAY + index, seed=index) for index in range(200)]
    told = simulated(traffic, book("big", "own"), book("big", "own", independence={"max_share": {"provider": 0.5}}))
    assert {each.name: each.requests for each in told.after.targets} == {"big/m": 100, "own/m": 100}


def test_conditions_ask_for_each_tenants_metadata() -> None:
    """Each tenant's requests go where its own metadata sends them."""
    of_europe = {"backend": "own", "model": "m", "when": {"metadata": {"region": "eu"}}}
    targets = [of_europe, {"backend": "big", "model": "m"}]
    held = book(
        models={"assistant": {"strategy": {"mode": "conditional"}, "targets": targets}}, tenants={"other": "eu"}
    )
    told = simulated([asked("acme"), asked("other"), asked("other"), asked("stranger")], held)
    assert {each.name: each.requests for each in told.before.targets} == {"big/m": 2, "own/m": 2}


def test_portability_tells_what_keeps_traffic_from_a_target() -> None:
    """By target, and by what requests ask for."""
    traffic = [*[asked()] * 6, *[asked(needs=("tools",))] * 3, asked(needs=("tools",), prompt=50_000)]
    (model,) = portability([traffic], book())
    assert (model.requests, model.with_alternative) == (10, 9)
    shares = {each.target: each.share for each in model.targets}
    assert shares == {"big/m": 1.0, "claude/m": 0.9, "own/m": 0.6}
    blocked = {each.target: [(why.reason, why.requests) for why in each.blocked_by] for each in model.targets}
    assert blocked == {"big/m": [], "claude/m": [("context", 1)], "own/m": [("capability:tools", 4)]}
    assert [(each.needs, each.requests, each.with_alternative) for each in model.feature_sets] == [
        ("plain text", 6, 6),
        ("tools", 4, 3),
    ]


def test_what_clients_wished_is_heeded_again() -> None:
    """Under what holds and under the draft; a wish that leaves nobody is refused as it was then."""
    requests = [
        asked(preferences=Preferences(ignore=("big",)), served_by="claude/m"),
        asked(preferences=Preferences(sort="cost"), served_by="own/m"),
        asked(preferences=Preferences(only=("nowhere",)), served_by=None),
        asked(),
    ]
    told = simulated(requests, book("big", "claude", "own"), book("claude", "big", "own"))
    assert told.agreement == 1.0
    assert {each.name: each.requests for each in told.before.targets} == {"big/m": 1, "claude/m": 1, "own/m": 1}
    assert {each.name: each.requests for each in told.after.targets} == {"claude/m": 2, "own/m": 1}
    assert [(each.because, each.before, each.after) for each in told.refusals] == [("preference:only", 1, 1)]

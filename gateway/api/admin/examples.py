"""What asking the admin API looks like, operation by operation: bodies and answers for its schema.

Answers are made of the values that handlers return, and reports are reckoned, so an example has the shape of the real
thing. All of them are of one small house: two backends behind one model, one tenant.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from gateway.accounting.statement import Total
from gateway.api.admin.tenants import AdminKeyShown, AdminKeyWanted
from gateway.config.policies import PolicyBook, Sources, assemble
from gateway.config.yaml_file import Tree
from gateway.control.capacity import remaining
from gateway.control.decisions import AttemptShown, DecisionShown
from gateway.control.drill import Drill, DrillWanted
from gateway.control.drill_verbs import DrillShown
from gateway.control.explain import Asked, Explained
from gateway.control.given_up import GivenUp
from gateway.control.independence import Spent
from gateway.control.outlook import Glance
from gateway.control.picture import picture
from gateway.control.portability import portability
from gateway.control.recorded import Features
from gateway.control.rehearsal import rehearsal
from gateway.control.replicas import Replica
from gateway.control.shown import (
    AuditPage,
    Change,
    Checked,
    Drafted,
    Health,
    KeyMade,
    KeyShown,
    KeyWanted,
    Mistake,
    PolicyLine,
    Problem,
    RevisionShown,
    RevisionsShown,
    Rotation,
    TenantLine,
    Usage,
)
from gateway.control.simulate import Question, simulate
from gateway.control.simulation import SimulationWanted
from gateway.control.standby import Success, latest, standbys
from gateway.control.underway import SimulationUnderway
from gateway.domain.plan import Candidate
from gateway.domain.preferences import Preferences
from gateway.domain.tenant import PROBER

_AT: Final = 1_767_225_600.0
_KEY: Final = "h7k2p9q4r6st"
_REQUEST: Final = "req-0198b0c2a1d34e5f8a9b0c1d2e3f4a5b"

POLICY: Final[Tree] = {
    "models": {
        "assistant": {
            "targets": [
                {"backend": "worker", "model": "smollm2-135m-instruct"},
                {"backend": "nim", "model": "meta/llama-3.3-70b-instruct"},
            ]
        }
    },
    "limits": {"requests_per_minute": 60, "tokens_per_minute": 40_000},
}
TENANT: Final[Tree] = {"policy": "standard", "limits": {"tokens_per_minute": 80_000}, "metadata": {"region": "eu"}}
HOUSE: Final[dict[str, Tree]] = {
    "version": 1,
    "backends": {
        "worker": {
            "dialect": "openai",
            "base_url": "https://worker.example/v1",
            "domains": {"provider": "in-house"},
            "models": {"smollm2-135m-instruct": {"prices": {"input": 0.02, "output": 0.04}}},
        },
        "nim": {
            "dialect": "openai",
            "base_url": "https://nim.example/v1",
            "domains": {"provider": "nvidia"},
            "models": {
                "meta/llama-3.3-70b-instruct": {"prices": {"input": 0.6, "output": 0.6}, "accepts": ["tools"]},
            },
        },
    },
    "policies": {"standard": POLICY},
    "tenants": {"acme": TENANT},
}
"""Where all of it happens."""
_WORKER: Final = "worker/smollm2-135m-instruct"
_NIM: Final = "nim/meta/llama-3.3-70b-instruct"

PROBLEM: Final = Problem(
    title="Unprocessable Entity",
    status=422,
    detail="The configuration would have 1 mistake(s); nothing was changed.",
    mistakes=(
        Mistake(
            "$.policies.standard.models.assistant.targets[0].backend",
            "names backend `worke`, which is not in `backends`",
        ),
    ),
)


class Example(NamedTuple):
    """Of one operation."""

    told: object = None
    """What is answered; None where nothing is, or no JSON."""
    asked: object = None
    """The body; None where there is none."""


@functools.cache
def examples() -> Mapping[str, Example]:
    """By the name of the handler."""
    revision = RevisionShown(number=2, digest="5c1e0d3a9b74", at=_AT, by="environment", is_active=True)
    drafted = Drafted(
        number=2,
        digest=revision.digest,
        at=_AT,
        by="environment",
        is_active=False,
        warnings=(
            Mistake(
                "$.policies.standard.models.assistant.targets[0]",
                "could not serve 12.0% of the 250 requests recorded for this model, because of capability:tools (30)",
            ),
        ),
    )
    tenant = TenantLine(id="acme", policy="standard", source="files", suspended=False)
    key = KeyShown(
        id=_KEY,
        tenant="acme",
        name="ci",
        source="api",
        models=("assistant",),
        endpoints=None,
        created_at=_AT,
        expires_at=None,
        revoked_at=None,
        last_used_at=_AT + 60,
    )
    made = KeyMade(id=_KEY, secret=f"sk-gw-{_KEY}-…")
    health = Health(
        name="worker",
        provider="in-house",
        models=("smollm2-135m-instruct",),
        drained=False,
        state="ok",
        troubles={},
        hints={},
        seen_by={"gateway-1": {}, "gateway-2": {"smollm2-135m-instruct": "cooling"}},
    )
    drill = _drill()
    return {
        "list_policies": Example(
            [
                PolicyLine(
                    name="standard",
                    source="api",
                    active=2,
                    revisions=2,
                    digest=revision.digest,
                    label="standard@5c1e0d3a",
                )
            ]
        ),
        "get_policy": Example(POLICY),
        "put_policy": Example(drafted, POLICY),
        "check_policy": Example(Checked(warnings=drafted.warnings), POLICY),
        "list_revisions": Example([revision]),
        "get_revision": Example(revision),
        "activate_revision": Example(revision),
        "roll_back": Example(revision),
        "list_tenants": Example([tenant]),
        "get_tenant": Example(TENANT),
        "put_tenant": Example(tenant, TENANT),
        "list_keys": Example([key]),
        "list_all_keys": Example([key]),
        "create_key": Example(made, KeyWanted(name="ci", models=("assistant",), endpoints=("chat",))),
        "rotate_key": Example(made, Rotation(overlap_s=3600)),
        "list_admin_keys": Example(
            [AdminKeyShown(id="c3d4e5f6g7h8", role="operator", name="deploys", created_at=_AT, revoked_at=None)]
        ),
        "create_admin_key": Example(
            KeyMade(id="c3d4e5f6g7h8", secret="sk-gwadm-c3d4e5f6g7h8-…"),  # noqa: S106  # none
            AdminKeyWanted(role="operator", name="deploys"),
        ),
        "get_usage": Example(_usage()),
        "get_decision": Example(_decision()),
        "explain_route": Example(_explained(), Asked(tenant="acme", model="assistant", needs=("tools",))),
        "get_audit": Example(_audit()),
        "get_config_revision": Example(
            RevisionsShown(
                revision="acac9e81",
                seq=3,
                replicas=[Replica(name="gateway-1", seq=3, revision="acac9e81", at=_AT)],
                converged=True,
                drift=["policies.standard"],
            )
        ),
        "list_backends": Example([health]),
        "get_health": Example(health),
        "list_drills": Example([drill]),
        "get_drill": Example(drill),
        "abort_drill": Example(drill),
        "plan_drill": Example(drill, DrillWanted(without={"provider": "nvidia"}, duration_s=300, reason="game day")),
        **_reports(),
    }


def _reports() -> dict[str, Example]:
    book = _book(HOUSE)
    swapped: dict[str, Tree] = {**HOUSE, "policies": {"standard": _DRAFT}}
    records = [[_features(needs=()), _features(needs=("tools",))]]
    question = Question(policy="standard", before=book, after=_book(swapped))
    spent = [Spent(tenant="acme", model="assistant", backend="worker", tokens=1200, cost_nano_usd=36_000)]
    outage = simulate(replace(question, after=book, without={"provider": "nvidia"}), lambda: records)
    rehearsed = rehearsal(outage, "provider", "nvidia", gateway="gateway-1", now=_AT)
    successes = latest([Success("acme", "worker", _AT - 20, 912.5, 75.0), Success(PROBER, "nim", _AT - 600, 410.0)])
    return {
        "simulate_policy": Example(simulate(question, lambda: records), SimulationWanted(document=_DRAFT)),
        "list_simulations": Example(
            [SimulationUnderway(policy="standard", by="environment", since=_AT, done=120_000, of=1_000_000)]
        ),
        "get_portability": Example(portability(records, book)),
        "rehearse": Example([rehearsed]),
        "get_independence": Example(
            picture(
                spent,
                book,
                requests=2,
                window_s=3600.0,
                gateways=("gateway-1",),
                glance=Glance(
                    remaining=remaining(book, {}, {}, minutes=60), standby=tuple(standbys(book, successes, {}, _AT))
                ),
                given_up=[GivenUp(model="assistant", requests=12, more_usd=0.0031, less_usd=0.0, cache_tokens=4800)],
                rehearsals=[rehearsed],
            )
        ),
    }


_DRAFT: Final[dict[str, Tree]] = {
    "models": {"assistant": {"targets": [{"backend": "nim", "model": "meta/llama-3.3-70b-instruct"}]}}
}


def _book(tree: dict[str, Tree]) -> PolicyBook:
    return assemble(Sources((("example.yaml", tree),), complete=True, mistakes=()))


def _features(needs: tuple[()] | tuple[str, ...]) -> Features:
    return Features(
        at=_AT,
        tenant="acme",
        key=_KEY,
        policy="standard@5c1e0d3a",
        model="assistant",
        endpoint="chat",
        stream=True,
        needs=needs,  # type: ignore[arg-type]  # of the words that there are
        estimated_prompt_tokens=400,
        estimated_output_tokens=256,
        prompt_tokens=412,
        cached_tokens=0,
        output_tokens=180,
        is_measured=True,
        seed=7,
        served_by=_NIM if needs else _WORKER,
        first_choice=_NIM if needs else _WORKER,
        attempts=1,
        cost_nano_usd=355_200 if needs else 15_440,
        ttft_ms=180.0 if needs else 75.0,
        outcome="ok",
        is_limited=False,
    )


def _usage() -> Usage:
    total = Total(
        by=("acme", "assistant"),
        requests=2,
        attempts=2,
        input_tokens=824,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=360,
        reasoning_tokens=0,
        charge_nano_usd=370_640,
        cost_nano_usd=370_640,
    )
    return Usage(by=("tenant", "model"), totals=[total])


def _decision() -> DecisionShown:
    attempt = AttemptShown(
        backend="nim",
        model="meta/llama-3.3-70b-instruct",
        reason="initial",
        started_ms=0.4,
        took_ms=912.5,
        ttft_ms=180.0,
        status=200,
        fault=None,
        was_sent_on=True,
        cost_nano_usd=355_200,
    )
    return DecisionShown(
        request_id=_REQUEST,
        decision=_REQUEST.removeprefix("req-"),
        at=_AT,
        tenant="acme",
        key=_KEY,
        policy="standard@5c1e0d3a",
        model="assistant",
        route="/v1/chat/completions",
        stream=True,
        prompt_tokens=400,
        strategy="priority",
        seed=7,
        panics=False,
        candidates=_CANDIDATES,
        displaced=None,
        preferences=Preferences(ignore=("worker",)),
        attempts=(attempt,),
        outcome="ok",
        status=200,
        error_code=None,
    )


_CANDIDATES: Final = (Candidate(_NIM, 0), Candidate(_WORKER, None, "capability:tools"))


def _explained() -> Explained:
    return Explained(
        model="assistant",
        policy="standard@5c1e0d3a",
        strategy="priority",
        order=(_NIM,),
        candidates=_CANDIDATES,
        attempts=3,
        refusal=None,
    )


def _audit() -> AuditPage:
    change = Change(
        seq=3,
        at=_AT,
        actor="environment",
        action="policy.activate",
        resource="standard",
        before={"revision": 1},
        after={"revision": 2},
        hash="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )
    return AuditPage(events=[change], next=None)


def _drill() -> DrillShown:
    drill = Drill(
        id="d-1f2e3d4c",
        fault="refuse",
        without={"provider": "nvidia"},
        tenant=None,
        model=None,
        percent=100.0,
        starts_at=_AT,
        ends_at=_AT + 300,
        stop_below=0.95,
        reason="game day",
    )
    return DrillShown(
        drill=drill,
        phase="running",
        by="environment",
        over_at=None,
        over_by=None,
        because=None,
        report=None,
        is_reported=False,
    )

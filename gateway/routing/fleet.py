"""What this process knows of its backends. State with a lifetime; hands out immutable views.

Told by the exchange of every try, when it begins and how it ends. Health is judged for each target (a model at a
backend, with the backend's credential); a credential without money or rights takes all models of its backend out.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from heapq import nlargest
from operator import attrgetter
from typing import Final

from gateway.domain.fault import Fault, FaultKind, Recourse
from gateway.domain.ledger import Outcome
from gateway.domain.limits import Headroom, WorkerLoad
from gateway.domain.plan import Target
from gateway.domain.policy import Timeouts
from gateway.domain.value import Leaf
from gateway.routing.concurrency import MOST, TELLING, Limit, is_ours
from gateway.routing.headroom import Ebb
from gateway.routing.health import WELL_FAILED, Draw, Ejection, State
from gateway.routing.hints import MOST as MOST_HINTS
from gateway.routing.hints import Hint, Hinted
from gateway.routing.tally import Standing, Tally, most_at_once

BREAKER_HOLDS: Final = frozenset({"breaker_open", "half_open_busy"})
"""Reasons that give way when nobody else is left: a bad backend is better than none."""
_OPENED: Final = BREAKER_HOLDS | {None}
"""Reasons of a target whose breaker has opened and that nothing else bars."""
_TOLD: Final = frozenset({"cooling", "breaker_open", "credential_ejected", "model_ejected"})
"""Reasons that other gateways are told: the target's doing, not that of this one."""
LOAD_KNOWN_S: Final = 2.0
"""So long a worker's word on its load holds: then a request finds out anew."""
EXPECTED_BASE_S: Final = 0.4
EXPECTED_PREFILL_PER_S: Final = 8000.0
"""Prompt tokens a second. Only relations between backends matter: this makes long and short prompts comparable."""


class Sight(Leaf, frozen=True, gc=False, kw_only=True):
    """One target, for those who look on."""

    backend: str
    model: str
    breaker: str
    """`closed`, `half_open` or `open`."""
    barred: str | None
    wait_s: float
    in_flight: int
    limit: float
    """Tries at once that it is taken to bear."""
    is_hinted: bool
    """Whether it gets little because another gateway keeps requests from it."""


class FleetView(Leaf, frozen=True, gc=False):
    """The targets of one decision, as they are at its moment."""

    now: float
    standings: Mapping[str, Standing]
    """By the targets' names."""


class Fleet:
    """Health, load and latency of every target that was ever asked for, whatever configuration named it."""

    __slots__ = ("_credentials", "_drained", "_draw", "_hinted", "_served", "_targets", "unavailable")

    def __init__(self, unavailable: Mapping[str, str], *, draw: Draw) -> None:
        self.unavailable: Mapping[str, str] = dict(unavailable)
        """Backend → why nothing can be sent there under the configuration that is live, `credential_missing` say."""
        self._drained: frozenset[str] = frozenset()
        self._draw = draw
        self._targets: dict[str, Tally] = {}
        self._credentials: dict[str, Ejection] = {}
        self._hinted: Mapping[str, Hinted] = {}
        """By target: what other gateways say."""
        self._served: AbstractSet[str] | None = None
        """Targets of the configuration that is live, by name; None for all. Others are on their way out."""

    def view(self, targets: Iterable[Target], now: float, reach: float = 1.0) -> FleetView:
        """What is known of these targets now, for a request that may take that part of what each bears at once."""
        return FleetView(now, {target.name: self._tally(target).standing(now, reach) for target in targets})

    def room(self, name: str, now: float, reach: float = 1.0) -> int:
        """How many more tries a target that was asked before may take, up to that part of what it bears."""
        tally = self._targets.get(name)
        if tally is None or tally.standing(now, reach).barred is not None:
            return 0
        return int(most_at_once(tally.limit.value, reach)) - tally.in_flight

    def is_open_to(self, target: Target, now: float, *, panics: bool = False) -> bool:
        """Whether it may be tried now. In a panic a breaker is no reason not to; too much work still is."""
        standing = self._tally(target).standing(now)
        barred = standing.barred
        return barred is None or (panics and barred in BREAKER_HOLDS and not standing.is_full)

    def is_well(self, target: Target, now: float) -> bool:
        """Whether nothing lately speaks against it: what failed elsewhere may be made good there without counting.

        Neither in the last seconds nor in the last minute: who was left to its peers is not well for being idle.
        """
        tally = self._tally(target)
        return tally.breaker.is_well(now) and tally.record.part(now) <= WELL_FAILED and not tally.is_hinted(now)

    def is_idle(self, target: Target, now: float, *, part: float) -> bool:
        """Whether it is well and would work on no more than that part of what it bears, with one more try."""
        tally = self._tally(target)
        if tally.standing(now).barred is not None or not tally.breaker.is_well(now) or tally.is_hinted(now):
            return False
        return tally.in_flight + 1 <= part * tally.limit.value

    def has_room(self, target: Target) -> bool:
        """Whether it may work on one more try, whatever else is known of it."""
        tally = self._targets.get(target.name)
        return tally is None or tally.in_flight + 1 <= tally.limit.value

    def dispatched(self, target: Target, now: float) -> int:
        """A try begins. Gives the epoch, which `answered` and `finished` must be told."""
        tally = self._tally(target)
        tally.in_flight += 1
        return tally.breaker.begin(now)

    def answered(self, target: Target, epoch: int, now: float, *, ttft_s: float, prompt_tokens: int) -> int:
        """The first content of a stream came, `ttft_s` after the try began. Gives the epoch for `finished`."""
        tally = self._tally(target)
        ratio = ttft_s / expected_s(prompt_tokens)
        tally.observe(ratio, now)
        if epoch == tally.breaker.telling_epoch:
            tally.limit.note_first_token(ttft_s, ratio, tally.in_flight, now)
        if tally.hint is not None:
            tally.refute(tally.hint)
        if tally.breaker.is_calm:  # A backend that comes back is no measure of itself.
            tally.patience.note_first_token(ttft_s, prompt_tokens, now)
        return tally.breaker.answer(epoch, now)

    def outrun(self, target: Target, now: float, *, waited_s: float, prompt_tokens: int) -> None:
        """Another target was quicker, and this one was given up: it would have taken longer than `waited_s`.

        Left out, only its quick answers would be known, and it would seem quicker and quicker.
        """
        tally = self._tally(target)
        tally.lag(waited_s / expected_s(prompt_tokens), now)
        if tally.breaker.is_calm:
            tally.patience.note_first_token(waited_s, prompt_tokens, now)

    def late_after_s(self, target: Target, prompt_tokens: int, now: float) -> float:
        """When a first token of this target is later than nearly all others; infinite while that is not known."""
        return self._tally(target).patience.late_after_s(prompt_tokens, now)

    def told(self, target: Target, headroom: Headroom, now: float) -> None:
        """An answer said what is left of the target's limits on us."""
        tally = self._tally(target)
        if tally.ebb is None:
            tally.ebb = Ebb()
        tally.ebb.note(headroom, now)

    def timeouts(self, target: Target, policy: Timeouts, prompt_tokens: int, now: float) -> Timeouts:
        """How long to wait for a stream of this target: the policy's timeouts, or less where it taught us to."""
        return self._tally(target).patience.for_stream(policy, prompt_tokens, now)

    def answer_s(self, target: Target, most_s: float, output_tokens: int, now: float) -> float:
        """The same for an answer in one piece that is expected to have so many tokens."""
        return self._tally(target).patience.for_answer(most_s, output_tokens, now)

    def finished(
        self,
        target: Target,
        epoch: int,
        now: float,
        *,
        outcome: Outcome,
        fault: Fault | None,
        waited_s: float,
        prompt_tokens: int,
        longest_pause_s: float | None = None,
        whole_s: float | None = None,
        output_tokens: int = 0,
    ) -> None:
        """A try is over, exactly once for each that was dispatched.

        `waited_s` is what a failure enters the latency with: the time it took, or the timeout it would have had.
        `longest_pause_s` is the longest wait between two reads of a stream, None when there was none. `whole_s` is how
        long an answer in one piece took, or was waited for; None for a stream. It was expected to have `output_tokens`.
        """
        tally = self._tally(target)
        tally.in_flight -= 1
        if fault is None:
            if outcome is Outcome.OK:
                if epoch == tally.breaker.telling_epoch:
                    tally.limit.succeed(tally.in_flight + 1, now)
                tally.breaker.succeed(epoch, now)
                tally.cooldown.succeed()
                tally.record.succeeded(now)
                if tally.hint is not None:
                    tally.refute(tally.hint)
                if tally.breaker.is_calm:
                    tally.patience.note_end(now, longest_pause_s, whole_s, output_tokens)
            else:
                tally.breaker.abandon(epoch)
            return
        effect = fault.effect
        if effect.is_load and epoch == tally.breaker.telling_epoch:
            tally.limit.cut(now, waited_s if fault.phase is not None else None, in_flight=tally.in_flight + 1)
        if effect.breaks:
            tally.breaker.fail(
                epoch,
                now,
                self._draw,
                is_local=effect.is_local,
                is_suspect=tally.is_hinted(now),
                is_full=fault.kind is FaultKind.OVERLOADED and tally.in_flight >= TELLING,
            )
            tally.record.failed(now)
            tally.observe(waited_s / expected_s(prompt_tokens), now)
            if fault.phase == "first_token" and tally.breaker.is_calm:
                tally.patience.note_timeout(now, waited_s, prompt_tokens, whole_s, output_tokens)
        elif fault.recourse is Recourse.NONE:
            tally.breaker.succeed(epoch, now)  # It read the request and judged it: it works.
            tally.record.succeeded(now)
            if tally.hint is not None:
                tally.refute(tally.hint)
        else:
            tally.breaker.abandon(epoch)
        if effect.cools:
            tally.cooldown.cool(now, fault.retry_after_s, self._draw)
        if effect.ejects == "credential":
            tally.credential.eject(now)
        elif effect.ejects == "model":
            tally.model.eject(now)

    def troubles(self, now: float) -> dict[str, str]:
        """What is not well: `backend`, or `backend/model` → why."""
        found = dict.fromkeys(self._drained, "drained") | dict(self.unavailable)
        ejected = (name for name, credential in self._credentials.items() if now < credential.until)
        found |= {name: "credential_ejected" for name in ejected if name not in found}
        for name, tally in sorted(self._targets.items()):
            backend = name.partition("/")[0]
            barred = tally.standing(now).barred
            if backend in found or (barred is None and tally.breaker.state is State.CLOSED):
                continue
            if self._served is not None and name not in self._served:
                continue
            found[name] = barred or "half_open"
        return found

    def sights(self, now: float) -> Iterator[Sight]:
        """Every target that was ever asked for, as it is now."""
        for name, tally in self._targets.items():
            standing = tally.standing(now)
            backend, _, model = name.partition("/")
            yield Sight(
                backend=backend,
                model=model,
                breaker=tally.breaker.state.name.lower(),
                barred=standing.barred,
                wait_s=standing.wait_s or 0.0,
                in_flight=tally.in_flight,
                limit=tally.limit.value,
                is_hinted=standing.is_hinted,
            )

    def hints(self, now: float) -> tuple[Hint, ...]:
        """What other gateways may want to know: targets of now that this one found out to keep requests from."""
        found = []
        for name, tally in self._targets.items():
            standing = tally.standing(now)
            if standing.barred in _TOLD and standing.wait_s and (self._served is None or name in self._served):
                found.append(Hint(name, standing.barred, standing.wait_s))
        return tuple(nlargest(MOST_HINTS, found, key=attrgetter("left_s")))

    def hinted(self, hinted: Mapping[str, Hinted]) -> None:
        """By target: all that other gateways say now. What this one knows, and finds out, goes before."""
        if not hinted and not self._hinted:
            return
        self._hinted = hinted
        for name, tally in self._targets.items():
            tally.consider(hinted.get(name))

    def heeded(self, backend: str, now: float) -> dict[str, Hinted]:
        """By model: what other gateways say of this backend, as far as it counts."""
        found = {}
        for name, hint in self._hinted.items():
            of, _, model = name.partition("/")
            tally = self._targets.get(name)
            if of == backend and now < hint.until and (tally is None or tally.is_hinted(now)):
                found[model] = hint
        return found

    def suspects(self, now: float) -> set[str]:
        """Backends with a model whose breaker has opened, and which no request finds out about at present."""
        return {
            name.partition("/")[0]
            for name, tally in self._targets.items()
            if tally.breaker.state is not State.CLOSED
            and tally.in_flight == 0
            and tally.standing(now).barred in _OPENED
        }

    def reached(self, backend: str, now: float) -> None:
        """The backend was looked at and answered: its models may be tried now, one request each."""
        for name, tally in self._targets.items():
            if name.partition("/")[0] == backend:
                tally.breaker.hasten(now)

    def loaded(self, target: Target, load: WorkerLoad, now: float) -> None:
        """A worker's answer said how busy it was, with the requests of every gateway that asks it."""
        tally = self._tally(target)
        tally.taken, tally.taken_until = load.taken, now + LOAD_KNOWN_S

    def lost(self, backend: str, now: float) -> None:
        """The backend's credential has ended and there is no other: its models are useless without it."""
        self._credentials.setdefault(backend, Ejection()).eject(now)

    def adopt(self, unavailable: Mapping[str, str], served: AbstractSet[str]) -> None:
        """Another configuration is live: what it leaves out, and the names of all its targets."""
        self.unavailable = dict(unavailable)
        self._served = served
        for name, tally in list(self._targets.items()):
            tally.unavailable = self._unavailable(name.partition("/")[0])
            if name not in served and tally.in_flight == 0:
                del self._targets[name]

    def drain(self, backends: frozenset[str]) -> None:
        """Send these backends nothing new, and all others what they bear."""
        self._drained = backends
        for name, tally in self._targets.items():
            tally.unavailable = self._unavailable(name.partition("/")[0])

    def _unavailable(self, backend: str) -> str | None:
        return self.unavailable.get(backend) or ("drained" if backend in self._drained else None)

    def restored(self, backend: str) -> None:
        """The backend's credential, which was lost, is there again: nothing is held against it."""
        credential = self._credentials.get(backend)
        if credential is not None:
            credential.until = 0.0

    def _tally(self, target: Target) -> Tally:
        tally = self._targets.get(target.name)
        if tally is None:
            credential = self._credentials.setdefault(target.backend, Ejection())
            limit = Limit(reads_latency=is_ours(target.place))
            tally = self._targets[target.name] = Tally(credential, self._unavailable(target.backend), limit)
            tally.consider(self._hinted.get(target.name))
        if tally.place is not target.place:  # A new configuration, or the first one.
            tally.place = target.place
            granted = target.place.limits.concurrency if target.place.limits is not None else None
            tally.limit.grant(MOST if granted is None else granted)
        return tally

    def __repr__(self) -> str:
        missing = ", ".join(f"{name}: {reason}" for name, reason in sorted(self.unavailable.items()))
        return f"Fleet({len(self._targets)} targets seen, unavailable: {missing or 'none'})"


def expected_s(prompt_tokens: int) -> float:
    """Seconds to the first token of a prompt of that length, at a backend of no particular kind."""
    return EXPECTED_BASE_S + prompt_tokens / EXPECTED_PREFILL_PER_S

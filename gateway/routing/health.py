"""How well one target is: its breaker, its cooldowns, what is useless until somebody acts.

State without a clock and without chance of its own: the time and the draws are arguments. Numbers are seconds.

    closed ── 5 failures in a row, 3 without a connection, or half of 20 in 10 s ──▶ open
      ▲                                                                              │ 5 s · 2^(k-1), ± a fifth
      └── 3 successes in a row; then it gets its share back over 30 s ◀── half open ◀┘
                                                                             └── a failure ──▶ open, k + 1

What a try tells counts only in the state in which it began: a stream that began before the breaker opened says nothing
of the backend that came back. So each try carries the `epoch` of its beginning.

One exception: a backend that says it is too busy, while it works on many of our tries, may be just full. If one of
those is answered, the breaker that opened for it closes at once; what the backend bears has been learned meanwhile.
"""

import enum
from collections.abc import Callable
from typing import Final, Literal

from gateway.routing.window import Window

FAILURES_IN_ROW = 5
LOCAL_IN_ROW = 3
SUSPECT_IN_ROW: Final = 2
"""Of a target that another gateway has found to fail."""
WINDOW_TRIES = 20
"""Tries in the window from which on their share of failures counts."""
WINDOW_FAILED: Final = 0.5
OPEN_S = 5.0
OPEN_MOST_S: Final = 300.0
SOUND_S: Final = 300.0
"""Closed for so long, a breaker opens as if for the first time."""
WELL_FAILED: Final = 0.05
"""Of the tries in the window: with more failures a target is not well, though its breaker stays closed."""
PROBES: Final = 3
"""Successes in a row that close a half-open breaker."""
RAMP_S: Final = 30.0
RAMP_LEAST: Final = 0.1
COOL_LEAST_S = 1.0
COOL_MOST_S = 300.0
"""The longest wait that we believe a backend."""
COOL_UNTOLD_LEAST_S = 1.0
COOL_UNTOLD_MOST_S = 60.0
"""Between these a wait doubles that no backend has told us."""
EJECTED_S = 900.0
"""Then one request finds out whether somebody has acted."""

_COUNTED: Final = -1
"""The epoch of a try that has said all that it can."""

Draw = Callable[[], float]
"""An even draw from [0, 1): it keeps many gateways from coming back at the same moment."""

Hold = Literal["breaker_open", "half_open_busy"]
"""Why a breaker lets nothing through."""


class State(enum.Enum):
    """What a breaker thinks of its target."""

    CLOSED = enum.auto()
    OPEN = enum.auto()
    HALF_OPEN = enum.auto()


class Breaker:
    """Keeps requests away from a target that fails, and lets single ones find out when it is back."""

    __slots__ = (
        "_attempts",
        "_closed_at",
        "_failed",
        "_failures_in_row",
        "_full_in_row",
        "_is_full",
        "_local_in_row",
        "_open_until",
        "_openings",
        "_probes",
        "_successes",
        "_was_hastened",
        "epoch",
        "is_calm",
        "state",
        "telling_epoch",
    )

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.epoch = 0
        """Changes with the state."""
        self.telling_epoch: int | None = 0
        """The epoch of tries that tell how much the target bears: the present one, but none half open, when we let it
        work on little."""
        self.is_calm = True
        """Whether it is closed and was not open lately, so that there is nothing to ask it."""
        self._attempts = Window()
        self._failed = Window()
        self._failures_in_row = self._local_in_row = self._full_in_row = 0
        self._is_full = False
        """Whether it is open for nothing but that the target was too busy with our own tries."""
        self._openings = 0
        self._open_until = self._closed_at = 0.0
        self._probes = 0
        """Tries in flight that began half open."""
        self._successes = 0
        self._was_hastened = False

    def hold(self, now: float) -> Hold | None:
        """Why nothing should be sent now; None when something may."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPEN:
            return "breaker_open" if now < self._open_until else None
        return "half_open_busy" if self._probes else None

    def wait_s(self, now: float) -> float | None:
        """Seconds until an open breaker lets a try through; None when that is not a matter of time."""
        return self._open_until - now if self.state is State.OPEN and now < self._open_until else None

    def ramp(self, now: float) -> float:
        """The part of its share that it should get: less than 1 after it came back, as in Envoy's slow start."""
        if self.is_calm or self.state is not State.CLOSED:
            return 1.0
        return min(1.0, max(RAMP_LEAST, (now - self._closed_at) / RAMP_S))

    def is_well(self, now: float) -> bool:
        """Whether it has its whole share and lately hardly failed. One that nobody asked did not fail."""
        if self.state is not State.CLOSED or self.ramp(now) < 1.0:
            return False
        return self._failed.total(now) <= WELL_FAILED * self._attempts.total(now)

    def begin(self, now: float) -> int:
        """A try begins, allowed or not. Gives the epoch that its end must name."""
        if self.state is State.CLOSED:
            if not self.is_calm and now >= self._closed_at + RAMP_S:
                self.is_calm = True
            return self.epoch
        if self.state is State.OPEN and now >= self._open_until:
            self._enter(State.HALF_OPEN)
        if self.state is State.HALF_OPEN:
            self._probes += 1
        return self.epoch

    def hasten(self, now: float) -> None:
        """The target was looked at and is there: a try may find out at once whether it works.

        Not twice before it closes: one that is there and fails all the same is left alone for longer and longer.
        """
        if self.state is State.OPEN and now < self._open_until and not self._was_hastened:
            self._was_hastened = True
            self._enter(State.HALF_OPEN)

    def answer(self, epoch: int, now: float) -> int:
        """A stream came to its first content. Gives the epoch that its end must name.

        Half open, that is the success which was asked for: a long stream must not keep the next one waiting. What
        becomes of it later is then told to nobody.
        """
        if epoch != self.epoch or self.state is not State.HALF_OPEN:
            self._revive(epoch)
            return epoch
        self.succeed(epoch, now)
        return _COUNTED

    def succeed(self, epoch: int, now: float) -> None:
        """A try brought a whole answer, or one that shows a sound backend."""
        if epoch != self.epoch:
            self._revive(epoch)
            return
        if self.state is State.CLOSED:
            self._attempts.add(1, now)
            self._failures_in_row = self._local_in_row = self._full_in_row = 0
        elif self.state is State.HALF_OPEN:
            self._probes -= 1
            self._successes += 1
            if self._successes >= PROBES:
                self._closed_at = now
                self._was_hastened = False
                self._enter(State.CLOSED)

    def fail(
        self, epoch: int, now: float, draw: Draw, *, is_local: bool, is_suspect: bool = False, is_full: bool = False
    ) -> None:
        """A try failed by the target's doing; `is_local` when no connection came about.

        Of one that `is_suspect`, because others say that it fails, few failures tell enough. `is_full` when it said
        that it is too busy, while it worked on many tries of ours.
        """
        if epoch != self.epoch or self.state is State.OPEN:
            return
        if self.state is State.HALF_OPEN:
            self._open(now, draw)
            return
        self._attempts.add(1, now)
        self._failed.add(1, now)
        self._failures_in_row += 1
        self._local_in_row = self._local_in_row + 1 if is_local else 0
        self._full_in_row = self._full_in_row + 1 if is_full else 0
        in_row = SUSPECT_IN_ROW if is_suspect else FAILURES_IN_ROW
        if self._failures_in_row >= in_row or self._local_in_row >= LOCAL_IN_ROW or self._too_many_failed(now):
            self._open(now, draw)

    def abandon(self, epoch: int) -> None:
        """A try ended and says nothing: its client left, or it met a limit."""
        if epoch == self.epoch and self.state is State.HALF_OPEN:
            self._probes -= 1

    def _too_many_failed(self, now: float) -> bool:
        attempts = self._attempts.total(now)
        return attempts >= WINDOW_TRIES and self._failed.total(now) >= WINDOW_FAILED * attempts

    def _open(self, now: float, draw: Draw) -> None:
        if self.state is State.CLOSED and now >= self._closed_at + SOUND_S:
            self._openings = 0
        self._openings += 1
        grown = OPEN_S * 2.0 ** min(self._openings - 1, 7)  # 2^7 is beyond the cap, and no power overflows.
        self._open_until = now + min(OPEN_MOST_S, grown) * (0.8 + 0.4 * draw())
        is_full = self.state is State.CLOSED and 0 < self._full_in_row == self._failures_in_row
        self._enter(State.OPEN)
        self._is_full = is_full

    def _revive(self, epoch: int) -> None:
        """A try that began in this epoch was answered: if that was before it opened, and it was but full, it closes."""
        if self._is_full and self.state is State.OPEN and epoch == self.epoch - 1:
            self._openings -= 1
            self._enter(State.CLOSED)

    def _enter(self, state: State) -> None:
        self.state = state
        self.epoch += 1
        self.telling_epoch = None if state is State.HALF_OPEN else self.epoch
        self.is_calm = False
        self._is_full = False
        self._failures_in_row = self._local_in_row = self._full_in_row = 0
        self._probes = self._successes = 0
        self._attempts.clear()
        self._failed.clear()


class Ejection:
    """Leaves out what is useless until somebody acts, and looks again a quarter of an hour later."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = 0.0

    def eject(self, now: float) -> None:
        """It was found useless."""
        self.until = now + EJECTED_S


class Cooldown:
    """Leaves a target alone that limits us. It never gets shorter, whatever comes later."""

    __slots__ = ("_untold", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self._untold = 0
        """Cooldowns in a row whose length we had to guess."""

    def cool(self, now: float, retry_after_s: float | None, draw: Draw) -> None:
        """The target said that it limits us; `retry_after_s` as it said it, None when it did not or said nonsense."""
        if retry_after_s is not None:
            wait_s = min(max(retry_after_s, COOL_LEAST_S), COOL_MOST_S)
        else:
            wait_s = min(COOL_UNTOLD_LEAST_S * 2.0 ** min(self._untold, 6), COOL_UNTOLD_MOST_S) * (0.5 + draw() / 2)
            if now >= self.until:  # Many answers to one burst are one answer.
                self._untold += 1
        self.until = max(self.until, now + wait_s)

    def succeed(self) -> None:
        """An answer came: the next guess is short again. What was promised stays."""
        self._untold = 0

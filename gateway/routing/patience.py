"""How long to wait for a backend, learned from how long it takes. Pure in `now`.

After AWS ("Timeouts, retries and backoff with jitter"): choose how many false timeouts are bearable, here one in a
thousand, and wait as long as that part of the answers took. A policy's own timeouts stay the most that is ever waited.
"""

import math
from typing import Final

import msgspec

from gateway.domain.policy import Timeouts
from gateway.routing.hedging import PART as LATE_PART
from gateway.routing.quantiles import Histogram

PART: Final = 0.999
ENOUGH: Final = 200
"""Observations below which nothing is concluded."""
FIRST_TOKEN_TIMES: Final = 1.25
FIRST_TOKEN_LEAST_S: Final = 3.0
IDLE_TIMES: Final = 2.0
"""Of the longest pause in each stream, which is a high quantile of all pauses already."""
IDLE_LEAST_S: Final = 5.0
GROWTH_PER_MINUTE: Final = 1.5
"""How fast a learned wait may change: a minute of trouble must not teach us that trouble is normal."""
ANSWER_TIMES: Final = 2.0
ANSWER_LEAST_S: Final = 20.0
"""Of whole answers, which take as long as they are."""
_LOOK_AGAIN_S: Final = 1.0

_SIZES: Final = (1_000, 8_000, 32_000, 128_000)
"""Prompts of these many tokens and more are different kinds: longer ones take longer to read."""
_LENGTHS: Final = (256, 1_024, 4_096)
"""The same for the tokens that a whole answer is expected to have."""


class _Wait:
    """One learned wait."""

    __slots__ = ("_at", "_late_at", "_late_s", "_least_s", "_seen", "_times", "_value_s")

    def __init__(self, times: float, least_s: float) -> None:
        self._seen = Histogram()
        self._times = times
        self._least_s = least_s
        self._value_s: float | None = None
        self._at = self._late_at = -math.inf
        self._late_s = math.inf

    def note(self, seconds: float, now: float) -> None:
        self._seen.add(seconds, now)

    def bound(self, most_s: float, now: float) -> float:
        """Seconds to wait, at most `most_s`."""
        if now - self._at >= _LOOK_AGAIN_S:
            self._look(most_s, now)
        return most_s if self._value_s is None else min(self._value_s, most_s)

    def late_after(self, now: float) -> float:
        """Seconds that nearly all took no longer than; infinite while that is not known."""
        if now - self._late_at >= _LOOK_AGAIN_S:
            self._late_at = now
            is_known = self._seen.count(now) >= ENOUGH
            self._late_s = self._seen.quantile(LATE_PART) if is_known else math.inf
        return self._late_s

    def _look(self, most_s: float, now: float) -> None:
        if self._seen.count(now) < ENOUGH:
            self._value_s, self._at = None, now
            return
        wanted = max(self._seen.quantile(PART) * self._times, self._least_s)
        before = most_s if self._value_s is None else self._value_s
        room = GROWTH_PER_MINUTE ** (min(max(now - self._at, 0.0), 60.0) / 60.0)
        self._value_s, self._at = min(max(wanted, before / room), before * room), now


class Patience:
    """What one target has taught about waiting for it."""

    __slots__ = ("_answer", "_first_token", "_idle")

    def __init__(self) -> None:
        self._first_token = [_Wait(FIRST_TOKEN_TIMES, FIRST_TOKEN_LEAST_S) for _ in range(len(_SIZES) + 1)]
        self._idle = _Wait(IDLE_TIMES, IDLE_LEAST_S)
        self._answer = [_Wait(ANSWER_TIMES, ANSWER_LEAST_S) for _ in range(len(_LENGTHS) + 1)]

    def note_first_token(self, seconds: float, prompt_tokens: int, now: float) -> None:
        """The first content of a stream took so long."""
        self._first_token[_kind(prompt_tokens, _SIZES)].note(seconds, now)

    def note_end(self, now: float, longest_pause_s: float | None, whole_s: float | None, output_tokens: int) -> None:
        """An answer is whole: a stream with its longest pause, or one in one piece with the time it took."""
        if longest_pause_s is not None:
            self._idle.note(longest_pause_s, now)
        if whole_s is not None:
            self._answer[_kind(output_tokens, _LENGTHS)].note(whole_s, now)

    def note_timeout(
        self, now: float, waited_s: float, prompt_tokens: int, whole_s: float | None, output_tokens: int
    ) -> None:
        """A wait ran out: it would have taken at least so long. Left out, we would learn haste from it."""
        if whole_s is None:
            self.note_first_token(waited_s, prompt_tokens, now)
        else:
            self._answer[_kind(output_tokens, _LENGTHS)].note(whole_s, now)

    def late_after_s(self, prompt_tokens: int, now: float) -> float:
        """When a first token is later than nearly all others; infinite while that is not known."""
        return self._first_token[_kind(prompt_tokens, _SIZES)].late_after(now)

    def for_stream(self, policy: Timeouts, prompt_tokens: int, now: float) -> Timeouts:
        """The policy's timeouts, shortened where experience says that waiting longer is in vain."""
        first_token = self._first_token[_kind(prompt_tokens, _SIZES)].bound(policy.first_token, now)
        idle = self._idle.bound(policy.idle, now)
        if first_token == policy.first_token and idle == policy.idle:
            return policy
        return msgspec.structs.replace(policy, first_token=first_token, idle=idle)

    def for_answer(self, most_s: float, output_tokens: int, now: float) -> float:
        """How long to wait for an answer in one piece; at most `most_s`."""
        return self._answer[_kind(output_tokens, _LENGTHS)].bound(most_s, now)


def _kind(tokens: int, bounds: tuple[int, ...]) -> int:
    return sum(tokens >= bound for bound in bounds)

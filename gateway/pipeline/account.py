"""What one request costs, from its intents to its rows, decided by the best witness there is. No I/O, no clock."""

import functools
from collections.abc import Sequence
from typing import Final

from gateway.admission.limits import Used
from gateway.dialects.protocols import Endpoint
from gateway.domain.ledger import Intent, Outcome
from gateway.domain.plan import Target
from gateway.domain.policy import SPARE, Independence
from gateway.domain.usage import Usage, UsageSource
from gateway.pipeline import bill
from gateway.pipeline.actions import FreePlace, Grow, Settle
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.entry import Collaborators, Job
from gateway.pipeline.plausible import corrected, is_credible
from gateway.routing.shares import Key

# Names of their own, because Python 3.11 takes ten times as long to find a member in its class.
_OK: Final = Outcome.OK
_PROVIDER: Final = UsageSource.PROVIDER


class Account:
    """Of one job. `wall_offset_s` turns times of the loop's clock into seconds since the epoch."""

    __slots__ = ("_endpoint", "_expected", "_grown", "_house", "_id", "_job", "_request_id", "_wall_offset_s")

    def __init__(
        self,
        house: Collaborators,
        endpoint: Endpoint,
        job: Job,
        *,
        exchange_id: str,
        request_id: str,
        wall_offset_s: float,
    ) -> None:
        self._house = house
        self._endpoint = endpoint
        self._job = job
        self._id = exchange_id
        self._request_id = request_id
        self._wall_offset_s = wall_offset_s
        self._expected: tuple[tuple[Key, str, int], ...] = ()
        """What shares were told of tries that are not settled."""
        self._grown = 0
        """Tokens of the answer beyond those expected, as far as they are charged already."""

    def intent(self, attempt: Attempt, now: float, ends_by: float) -> Intent:
        """What stands for a try that is about to be sent, until `close`; it is late when `ends_by` has passed."""
        if self._job.caller.policy.policy.independence is not None:
            self._expect(attempt)
        return bill.intent_of(
            self._job,
            attempt,
            exchange_id=self._id,
            request_id=self._request_id,
            at=now + self._wall_offset_s,
            ends_at=ends_by + self._wall_offset_s,
        )

    def used_by(self, attempt: Attempt) -> Usage:
        """What a try that is over used."""
        usage = attempt.usage
        if usage is None:
            usage = bill.usage_of(
                attempt,
                prompt_tokens=functools.partial(self._prompt_tokens, attempt.target),
                count=self._house.counter.count,
            )
        if usage.source is _PROVIDER or bill.prompt_told(attempt) is not None:
            request, estimate, begun = self._job.request, self._job.estimate, attempt.goes_on_from or 0
            if not is_credible(usage, request, estimate, begun=begun):
                said = self._house.counter.count("".join(attempt.text))
                prompt = self._prompt_tokens(attempt.target)
                usage = corrected(usage, request, estimate, begun=begun, counted_output=said, counted_prompt=prompt)
        attempt.usage = usage
        return usage

    def place_of(self, attempt: Attempt) -> str:
        """The reservation of what a try takes of its backend's limits."""
        return f"{self._id}:{attempt.number}"

    def free(self, attempt: Attempt) -> FreePlace:
        """What a try that is over took of its backend's limits is charged with what it used."""
        attempt.has_place = False
        return FreePlace(self.place_of(attempt), bill.used(self.used_by(attempt), ()))

    def growth(self, attempt: Attempt, tokens: int, *, is_claimed: bool) -> list[Grow]:
        """What is charged now for an answer of so many tokens so far, if fewer were expected of it.

        `is_claimed` says whether the request itself holds anything, besides what its try took of a backend's limits.
        """
        more = tokens - self._job.estimate.output_tokens
        if more <= self._grown:
            return []
        self._grown = more
        grown = []
        if is_claimed:
            prices = attempt.target.prices.at(attempt.started_at + self._wall_offset_s)
            cost = prices.charge(Usage(output_tokens=more))
            grown.append(Grow(self._id, Used(more, 0, more, cost)))
        if attempt.has_place:
            grown.append(Grow(self.place_of(attempt), Used(more, 0, more)))
        return grown

    def close(self, attempts: Sequence[Attempt], outcome: Outcome, now: float) -> tuple[Usage | None, Settle]:
        """Price every try. Gives what the tenant pays, and what is to be written before the client hears of it."""
        for attempt in attempts:
            self.used_by(attempt)
        usage = bill.charged(attempts)
        job = self._job
        if usage is not None and outcome is _OK:
            for each in attempts:
                if bill.is_paid(each):
                    self._house.reckoner.learn(job.caller.tenant.id, job.request, job.reckoned, each.target.name, usage)
                    break
        asked = job.caller.policy.policy.independence
        if asked is not None:
            self._note_shares(attempts, asked, now)
        entries = bill.rows(
            job,
            attempts,
            exchange_id=self._id,
            request_id=self._request_id,
            outcome=outcome,
            wall_offset_s=self._wall_offset_s,
            now=now,
        )
        return usage, Settle(self._id, bill.used(usage, entries), entries)

    def _expect(self, attempt: Attempt) -> None:
        """Let shares know of a try before it is over."""
        asked, tokens = self._job.caller.policy.policy.independence, self._job.estimate.total_tokens
        if asked is not None and tokens:
            key = (self._job.caller.policy.name, self._job.request.model, asked.window_s)
            self._house.shares.expect(key, attempt.target.backend, tokens)
            self._expected = (*self._expected, (key, attempt.target.backend, tokens))

    def _note_shares(self, attempts: Sequence[Attempt], asked: Independence, now: float) -> None:
        shares, policy = self._house.shares, self._job.caller.policy
        for key, backend, tokens in self._expected:
            shares.expect(key, backend, -tokens)
        self._expected = ()
        key = (policy.name, self._job.request.model, asked.window_s)
        is_spare = policy.policy.priority in SPARE if asked.min_share else None
        for attempt in attempts:
            if attempt.usage is not None and attempt.usage.total_tokens:
                shares.note(key, attempt.target.backend, attempt.usage.total_tokens, now, is_spare=is_spare)

    def _prompt_tokens(self, target: Target) -> int:
        """The prompt's tokens where no backend reported them: our count, as the target counts, or the estimate."""
        job, reckoner = self._job, self._house.reckoner
        counted = job.reckoned.counted
        if counted is None:
            counted = reckoner.count(self._endpoint, job.request, job.reckoned.media)
        if counted is None:
            return job.estimate.prompt_tokens
        return round(counted * reckoner.calibration.mean(target.name)) + job.reckoned.media.tokens

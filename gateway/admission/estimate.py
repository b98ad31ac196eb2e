"""Learns how many tokens a tenant's requests to a model take, from the usage that backends report. No clock, no I/O.

Two numbers per (tenant, model): the 95th percentile of prompt tokens per prompt byte and the 90th percentile of output
tokens per choice. Both are quantiles tracked online by a pinball step, q += η·q·(p if x > q else p − 1): one wild
report moves them by one bounded step. Reserving a high percentile of the output kept bursts within the limit at
98 % utilisation where reserving nothing let nine times the limit through.
"""

import math
from collections import OrderedDict

from gateway.domain.usage import Estimate, Usage, UsageSource

START_OUTPUT_TOKENS = 1024.0
"""What an unknown tenant's answer is expected to take, if its request allows that much."""
START_TOKENS_PER_BYTE = 1 / 3
"""For a prompt that was neither counted nor learned."""
KNOWN_AFTER = 8
"""Reports after which the learned ratio is trusted more than a count with a tokenizer that may not be the backend's."""
MOST_PAIRS = 10_000
"""Pairs remembered; the one unused for longest is forgotten."""

_PROVIDER = UsageSource.PROVIDER  # A name of its own: Python 3.11 is slow to find a member in its class.
_RATIO_QUANTILE = 0.95
_RATIO_RATE = 0.05
_RATIO_LEAST, _RATIO_MOST = 0.001, 4.0  # an image in base64 … a word wrapped in a chat template
_OUTPUT_QUANTILE = 0.9
_OUTPUT_RATE = 0.2
_OUTPUT_LEAST, _OUTPUT_MOST = 1.0, 1_000_000.0


class _Learned:
    __slots__ = ("output_tokens", "reports", "tokens_per_byte")

    def __init__(self) -> None:
        self.reports = 0
        self.tokens_per_byte = START_TOKENS_PER_BYTE
        self.output_tokens = START_OUTPUT_TOKENS


class Estimator:
    """What the requests of each tenant to each model usually take."""

    __slots__ = ("_learned",)

    def __init__(self) -> None:
        self._learned: OrderedDict[tuple[str, str], _Learned] = OrderedDict()

    def __repr__(self) -> str:
        return f"Estimator({len(self._learned)} pairs)"

    def knows(self, tenant: str, model: str) -> bool:
        """Whether the pair's prompts can be estimated from their size, so that counting them would be wasted."""
        learned = self._learned.get((tenant, model))
        return learned is not None and learned.reports >= KNOWN_AFTER

    def estimate(
        self,
        tenant: str,
        model: str,
        *,
        prompt_bytes: int,
        max_output_tokens: int | None,
        choices: int,
        counted: int | None,
    ) -> Estimate:
        """Tokens to reserve for a request.

        `max_output_tokens` is the request's own limit per choice, None when it has none. `counted` is what a count
        of the prompt lets expect, None when it was not counted; a pair that is known does not need it.
        """
        learned = self._learned.get((tenant, model))
        if learned is None:
            per_byte, output = START_TOKENS_PER_BYTE, START_OUTPUT_TOKENS
        else:
            self._learned.move_to_end((tenant, model))
            per_byte, output = learned.tokens_per_byte, learned.output_tokens
            if learned.reports < KNOWN_AFTER and per_byte < START_TOKENS_PER_BYTE:
                per_byte = START_TOKENS_PER_BYTE  # A few prompts may have been of a kind that takes little.
        prompt_tokens = math.ceil(prompt_bytes * per_byte) if counted is None else counted
        output_tokens = math.ceil(output)
        if max_output_tokens is not None and max_output_tokens < output_tokens:
            output_tokens = max_output_tokens
        return Estimate(prompt_tokens=prompt_tokens, output_tokens=output_tokens * choices)

    def observe(self, tenant: str, model: str, *, prompt_bytes: int, usage: Usage, choices: int = 1) -> None:
        """Learn from a whole answer: `usage` as its backend reported it, for `choices` choices.

        Usage that we counted or guessed ourselves teaches nothing, nor does a report without prompt tokens. With 0 for
        `prompt_bytes`, where the prompt is no measure, only of the output something is learned.
        """
        if usage.source is not _PROVIDER:
            return
        prompt_tokens = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
        if prompt_tokens <= 0 or prompt_bytes < 0:
            return
        pair = (tenant, model)
        learned = self._learned.get(pair)
        if learned is None:
            learned = self._learned[pair] = _Learned()
            if len(self._learned) > MOST_PAIRS:
                self._learned.popitem(last=False)
        else:
            self._learned.move_to_end(pair)
        if prompt_bytes:
            ratio = prompt_tokens / prompt_bytes
            if learned.reports:
                ratio = quantile_step(learned.tokens_per_byte, ratio, quantile=_RATIO_QUANTILE, rate=_RATIO_RATE)
            learned.tokens_per_byte = _RATIO_LEAST if ratio < _RATIO_LEAST else min(ratio, _RATIO_MOST)
            learned.reports += 1
        output = (usage.output_tokens + usage.reasoning_tokens) / choices
        output = quantile_step(learned.output_tokens, output, quantile=_OUTPUT_QUANTILE, rate=_OUTPUT_RATE)
        learned.output_tokens = _OUTPUT_LEAST if output < _OUTPUT_LEAST else min(output, _OUTPUT_MOST)


def quantile_step(value: float, seen: float, *, quantile: float, rate: float) -> float:
    """The tracked quantile after one more observation; its share of `rate` up, or the rest of it down."""
    return value * (1 + rate * (quantile if seen > value else quantile - 1))

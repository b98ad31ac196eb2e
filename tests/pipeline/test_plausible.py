"""Reports of usage: which are believed, and what is taken where one cannot be true."""

from typing import Any

import pytest

from gateway.dialects.openai import CHAT
from gateway.domain.chat import ChatRequest
from gateway.domain.usage import Estimate, Usage, UsageSource
from gateway.pipeline.plausible import corrected, is_credible
from tests.pipeline.wire import ask


def request(**fields: Any) -> ChatRequest:
    return CHAT.decode_request(ask(**fields))


def judged(usage: Usage, of: ChatRequest, *, begun: int = 0, prompt: int = 100) -> Usage:
    estimate = Estimate(prompt_tokens=prompt, output_tokens=100)
    if is_credible(usage, of, estimate, begun=begun):
        return usage
    return corrected(usage, of, estimate, begun=begun, counted_output=11, counted_prompt=22)


@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        (Usage(input_tokens=100, output_tokens=50), {}),
        (Usage(), {}),
        (Usage(input_tokens=1, output_tokens=1), {}),
        (Usage(input_tokens=100, output_tokens=1_000_000), {}),  # nobody said how much is too much
        (Usage(input_tokens=100, output_tokens=100, reasoning_tokens=69), {"max_tokens": 100}),
        (Usage(input_tokens=100, output_tokens=2 * 169), {"max_tokens": 100, "n": 2}),
        (Usage(input_tokens=1424), {}),
        (Usage(input_tokens=1_000_000), {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (Usage(input_tokens=1_000_000), {"web_search_options": {}}),
    ],
)
def test_what_can_be_is_believed(usage: Usage, fields: dict[str, Any]) -> None:
    assert judged(usage, request(**fields)) is usage


def test_more_than_was_allowed_is_counted_instead() -> None:
    report = Usage(input_tokens=70, cached_input_tokens=30, output_tokens=100, reasoning_tokens=70)
    found = judged(report, request(max_tokens=100))
    assert found == Usage(input_tokens=70, cached_input_tokens=30, output_tokens=11, source=UsageSource.SUSPECT)


def test_a_prompt_that_is_longer_than_ours_can_be_is_counted_instead() -> None:
    report = Usage(input_tokens=1425, cached_input_tokens=5, output_tokens=50)
    assert judged(report, request()) == Usage(input_tokens=22, output_tokens=50, source=UsageSource.SUSPECT)


def test_what_another_backend_had_said_is_a_part_of_the_prompt() -> None:
    assert judged(Usage(input_tokens=5000), request(), begun=4000).source is UsageSource.PROVIDER
    found = judged(Usage(input_tokens=50_000), request(), begun=4000)
    assert (found.source, found.prompt_tokens) == (UsageSource.SUSPECT, 4022)

"""What a draft is warned of when it is saved, by the traffic that there was."""

from gateway.control.lint import warnings_of
from gateway.control.recorded import Features
from tests.control.test_simulate import Tree, asked, book


def warned(traffic: list[Features], *order: str, budget: Tree | None = None) -> dict[str, str]:
    """Place → message."""
    held = book(*order, budget=budget) if budget is not None else book(*order)
    return {each.path: each.message for each in warnings_of(held, "standard", [traffic])}


def test_a_target_that_cannot_serve_what_was_asked_is_named_with_its_place() -> None:
    """How much of the model's traffic, and why, the commonest reason first; what every target can do is not told."""
    traffic = [*[asked()] * 6, *[asked(needs=("tools",))] * 3, asked(prompt=2_000)]
    assert warned(traffic, "big", "own") == {
        "$.policies.standard.models.assistant.targets[1]": "could not serve 40.0% of the 10 requests recorded for this "
        "model, because of capability:tools (3), context (1)",
    }
    assert warned(traffic, "big", "claude") == {}


def test_what_no_target_could_serve_is_told_of_the_model() -> None:
    """Besides what is told of each target."""
    found = warned([asked(needs=("vision",)), asked()], "own")
    assert "no target could serve 50.0%" in found["$.policies.standard.models.assistant"]


def test_a_model_that_the_draft_lacks_is_told_once() -> None:
    """With how many asked for it; other policies' requests are not looked at."""
    traffic = [asked(model="helper"), asked(model="helper"), asked(policy="gold@1", model="none")]
    found = warned(traffic)
    assert found == {
        "$.policies.standard.models": "has no model 'helper', which 2 requests of the recorded traffic asked for"
    }


def test_what_the_configuration_alone_warns_of_is_told_too() -> None:
    """Of this policy only."""
    found = warned([], "big", "own", budget={"usd": 1, "per": "day", "on_exceed": "queue"})
    assert [*found] == ["$.policies.standard.budget.on_exceed"]

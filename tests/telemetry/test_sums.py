"""Metrics of several workers as one."""

from gateway.telemetry.families import Family, Over, Point
from gateway.telemetry.sums import Heard, Told, summed


def counter(**values: float) -> Family:
    return Family("requests", "counter", "", ("code",), [Point((code,), value) for code, value in values.items()])


def gauge(value: float, over: Over = "sum") -> Family:
    return Family("depth", "gauge", "", (), [Point((), value)], over=over)


def values(families: list[Family]) -> dict[tuple[str, ...], float]:
    return {(family.name, *point.labels): point.value for family in families for point in family.points}


def test_counters_and_histograms_add_up_by_their_labels() -> None:
    one = Family("took", "histogram", "", ("route",), [Point(("a",), 1.5, (1, 0, 2))], "s", (1.0, 2.0))
    other = Family("took", "histogram", "", ("route",), [Point(("a",), 1, (0, 1, 1)), Point(("b",), 3, (0, 0, 1))])
    (took,) = summed([[one], [other]])
    assert took.points == [Point(("a",), 2.5, (1, 1, 3)), Point(("b",), 3, (0, 0, 1))]
    assert (took.unit, took.bounds) == ("s", (1.0, 2.0))
    assert values(summed([[counter(ok=2)], [counter(ok=3, bad=1)]])) == {("requests", "ok"): 5, ("requests", "bad"): 1}


def test_each_gauge_says_what_several_are_together() -> None:
    rules: list[tuple[Over, float]] = [("sum", 5), ("max", 4), ("min", 1)]
    assert [(over, values(summed([[gauge(4, over)], [gauge(1, over)]]))["depth",]) for over, _ in rules] == rules


def test_a_counter_never_falls_because_a_worker_died() -> None:
    """One that is silent keeps what it told; one in its place adds to it. Gauges are of those that answer."""
    heard = Heard()
    first = heard.together({1: Told("a", [counter(ok=2), gauge(1)]), 2: Told("b", [counter(ok=5), gauge(7)])})
    assert values(first) == {("requests", "ok"): 7, ("depth",): 8}
    assert values(heard.together({1: Told("a", [counter(ok=3), gauge(1)])})) == {("requests", "ok"): 8, ("depth",): 1}
    later = heard.together({1: Told("a", [counter(ok=3), gauge(1)]), 2: Told("c", [counter(ok=1), gauge(2)])})
    assert values(later) == {("requests", "ok"): 9, ("depth",): 3}
    again = heard.together({1: Told("a", [counter(ok=3), gauge(1)]), 2: Told("d", [counter(ok=1), gauge(2)])})
    assert values(again)["requests", "ok"] == 10

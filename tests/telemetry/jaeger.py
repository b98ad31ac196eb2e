"""A real Jaeger as the collector of tests, read through its query API. Answers as `OtlpReceiver` does.

JAEGER_BIN names the program, which is run with ports of its own. Or JAEGER_QUERY_URL names one that runs already
(`http://127.0.0.1:16686`) and JAEGER_OTLP_URL where it takes spans (default: port 4318 of the same host).
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from tests.running.gateway import answers, free_port
from tests.telemetry.otlp_receiver import OtlpReceiver, ReceivedSpan, Value

SERVICES: Final = ("llm-gateway", "llm-worker")
START_S: Final = 60.0
WAIT_S: Final = 20.0
"""Jaeger shows spans some time after it took them."""


def is_there() -> bool:
    """Whether this environment has one."""
    return bool(os.environ.get("JAEGER_BIN") or os.environ.get("JAEGER_QUERY_URL"))


class Jaeger:
    """One that runs."""

    def __init__(self, query_url: str, otlp_url: str) -> None:
        self.query_url = query_url
        self.base_url = otlp_url
        """What goes into OTEL_EXPORTER_OTLP_ENDPOINT."""
        self._http = httpx.Client(base_url=query_url, trust_env=False, timeout=10)

    @property
    def raw(self) -> list[bytes]:
        """Everything it tells of our services, for searching it for what must not be there."""
        return [self._ask(service).content for service in SERVICES]

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Every span that it knows of our services; a trace that both had a part in counts once."""
        traces = {trace["traceID"]: trace for service in SERVICES for trace in self._ask(service).json()["data"] or ()}
        return [span for trace in traces.values() for span in _spans(trace)]

    def wait_for(self, spans: int, *, where: Callable[[ReceivedSpan], bool] = lambda _: True) -> list[ReceivedSpan]:
        """The spans that satisfy `where`, as soon as there are `spans` of them."""
        deadline = time.monotonic() + WAIT_S
        while len(found := [span for span in self.spans if where(span)]) < spans:
            if time.monotonic() > deadline:
                names = [span.name for span in found]
                raise AssertionError(f"{len(found)} of {spans} spans were in Jaeger within {WAIT_S} s: {names}")
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """Close the connections to it."""
        self._http.close()

    def _ask(self, service: str) -> httpx.Response:
        found = self._http.get("/api/traces", params={"service": service, "limit": 500, "lookback": "1h"})
        found.raise_for_status()
        return found


Collector = OtlpReceiver | Jaeger
"""Where spans go, and where they can be read."""
COLLECTORS: Final = ("receiver", "jaeger") if is_there() else ("receiver",)
"""For fixtures: those that this environment has."""


@contextmanager
def jaeger(folder: Path) -> Iterator[Jaeger]:
    """The environment's Jaeger; one of our own ends with the block."""
    query = os.environ.get("JAEGER_QUERY_URL")
    if query:
        host = urlsplit(query).hostname
        found = Jaeger(query.rstrip("/"), os.environ.get("JAEGER_OTLP_URL") or f"http://{host}:4318")
        try:
            yield found
        finally:
            found.close()
        return
    otlp, http, grpc = free_port(), free_port(), free_port()
    config = folder / "jaeger.yaml"
    config.write_text(json.dumps(_configuration(otlp, http, grpc)), "utf-8")
    log = folder / "jaeger.log"
    with log.open("wb") as out:
        process = subprocess.Popen([os.environ["JAEGER_BIN"], "--config", str(config)], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + START_S
            while not answers(f"http://127.0.0.1:{http}/api/services"):
                said = log.read_text("utf-8", "replace")[-2000:]
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)
            found = Jaeger(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{otlp}")
            try:
                yield found
            finally:
                found.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _configuration(otlp: int, http: int, grpc: int) -> dict[str, Any]:
    """Spans in by OTLP, kept in memory, out by the query API; on loopback."""
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"127.0.0.1:{http}"},
                "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }


def _spans(trace: Mapping[str, Any]) -> Iterator[ReceivedSpan]:
    for span in trace["spans"]:
        process = trace["processes"][span["processID"]]
        attributes = _tags(span["tags"])
        parents = [each["spanID"] for each in span["references"] or () if each["refType"] == "CHILD_OF"]
        started = span["startTime"] * 1000
        yield ReceivedSpan(
            service=process["serviceName"],
            resource=_tags(process["tags"] or ()),
            name=span["operationName"],
            kind=str(attributes.pop("span.kind", "internal")),
            trace_id=span["traceID"],
            span_id=span["spanID"],
            parent_id=parents[0] if parents else "",
            started_ns=started,
            ended_ns=started + span["duration"] * 1000,
            attributes=attributes,
            events=tuple((_tags(log["fields"]).get("event"), log["timestamp"] * 1000) for log in span["logs"] or ()),  # type: ignore[misc]  # an event's name is text
            is_error=attributes.get("error") is True,
        )


def _tags(tags: Any) -> dict[str, Value]:
    return {tag["key"]: tag["value"] for tag in tags}

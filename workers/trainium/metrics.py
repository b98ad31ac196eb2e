"""Counters, gauges and histograms in Prometheus' text format; names are vLLM's where vLLM has one.

Written from the server's event loop only, so nothing is locked.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from workers.trainium.monitor import DeviceUse

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Histogram:
    """Observations in seconds, in fixed buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true at the moment of a scrape."""

    running: int
    waiting: int
    free_slots: int
    cache_usage: float
    """Between 0 and 1."""
    ready_executables: int
    pending_executables: int
    executables_made: int = 0
    """By JAX's own count, since the start."""


@dataclass(slots=True)
class Metrics:
    """All that is counted while the worker runs."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_hits: int = 0
    """Tokens of prompts that were found in the cache; each token of a prompt is looked for."""
    aborted: int = 0
    """Requests whose client left."""
    refused: int = 0
    """Requests refused because the queue was full or the worker was not serving."""
    padding_tokens: int = 0
    """Tokens computed only because shapes are fixed."""
    finished: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Finish reason → requests."""
    first_token: Histogram = field(default_factory=Histogram)
    between_tokens: Histogram = field(default_factory=Histogram)
    whole_request: Histogram = field(default_factory=Histogram)
    devices: DeviceUse | None = None
    """The newest report of the devices; None where nobody reports."""
    device_errors: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Kind of failed execution → how many since the start."""
    compile_s: dict[str, float] = field(default_factory=dict)
    """Shape → seconds its compilation took."""

    def render(self, model: str, gauges: Gauges) -> str:
        """The body of `/metrics`."""
        label = f'model_name="{_escape(model)}"'
        out: list[str] = []

        def put(name: str, kind: str, *samples: tuple[str, float]) -> None:
            out.append(f"# TYPE {name} {kind}")
            out.extend(f"{name}{{{labels}}} {value:g}" for labels, value in samples)

        def put_histogram(name: str, histogram: Histogram) -> None:
            out.append(f"# TYPE {name} histogram")
            seen = 0
            for edge, count in zip((*map(str, _SECONDS), "+Inf"), histogram.counts, strict=True):
                seen += count
                out.append(f'{name}_bucket{{{label},le="{edge}"}} {seen}')
            out.append(f"{name}_sum{{{label}}} {histogram.total:g}")
            out.append(f"{name}_count{{{label}}} {seen}")

        put("vllm:num_requests_running", "gauge", (label, gauges.running))
        put("vllm:num_requests_waiting", "gauge", (label, gauges.waiting))
        put("vllm:kv_cache_usage_perc", "gauge", (label, gauges.cache_usage))
        put("vllm:prompt_tokens_total", "counter", (label, self.prompt_tokens))
        put("vllm:generation_tokens_total", "counter", (label, self.generation_tokens))
        put("vllm:prefix_cache_queries_total", "counter", (label, self.prompt_tokens))
        put("vllm:prefix_cache_hits_total", "counter", (label, self.prefix_hits))
        reasons = sorted({"stop", "length", "abort", "error"} | set(self.finished))
        put(
            "vllm:request_success_total",
            "counter",
            *((f'{label},finished_reason="{reason}"', self.finished[reason]) for reason in reasons),
        )
        put_histogram("vllm:time_to_first_token_seconds", self.first_token)
        put_histogram("vllm:inter_token_latency_seconds", self.between_tokens)
        put_histogram("vllm:e2e_request_latency_seconds", self.whole_request)
        put("trn_worker_free_slots", "gauge", (label, gauges.free_slots))
        put("trn_worker_aborted_total", "counter", (label, self.aborted))
        put("trn_worker_refused_total", "counter", (label, self.refused))
        put("trn_worker_padding_tokens_total", "counter", (label, self.padding_tokens))
        put(
            "trn_worker_executables",
            "gauge",
            (f'{label},state="ready"', gauges.ready_executables),
            (f'{label},state="pending"', gauges.pending_executables),
        )
        put("trn_worker_compilations_total", "counter", (label, gauges.executables_made))
        put(
            "trn_worker_compile_seconds",
            "gauge",
            *((f'{label},bucket="{bucket}"', seconds) for bucket, seconds in self.compile_s.items()),
        )
        return "\n".join(out) + "\n" + self.render_devices(model)

    def note_devices(self, use: DeviceUse) -> None:
        """A report has come."""
        self.devices = use
        for kind, count in use.errors.items():
            self.device_errors[kind] += count

    def render_devices(self, model: str) -> str:
        """What is known of the devices; empty where nobody reports."""
        use, label = self.devices, f'model_name="{_escape(model)}"'
        if use is None:
            return ""
        out = ["# TYPE trn_worker_device_utilization gauge"]
        out += [
            f'trn_worker_device_utilization{{{label},core="{_escape(core)}"}} {share:g}'
            for core, share in use.utilization.items()
        ]
        if use.memory_bytes is not None:
            out += ["# TYPE trn_worker_device_memory_bytes gauge"]
            out += [f"trn_worker_device_memory_bytes{{{label}}} {use.memory_bytes}"]
        out += ["# TYPE trn_worker_device_errors_total counter"]
        out += [
            f'trn_worker_device_errors_total{{{label},kind="{_escape(kind)}"}} {count}'
            for kind, count in self.device_errors.items()
        ]
        return "\n".join(out) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""A program that behaves and misbehaves as `vllm serve` does, in the ways its first argument names.

Listens as it is told, has vLLM's endpoints and metrics, and notes each start and its arguments in a file.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHUNK = 'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]}\n\n'
METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="big"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="big"} 2.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="big"} 0.5
# TYPE vllm:gpu_prefix_cache_hits_total counter
vllm:gpu_prefix_cache_hits_total{model_name="big"} 9.0
# TYPE vllm:time_per_output_token_seconds histogram
vllm:time_per_output_token_seconds_count{model_name="big"} 4.0
"""


def say(line: str) -> None:
    """One line of its log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(behaviour: str, notes: Path, arguments: list[str]) -> None:
    """Serve until told otherwise."""
    starts = notes.read_text().count("\n") if notes.exists() else 0
    with notes.open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    notes.with_suffix(".pid").write_text(str(os.getpid()))
    say("INFO 11-24 starting; prompt: my secret diary")
    say("WARNING 11-24 [config.py:1] something is odd")
    if behaviour == "ends-at-once" or (behaviour == "ends-twice" and starts < 2):
        say("ERROR nrt_init failed: NRT_RESOURCE")
        sys.exit(1)
    if behaviour == "ignores-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    port = int(arguments[arguments.index("--port") + 1])
    checks = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal checks
            if self.path == "/health":
                checks += 1
                if behaviour == "hangs-later" and starts == 0 and checks > 3:
                    time.sleep(60)
                self._reply(200, b"")
            elif self.path == "/metrics":
                self._reply(200, METRICS.encode(), "text/plain")

        def do_POST(self) -> None:
            body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if body.get("die"):
                os._exit(9)
            if not body.get("stream"):
                seen = {name.lower(): value for name, value in self.headers.items()}
                self._reply(
                    400 if body.get("bad") else 200,
                    json.dumps({"path": self.path, "headers": seen, "body": body}).encode(),
                )
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for index in range(body["stream"]):
                if body.get("die_after") == index:
                    os._exit(9)
                self._chunk(CHUNK)
                time.sleep(body.get("pause", 0))
            self._chunk("data: [DONE]\n\n")
            self._chunk("")

        def _chunk(self, text: str) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))
            self.wfile.flush()

        def _reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

"""Bedrock's event stream as a server writes it, byte by byte after AWS's description. Knows nothing of the gateway.

body = b"".join(answer("Hel", "lo"))
"""

import binascii
import json
import struct
from collections.abc import Sequence
from typing import Any


def frame(kind: str, payload: Any, *, message_type: str = "event") -> bytes:
    """One frame: an event of this kind, or with `message_type="exception"` an exception."""
    headers = {":message-type": message_type, ":content-type": "application/json"}
    headers[":event-type" if message_type == "event" else ":exception-type"] = kind
    return raw_frame(headers, json.dumps(payload).encode())


def raw_frame(headers: dict[str, str], payload: bytes) -> bytes:
    """A frame with these string headers."""
    written = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(written) + len(payload), len(written))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + written + payload
    return message + struct.pack(">I", binascii.crc32(message))


def answer(
    *texts: str,
    calls: Sequence[tuple[str, str, Sequence[str]]] = (),
    thought: tuple[Sequence[str], str] | None = None,
    stop_reason: str | None = None,
    usage: dict[str, int] | None = None,
) -> list[bytes]:
    """The frames of a whole answer: a thought with its signature, text, calls as (id, name, pieces of the input)."""
    frames = [frame("messageStart", {"role": "assistant"})]
    index = 0

    def delta(content: Any) -> bytes:
        return frame("contentBlockDelta", {"contentBlockIndex": index, "delta": content})

    def stop() -> bytes:
        return frame("contentBlockStop", {"contentBlockIndex": index})

    if thought is not None:
        pieces, signature = thought
        frames += [delta({"reasoningContent": {"text": piece}}) for piece in pieces]
        frames += [delta({"reasoningContent": {"signature": signature}}), stop()]
        index += 1
    if texts:
        frames += [*(delta({"text": text}) for text in texts), stop()]  # Without a start, as the service does.
        index += 1
    for call_id, name, inputs in calls:
        start = {"toolUse": {"toolUseId": call_id, "name": name}}
        frames.append(frame("contentBlockStart", {"contentBlockIndex": index, "start": start}))
        frames += [*(delta({"toolUse": {"input": piece}}) for piece in inputs), stop()]
        index += 1
    frames.append(frame("messageStop", {"stopReason": stop_reason or ("tool_use" if calls else "end_turn")}))
    counts = usage or {"inputTokens": 9, "outputTokens": 2, "totalTokens": 11}
    frames.append(frame("metadata", {"usage": counts, "metrics": {"latencyMs": 7}}))
    return frames

"""What backends of the OpenAI dialect send, in a few words; written and read without the code under test."""

import json

DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
PING = b": ping\n\n"
GARBAGE = b"data: %$!?\n\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 4}
"""What `usage_chunk` and `reply` report unless told otherwise."""


def ask(*, stream: object = True, **fields: object) -> bytes:
    """A client's request for the model `assistant`."""
    asked: dict[str, object] = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
    if stream is not False:
        asked["stream"] = stream
    return json.dumps(asked | fields).encode()


def event(content: object) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def chunk(text: str, *, index: int = 0) -> bytes:
    """A piece of the answer."""
    return event({"choices": [{"index": index, "delta": {"content": text}}]})


def finish(reason: str = "stop", *, index: int = 0) -> bytes:
    """The last chunk of a choice."""
    return event({"choices": [{"index": index, "delta": {}, "finish_reason": reason}]})


def usage_chunk(**usage: object) -> bytes:
    """The chunk that only reports usage."""
    return event({"choices": [], "usage": usage or USAGE})


def error(code: str | None = None, kind: str = "server_error", message: str = "it broke", **more: object) -> bytes:
    """An error's body."""
    return json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None} | more}).encode()


def error_event(code: str | None = None, kind: str = "server_error", message: str = "it broke") -> bytes:
    """An error inside a stream whose status was 200."""
    return b"event: error\ndata: " + error(code, kind, message) + b"\n\n"


def reply(text: str, usage: object = USAGE) -> bytes:
    """A whole unstreamed answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def text_of(body: bytes, *, stream: bool) -> str:
    """The generated text in an answer, as a client reads it."""
    if not stream:
        return "".join(choice["message"]["content"] for choice in json.loads(body)["choices"]) if body else ""
    text = ""
    for line in body.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", ()):
            text += choice.get("delta", {}).get("content") or ""
    return text

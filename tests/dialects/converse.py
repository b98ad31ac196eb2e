"""botocore as the judge of Converse: its model of the API for requests, its parsers for answers. Nothing of ours."""

import base64
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import botocore.session
from botocore.eventstream import EventStream
from botocore.model import OperationModel, Shape
from botocore.parsers import EventStreamJSONParser, create_parser


@functools.cache
def operation(name: str) -> OperationModel:
    """`Converse` or `ConverseStream` of bedrock-runtime."""
    return botocore.session.get_session().get_service_model("bedrock-runtime").operation_model(name)


def check_request(body: bytes, model: str) -> None:
    """Fails with every place where the request is not what the API's model allows.

    Stricter than botocore's own validator, which looks at neither enums, patterns nor lengths.
    """
    shape = operation("ConverseStream").input_shape
    problems = list(_problems(json.loads(body) | {"modelId": model}, shape, "$"))
    assert not problems, problems


def _problems(value: Any, shape: Shape, at: str) -> Iterator[str]:
    if getattr(shape, "is_document_type", False):
        return
    match shape.type_name:
        case "structure":
            yield from _structure(value, shape, at)
        case "list":
            yield from _wrong(isinstance(value, list), at, "no list") or _outside(len(value), shape, at)
            for index, each in enumerate(value):
                yield from _problems(each, shape.member, f"{at}[{index}]")
        case "map":
            yield from _wrong(isinstance(value, dict), at, "no map") or _outside(len(value), shape, at)
        case "string":
            yield from _wrong(isinstance(value, str), at, "no string") or _text(value, shape, at)
        case "blob":
            yield from _outside(len(base64.b64decode(value, validate=True)), shape, at)
        case "boolean":
            yield from _wrong(isinstance(value, bool), at, "no boolean")
        case "integer" | "long":
            yield from _wrong(type(value) is int, at, "no integer") or _outside(value, shape, at)
        case "float" | "double":
            yield from _wrong(type(value) in {int, float}, at, "no number") or _outside(value, shape, at)
        case other:
            raise AssertionError(f"the walker does not know {other}")


def _structure(value: Any, shape: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: no object"
        return
    yield from (f"{at}.{name}: unknown" for name in value.keys() - shape.members.keys())
    yield from (f"{at}.{name}: missing" for name in set(shape.required_members) - value.keys())
    if shape.is_tagged_union and len(value) != 1:
        yield f"{at}: a union of {len(value)} members"
    for name in value.keys() & shape.members.keys():
        yield from _problems(value[name], shape.members[name], f"{at}.{name}")


def _text(value: str, shape: Any, at: str) -> list[str]:
    found = _outside(len(value), shape, at)
    if shape.enum and value not in shape.enum:
        found.append(f"{at}: {value!r} is none of {shape.enum}")
    if (pattern := shape.metadata.get("pattern")) and not re.fullmatch(pattern, value):
        found.append(f"{at}: {value!r} does not match {pattern}")
    return found


def _outside(size: float, shape: Shape, at: str) -> list[str]:
    least, most = shape.metadata.get("min", size), shape.metadata.get("max", size)
    return _wrong(least <= size <= most, at, f"{size} is not within {least} and {most}")


def _wrong(is_right: bool, at: str, what: str) -> list[str]:
    return [] if is_right else [f"{at}: {what}"]


@dataclass
class Heard:
    """What botocore reads in an answer."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """Id, name, input."""
    signatures: list[str] = field(default_factory=list)
    stop_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)


def heard_reply(body: bytes) -> Heard:
    """A whole answer."""
    model = operation("Converse")
    parsed = create_parser("rest-json").parse({"status_code": 200, "headers": {}, "body": body}, model.output_shape)
    heard = Heard(stop_reason=parsed["stopReason"], usage=_counts(parsed["usage"]))
    for block in parsed["output"]["message"]["content"]:
        heard.text += block.get("text", "")
        heard.text += "".join(each["text"] for each in block.get("citationsContent", {}).get("content", ()))
        if (use := block.get("toolUse")) is not None:
            heard.calls.append((use["toolUseId"], use["name"], use["input"]))
        if (thought := block.get("reasoningContent", {}).get("reasoningText")) is not None:
            heard.reasoning += thought["text"]
            heard.signatures += [thought["signature"]] if "signature" in thought else []
    return heard


class _Once:
    """A response's raw body, as botocore wants one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Iterator[bytes]:
        yield self._data

    def close(self) -> None:
        """Nothing is open."""


def stream_events(data: bytes) -> list[dict[str, Any]]:
    """Every event of a stream; raises botocore's errors for damage and exceptions."""
    shape: Any = operation("ConverseStream").output_shape
    return list(EventStream(_Once(data), shape.members["stream"], EventStreamJSONParser(), "ConverseStream"))


def heard_stream(data: bytes) -> Heard:
    """A streamed answer."""
    heard = Heard()
    inputs: dict[int, str] = {}
    calls: dict[int, tuple[str, str]] = {}
    for event in stream_events(data):
        if (start := event.get("contentBlockStart")) is not None and "toolUse" in start["start"]:
            use = start["start"]["toolUse"]
            calls[start["contentBlockIndex"]] = (use["toolUseId"], use["name"])
        elif (piece := event.get("contentBlockDelta")) is not None:
            delta = piece["delta"]
            heard.text += delta.get("text", "")
            thought = delta.get("reasoningContent", {})
            heard.reasoning += thought.get("text", "")
            heard.signatures += [thought["signature"]] if "signature" in thought else []
            if "toolUse" in delta:
                index = piece["contentBlockIndex"]
                inputs[index] = inputs.get(index, "") + delta["toolUse"]["input"]
        elif (stop := event.get("messageStop")) is not None:
            heard.stop_reason = stop["stopReason"]
        elif (last := event.get("metadata")) is not None:
            heard.usage = _counts(last["usage"])
    heard.calls = [(*calls[index], json.loads(inputs.get(index) or "{}")) for index in sorted(calls)]
    return heard


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in usage.items() if isinstance(value, int)}

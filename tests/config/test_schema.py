"""The JSON Schema that editors read."""

import json
from pathlib import Path
from typing import get_args

import pytest

from gateway.config import schema
from gateway.config.shapes import shape
from gateway.domain.policy import Mode

FILE = Path(__file__).parents[2] / "policies" / "policy.schema.json"


def test_the_schema_in_the_repository_is_fresh() -> None:
    """`make schema` writes it."""
    assert FILE.read_text(encoding="utf-8") == schema.render()


def test_the_schema_says_what_the_check_says() -> None:
    """Fields, bounds, choices, defaults, and the docstring below each field."""
    definitions = json.loads(schema.render())["$defs"]
    timeouts = definitions["Timeouts"]["properties"]
    assert timeouts["connect"] == {
        "description": "To a connection that takes the request (TCP and TLS).",
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 3600,
        "default": 2.0,
    }
    assert definitions["Strategy"]["properties"]["mode"]["enum"] == list(get_args(Mode))
    assert definitions["TargetGroup"]["properties"]["targets"]["items"] == {
        "oneOf": [{"$ref": "#/$defs/TargetRef"}, {"$ref": "#/$defs/TargetGroup"}]
    }
    assert definitions["ModelRoute"]["required"] == ["targets"]
    assert definitions["ModelRoute"]["properties"]["targets"]["minItems"] == 1
    assert definitions["Backend"]["properties"]["credential"]["anyOf"][1] == {"type": "null"}
    assert definitions["KeyEntry"]["properties"]["expires"]["anyOf"][0] == {"type": "string", "format": "date"}
    assert all(definition["additionalProperties"] is False for definition in definitions.values())


@pytest.mark.parametrize("annotation", [set[int], tuple[int, str], int | str, dict[tuple[str, ...], int]])
def test_an_annotation_without_a_shape_is_refused(annotation: object) -> None:
    """A new kind of field needs its reading first; nothing is guessed."""
    with pytest.raises(TypeError):
        shape(annotation)

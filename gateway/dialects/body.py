"""The JSON body of a client's request: its top-level fields, and single ones read strictly. Does no I/O."""

from typing import Annotated, Final, TypeVar

import msgspec

from gateway.domain.errors import InvalidRequest, RequestTooLarge, UnknownModel
from gateway.domain.preferences import Preferences

Value = TypeVar("Value")
Fields = dict[str, msgspec.Raw]
"""The top-level fields, their values as the client wrote them. Each name occurs once."""

_MAX_MODEL_NAME: Final = 128
MOST_PARTS = 100_000
"""Objects and lists in one body. Translating takes a microsecond or two for each, and nobody is served meanwhile."""
MOST_TEXTS: Final = 200_000
"""Strings in a body that has many brackets: the longest that are real have a tenth."""

_DANGEROUS: Final = frozenset(
    {
        "api_base", "base_url", "api_key", "api_version", "extra_headers", "extra_body", "custom_llm_provider",
        "organization", "mock_response", "proxy", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
        "aws_region_name", "aws_profile_name", "aws_role_name",
    }
)  # fmt: skip
"""Fields that other gateways let a caller redirect requests with. None of them ever leaves."""

_fields_decoder: Final = msgspec.json.Decoder(Fields)
FLAG: Final = msgspec.json.Decoder(bool | None)
LIMIT: Final = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None)
"""Of output tokens."""
_TEXT: Final = msgspec.json.Decoder(str)
_PREFERENCES: Final = msgspec.json.Decoder(Preferences | None)


def fields_of(body: bytes) -> Fields:
    """The fields of a JSON object. Raises InvalidRequest for anything else, and for fields that none of ours may have.

    RequestTooLarge for one that would keep everybody else waiting while it is read.
    Decoding into a mapping leaves one value of a repeated key, and only that one is sent on: what we judged is what the
    backend reads.
    """
    if len(body) > MOST_PARTS and _brackets(body) > MOST_PARTS:
        _count_parts(body)
    try:
        if not body.isascii():
            body.decode("utf-8")  # Values are kept unread, so nothing else would notice.
        fields = _fields_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidRequest("The body is not a JSON object.", code="invalid_json") from None
    for name in fields.keys() & _DANGEROUS:
        raise InvalidRequest(f"`{name}` is not accepted: where requests go is the operator's to say.", param=name)
    return fields


def _count_parts(body: bytes) -> None:
    """RequestTooLarge when there are too many objects and lists. Brackets in texts, as code has them, do not count."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # Every quote that is left begins or ends a text.
    if bare.count(b'"') <= 2 * MOST_TEXTS and sum(map(_brackets, bare.split(b'"')[::2])) <= MOST_PARTS:
        return
    raise RequestTooLarge(f"The body has more than {MOST_PARTS} objects and lists, or {MOST_TEXTS} texts.")


def _brackets(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def read(fields: Fields, name: str, decoder: msgspec.json.Decoder[Value]) -> Value | None:
    """The value of an optional field. Raises InvalidRequest naming the field when it is of another kind."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"`{name}`: {error}", param=name) from None


def model_of(fields: Fields) -> str:
    """The public name that is asked for; whether it exists is the policy's to say. Raises InvalidRequest."""
    model = read(fields, "model", _TEXT)
    if not model:
        raise InvalidRequest("`model` is missing: name one of the models that GET /v1/models lists.", param="model")
    if len(model) > _MAX_MODEL_NAME or not model.isascii():
        shown = ascii(model[:64])
        raise UnknownModel(f"The model {shown} does not exist.", param="model")
    return model


def taken_preferences(fields: Fields) -> Preferences | None:
    """What the client wishes of its request's way, taken out of the fields: no backend learns it.

    Raises InvalidRequest.
    """
    raw = fields.pop("gateway", None)
    if raw is None:
        return None
    try:
        preferences: Preferences | None = _PREFERENCES.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `$")
        raise InvalidRequest(f"{message}.", param=f"gateway{place.rstrip('`')}") from None
    return preferences


def shown(name: str) -> str:
    """A client's word, fit to be repeated in a header or an error."""
    return "".join(char for char in name[:40] if char.isascii() and (char.isalnum() or char in "_-.")) or "unknown"

"""What someone who wishes us harm sends, as bytes on a connection, and the status that each must get.

Rows have letters and numbers: A bodies, B heads and framing, C paths, D keys, F other tenants, H templates, I work
without bound. A row holds several inputs. Answers of 200 are to what must change nothing; the row says what to look at
besides.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.api.test_framing import BROKEN
from tests.api.test_guards import HEADS
from tests.api.test_refusals import CASES, NESTED
from tests.api.test_refusals import Case as Refusal
from tests.running.client import CHAT, chat

KEY: Final = "{key}"
"""Stands for the key of the tenant that asks."""
CANARY: Final = "canary-of-an-attack"
GOOD: Final = f"Bearer {KEY}"
DEEP: Final = 20_000
Sent = tuple[str, str, bytes, int | tuple[int, ...], str | None]
"""Row, what, bytes, status, code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One input."""

    row: str
    what: str
    raw: bytes
    statuses: frozenset[int]
    """Any of these; no other."""
    code: str | None = None
    """The error's, where it matters."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Of a 200: fields of the backend's head that must be so; an empty value means that the field must be absent."""

    def __str__(self) -> str:
        return f"{self.row} {self.what}"


def post(
    body: object = None,
    *head: str,
    path: str = CHAT,
    key: str | None = GOOD,
    kind: str | None = "application/json",
    method: str = "POST",
) -> bytes:
    """A request whose head is sound, but for `head`. The body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(chat(CANARY) if body is None else body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", "connection: close", f"content-length: {len(content)}"]
    lines += [f"authorization: {key}"] if key is not None else []
    lines += [f"content-type: {kind}"] if kind is not None else []
    return "\r\n".join([*lines, *head, "", ""]).encode("latin-1") + content


def get(path: str, *head: str, key: str | None = GOOD) -> bytes:
    """A request without a body."""
    lines = [f"GET {path} HTTP/1.1", "host: gateway", "connection: close"]
    lines += [f"authorization: {key}"] if key is not None else []
    return "\r\n".join([*lines, *head, "", ""]).encode("latin-1")


def raw_chat(**fields: str) -> bytes:
    """A chat whose further fields are JSON as it stands."""
    more = "".join(f', "{name}": {value}' for name, value in fields.items())
    return f'{{"model": "assistant", "messages": [{{"role": "user", "content": "{CANARY}"}}]{more}}}'.encode()


def _bodies() -> Iterator[Sent]:
    for what, body in {
        "a text": b'"x"',
        "nothing in it": b"{}",
        "two kinds of quotes": b"{'model': 'assistant'}",
    }.items():
        yield "A1", what, post(body), 400, None
    yield "A2", "a comment", post(b'{"model": "assistant" /* x */}'), 400, "invalid_json"
    yield (
        "A4",
        "a schema without bottom",
        post(
            b'{"model": "assistant", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
            b'"function": {"name": "f", "parameters": ' + b'{"items": ' * DEEP + b"{}" + b"}" * DEEP + b"}}]}"
        ),
        400,
        "invalid_json",
    )
    for coding in ("deflate", "zstd", "gzip, gzip", "x-gzip"):
        yield "A8", f"coded as {coding}", post(None, f"content-encoding: {coding}"), 415, None
    for number in ("Infinity", "-Infinity", "0x10", "+1", ".5", "1."):
        yield "A9", f"temperature {number}", post(raw_chat(temperature=number)), 400, None
    yield "A9", "a number of 5000 digits", post(raw_chat(max_tokens="9" * 5000)), 400, None
    for number in ("true", '"5"', "1000000000", "1.5", "[]", "-0.5", "9223372036854775808"):
        yield "A10", f"max_tokens {number}", post(raw_chat(max_tokens=number)), 400, None
    for number in ("0", "-1", "true", "1.5", '"2"'):
        yield "A10", f"n {number}", post(raw_chat(n=number)), 400, None
    yield (
        "A12",
        "half a character in the text",
        post(b'{"model": "assistant", "messages": [{"role": "user", "content": "\\udfff"}]}'),
        400,
        None,
    )
    names = ["gpt-4\u200b", "\uff41\uff53sistant", "assist\u2011ant", "assistant ", " assistant", "../assistant"]
    names += [
        "assistant%00",
        "first/small",
        "a" * 10_000,
        "\u202etnatsissa",
        "assistant\r\nx: y",
        "*",
        "",
        "\U0001f600",
    ]
    for name in names:
        yield "A13", f"model {name[:20]!a}", post(chat(CANARY, model=name)), (400, 404), None
    for name in ("api_base", "base_url", "api_key", "api_version", "extra_headers", "custom_llm_provider", "proxy",
                 "organization", "mock_response", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
                 "aws_region_name"):  # fmt: skip
        yield "A14", name, post(chat(CANARY, **{name: "http://169.254.169.254/"})), 400, None
    for kind in ("application/jsonp", "text/json", "application/x-www-form-urlencoded", "application/xml"):
        yield "A18", kind, post(None, kind=kind), 415, None
    yield "A17", "stream 1", post(raw_chat(stream="1")), 400, None
    yield "A17", "options that are a list", post(raw_chat(stream="true", stream_options="[]")), 400, None


def _heads() -> Iterator[Sent]:
    good = f"authorization: {GOOD}"
    for what, head in {
        "authorization twice": good,
        "authorization and x-api-key": f"x-api-key: {KEY}",
        "authorization and api-key": f"api-key: {KEY}",
        "authorization and x_api_key": f"x_api_key: {KEY}",
        "authorization and Authorization": f"Authorization: {GOOD}",
    }.items():
        yield "B13", what, post(None, head), 400, "ambiguous_credentials"
    yield (
        "B13",
        "x-api-key and x_api_key",
        post(None, f"x-api-key: {KEY}", f"x_api_key: {KEY}", key=None),
        400,
        ("ambiguous_credentials"),
    )
    yield "B13", "x_api_key alone", post(None, f"x_api_key: {KEY}", key=None), 401, None
    for hops in ("3", "999999999999"):
        yield "E9", f"through {hops} gateways", post(None, f"x-gateway-hop: {hops}"), 508, "loop_detected"
    yield "B18", "a repeat's name of 10 kB", post(None, f"idempotency-key: {'k' * 10_000}"), 400, None
    for method in ("TRACE", "OPTIONS", "PATCH", "HEAD"):
        yield "B12", method, post(None, method=method), 405, None
    preflight = ("origin: https://evil.example", "access-control-request-method: POST")
    yield "B22", "a browser's preflight", post(b"", *preflight, method="OPTIONS", key=None), 405, None
    yield "B22", "a key as cookie", post(None, f"cookie: api_key={KEY}; authorization={KEY}", key=None), 401, None


def _paths() -> Iterator[Sent]:
    for path in ("/admin/health", "/admin/x;/healthz", "/admin/policies/readyz", "/v1/models/../../admin/v1/policies",
                 "/v1%2fadmin", "//admin//policies", "/V1/Models", "/admin/%2e%2e/", "/admin%00", "/admin/v1/keys",
                 "/debug", "/openapi.json", "/v1/../metrics", "/.env",
                 "/v1/chat/completions/../../../admin"):  # fmt: skip
        yield "C2", path, get(path), 404, None
    yield "C3", "not UTF-8", get("/a%ff%fe"), (400, 404), None
    for field_ in ("X-Original-URL: /admin/v1/policies", "X-Rewrite-URL: /admin/v1/policies"):
        yield "C4", field_, get("/v1/nothing", field_), 404, None
    yield "C4", "another method by a field", get("/v1/chat/completions", "X-HTTP-Method-Override: POST"), 405, None


def _keys() -> Iterator[Sent]:
    for what, key in {
        "no word before it": KEY,
        "two spaces": f"Bearer  {KEY}",
        "a tab": f"Bearer\t{KEY}",
        "a trailing word": f"Bearer {KEY} x",
        "not ASCII": "Bearer \xe9",
        "another scheme": f"Digest {KEY}",
        "the operator's": "Bearer owner-canary-of-an-attack",
        "SQL": "Bearer ' OR (SELECT pg_sleep(8)) IS NOT NULL --",
        "a prefix of it": "Bearer sk-gw-",
        "a wildcard": "Bearer *",
        "braces": "Bearer {}",
    }.items():
        yield "D1", what, post(None, key=key), 401, "invalid_api_key"
    yield "D1", "in the query", post(None, path=f"{CHAT}?api_key={KEY}", key=None), 401, "invalid_api_key"
    yield "D1", "very long", post(None, key=f"Bearer {'k' * 20_000}"), 401, "invalid_api_key"


def _harmless() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """What is served as if it were not there: nothing of it reaches a backend."""
    yield (
        "A11",
        "a model twice",
        post(b'{"model": "solo", "model": "assistant", "messages": [{"role": "user", "content": "x"}]}'),
        {},
    )
    yield "A9", "temperature 1e400", post(raw_chat(temperature="1e400")), {}  # The backend's to judge: we read it not.
    for name in ("__proto__", "__class__", "constructor"):
        yield "A19", name, post(chat(CANARY, metadata={name: "x"})), {}
    for name in ("x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-proto"):
        yield "B14", name, post(None, f"{name}: 10.0.0.1"), {name: ""}
    yield "B15", "a credential as hop-by-hop", post(None, "connection: authorization"), {"authorization": ""}
    yield "B15", "a tenant as hop-by-hop", post(None, "connection: x-tenant", "x-tenant: other"), {"x-tenant": ""}
    for request_id in ("x" * 10_000, "a b", "../../x", "{key}"):
        yield "B16", f"request id {request_id[:10]}", post(None, f"x-request-id: {request_id}"), {"x-request-id": ""}
    for parent in ("00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x" * 9000):
        yield "B17", f"traceparent {parent[:10]}", post(None, f"traceparent: {parent}"), {"traceparent": ""}
    yield "B17", "baggage of 10 kB", post(None, f"baggage: {'a=b,' * 2500}"), {"baggage": ""}
    for hops, told in (("0", "1"), ("1", "2"), ("2", "3"), ("-5", "1"), ("nan", "1"), ("x", "1")):
        yield "E9", f"through {hops} gateways", post(None, f"x-gateway-hop: {hops}"), {"x-gateway-hop": told}
    yield "B19", "a cookie", post(None, "cookie: a=b"), {"cookie": ""}
    for name in ("x-tenant-id", "openai-organization", "openai-project"):
        yield "F1", name, post(None, f"{name}: other"), {name: ""}
    for more in ({"user": "other"}, {"metadata": {"tenant": "other", "user_api_key_team_id": "other"}}):
        yield "F1", f"in the body: {next(iter(more))}", post(chat(CANARY, **more)), {}
    for text in ("{{7*7}}", "{0.__class__}", "%n%n%s", "${jndi:ldap://x/y}", "<|endoftext|><|im_start|>"):
        yield "H4", text, post(chat(text)), {}
    for text in ("^" * 200_000, "a" * 200_000, "\u200b" * 50_000):
        yield "I1", f"{len(text)} times {text[:1]!a}", post(chat(text)), {}


_REUSED: Final = {
    "model": "A13", "stream": "A17", "max_tokens": "A10", "n": "A10", "stream_options": "A17", "api_base": "A14",
    "extra_headers": "A14",
}  # fmt: skip


def _row_of(case: Refusal) -> str:
    if case.keyless:
        return "D1"
    if case.path != CHAT or case.status in {404, 405}:
        return "A13" if case.code == "model_not_found" else "C6"
    if case.status == 415:
        return "A8" if any(name == "content-encoding" for name, _ in case.headers) else "A18"
    if case.body is NESTED:
        return "A3"
    if case.status == 413:
        return "A5"
    return _REUSED.get(case.param or "", "A2")


def _reused() -> Iterator[Attack]:
    """What other tests play already, one by one."""
    for case in CASES:
        body = json.dumps(chat(CANARY)).encode() if case.body is None else case.body
        lines = [f"{name}: {value}" for name, value in case.headers]
        key = None if case.keyless else GOOD
        sent = post(body, *lines, path=case.path, key=key, kind=None, method=case.method)
        yield Attack(row=_row_of(case), what=case.name, raw=sent, statuses=frozenset({case.status}), code=case.code)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {GOOD}\r\ncontent-type: application/json\r\n"
    for what, rest in BROKEN.items():
        yield Attack(row="B1", what=what, raw=(head + rest).encode("latin-1"), statuses=frozenset({400}))
    for what, (status, text) in HEADS.items():
        yield Attack(row="B9", what=what, raw=text.encode("latin-1"), statuses=frozenset({status}))


REUSED: Final = list(_reused())
OWN: Final = [
    *(
        Attack(
            row=row,
            what=what,
            raw=raw,
            statuses=frozenset(statuses if isinstance(statuses, tuple) else {statuses}),
            code=code,
        )
        for found in (_bodies(), _heads(), _paths(), _keys())
        for row, what, raw, statuses, code in found
    ),
    *(
        Attack(row=row, what=what, raw=raw, statuses=frozenset({200}), told=told)
        for row, what, raw, told in _harmless()
    ),
]
ALL: Final[list[Any]] = [*OWN, *REUSED]

"""The bytes of a request to a destination: what gets in and what cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import __version__
from gateway.domain.backend import Backend
from gateway.domain.wire import OWN_HEADERS, WireRequest
from gateway.upstream.destination import Destination, destination_of, parse_destination, request_bytes


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "base_path"),
    [
        ("https://api.example.com/v1/", "https", "api.example.com", 443, "/v1"),
        ("http://[::1]:8090", "http", "::1", 8090, ""),
    ],
)
def test_a_destination_has_the_parts_of_its_base_url(
    url: str, scheme: str, host: str, port: int, base_path: str
) -> None:
    to = parse_destination("worker", url, allow_private=True)
    assert (to.scheme, to.host, to.port, to.base_path) == (scheme, host, port, base_path)


def test_a_bad_base_url_is_refused_with_the_backends_name() -> None:
    """The rules are those of `domain.address`, the operator's word included."""
    parse_destination("worker", "http://worker:8090", allow_private=True)
    with pytest.raises(ValueError, match="base_url of `worker` sends prompts unencrypted"):
        parse_destination("worker", "http://worker:8090", allow_private=False)


def worker(**more: str) -> Destination:
    backend = Backend(dialect="openai", base_url="http://127.0.0.1:8090/v1", models={}, allow_private=True)
    headers = [(name.encode().replace(b"_", b"-"), value.encode()) for name, value in more.items()]
    return destination_of("worker", backend, headers)


def test_a_request_is_built_from_the_allow_list() -> None:
    """The whole head, byte for byte: nothing else goes out."""
    request = WireRequest(
        method="POST",
        path="/chat/completions",
        headers=[(b"content-type", b"application/json")],
        body=b"{}",
    )
    assert request_bytes(worker(authorization="Bearer s3cret"), request) == (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        b"host: 127.0.0.1:8090\r\n"
        b"accept-encoding: identity\r\n"
        b"user-agent: llm-gateway/" + __version__.encode() + b"\r\n"
        b"authorization: Bearer s3cret\r\n"
        b"content-type: application/json\r\n"
        b"content-length: 2\r\n"
        b"\r\n"
        b"{}"
    )


@pytest.mark.parametrize(
    ("method", "length"), [("GET", b""), ("POST", b"content-length: 0\r\n"), ("DELETE", b"content-length: 0\r\n")]
)
def test_an_empty_body_has_a_length_except_with_get(method: str, length: bytes) -> None:
    head = request_bytes(worker(), WireRequest(method=method, path="/models"))
    assert head.endswith(b"\r\n" + length + b"\r\n")
    assert (b"content-length" in head) == bool(length)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/", b"a.example"),
        ("https://a.example:443/", b"a.example"),
        ("https://a.example:80/", b"a.example:80"),
        ("http://[::1]:8090/", b"[::1]:8090"),
    ],
)
def test_the_host_header_names_the_port_only_when_it_is_not_the_schemes_own(url: str, host: bytes) -> None:
    assert parse_destination("x", url, allow_private=True).fixed.startswith(b"host: " + host + b"\r\n")


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\x00b", b"a\x7fb"])
def test_a_header_value_cannot_break_the_framing(value: bytes) -> None:
    request = WireRequest(method="POST", path="/x", headers=[(b"content-type", value)])
    with pytest.raises(ValueError, match="control character"):
        request_bytes(worker(), request)


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"host", b"transfer-encoding", b"x-forwarded-for", b""])
def test_a_request_cannot_bring_fields_of_its_own(name: bytes) -> None:
    with pytest.raises(ValueError, match="not one a backend gets"):
        request_bytes(worker(), WireRequest(method="POST", path="/x", headers=[(name, b"v")]))


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nb", "/a#b", "/ä", "http://evil/"])
def test_a_path_that_could_mean_something_else_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        request_bytes(worker(), WireRequest(method="POST", path=path))


@pytest.mark.parametrize("method", ["HEAD", "CONNECT", "TRACE", "get", "GET x", ""])
def test_an_unknown_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        request_bytes(worker(), WireRequest(method=method, path="/x"))


@pytest.mark.parametrize("name", [*sorted(OWN_HEADERS), b"X-Key", b"a b", b"a:b", b""])
def test_a_credential_cannot_take_the_name_of_a_field_of_ours(name: bytes) -> None:
    with pytest.raises(ValueError, match="credential of `x`"):
        parse_destination("x", "https://a.example/", allow_private=False, headers=[(name, b"s3cret")])


def test_neither_repr_nor_error_shows_the_secret() -> None:
    assert "s3cret" not in repr(worker(authorization="Bearer s3cret"))
    with pytest.raises(ValueError, match="credential of `x`") as caught:
        parse_destination("x", "https://a.example/", allow_private=False, headers=[(b"authorization", b"s3cret\r\n")])
    assert "s3cret" not in str(caught.value)


def test_connections_are_shared_across_credentials_and_paths_but_not_across_addresses() -> None:
    def key(url: str, headers: list[tuple[bytes, bytes]], *, allow_private: bool = True, name: str = "x") -> str:
        return parse_destination(name, url, allow_private=allow_private, headers=headers).key

    base = key("https://a.example/v1", [])
    assert key("https://a.example/v2", [(b"authorization", b"other")]) == base
    assert key("https://a.example:8443/v1", []) != base
    assert key("http://a.example:443/v1", []) != base
    assert key("https://b.example/v1", []) != base
    assert key("https://a.example/v1", [], allow_private=False) != base
    assert key("https://a.example/v1", [], name="y") != base


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_value_adds_a_line_to_the_head(value: bytes, body: bytes) -> None:
    """Whatever the value, a request that is built has exactly the lines it should have and ends in its body."""
    request = WireRequest(method="POST", path="/x", headers=[(b"content-type", value)], body=body)
    try:
        built = request_bytes(worker(), request)
    except ValueError:
        return
    head, _, rest = built.partition(b"\r\n\r\n")
    assert rest == body
    assert len(head.split(b"\r\n")) == 6
    assert b"\n" not in head.replace(b"\r\n", b"")

"""What a key looks like and how it comes out of a request (security.md D)."""

import contextlib
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import MAX_KEY_BYTES, REFUSAL, digest, extract_credential, mint, public_id_of
from gateway.domain.errors import InvalidRequest, Unauthenticated
from gateway.domain.wire import Headers

OURS = mint(bytes(range(32))).encode()
REFUSED = [
    [],
    [(b"host", b"x")],
    [(b"authorization", b"")],
    [(b"authorization", b"Bearer")],
    [(b"authorization", b"Bearer ")],
    [(b"authorization", b"Bearer  " + OURS)],
    [(b"authorization", b"Bearer " + OURS + b" ")],
    [(b"authorization", b"Bearer " + OURS + b"\n")],
    [(b"authorization", b"Bearer a b")],
    [(b"authorization", b"Bearer \xc3\xa9")],
    [(b"authorization", b"Bearer a\x00")],
    [(b"authorization", b"Basic dXNlcjpwYXNz")],
    [(b"authorization", OURS)],
    [(b"authorization", b"Bearer " + b"x" * (MAX_KEY_BYTES + 1))],
    [(b"authorization", b"Bearer " + b"x" * 1_000_000)],
    [(b"x-api-key", b"")],
    [(b"x-api-key", b"Bearer " + OURS)],
    [(b"x_api_key", OURS)],
    [(b"cookie", b"authorization=" + OURS)],
]
ACCEPTED = [
    [(b"authorization", b"Bearer " + OURS)],
    [(b"authorization", b"bearer " + OURS)],
    [(b"authorization", b"BEARER " + OURS)],
    [(b"x-api-key", OURS)],
    [(b"api-key", OURS)],
    [(b"x-goog-api-key", OURS)],
    [(b"host", b"x"), (b"x-api-key", OURS), (b"x-forwarded-for", b"1.2.3.4")],
]


@pytest.mark.parametrize("headers", ACCEPTED)
def test_a_key_is_found_wherever_an_sdk_puts_it(headers: Headers) -> None:
    """OpenAI's, Anthropic's, Azure's and Google's header."""
    assert extract_credential(headers) == OURS


@pytest.mark.parametrize("headers", REFUSED)
def test_everything_else_is_refused_in_the_same_words(headers: Headers) -> None:
    """Missing, malformed or too long: the answer does not say which."""
    with pytest.raises(Unauthenticated) as caught:
        extract_credential(headers)
    assert (caught.value.message, caught.value.http_status, caught.value.param) == (REFUSAL, 401, None)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + OURS), (b"authorization", b"Bearer " + OURS)],
        [(b"authorization", b"Bearer " + OURS), (b"x-api-key", OURS)],
        [(b"authorization", b"Basic x"), (b"x-api-key", OURS)],
        [(b"api-key", b""), (b"x-api-key", OURS)],
        [(b"x-api-key", OURS), (b"x_api_key", OURS)],
        [(b"api_key", OURS), (b"authorization", b"Bearer " + OURS)],
    ],
)
def test_two_credentials_are_refused_whatever_they_are(headers: Headers) -> None:
    """Also where a server before us might take a name with underscores for the other one."""
    with pytest.raises(InvalidRequest) as caught:
        extract_credential(headers)
    assert (caught.value.http_status, caught.value.code) == (400, "ambiguous_credentials")


NAMES = st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"host", b"x-other"])
VALUES = st.one_of(st.binary(max_size=80), st.builds(b"".join, st.tuples(st.just(b"Bearer "), st.binary(max_size=40))))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_any_headers_give_a_printable_key_that_one_of_them_carries_or_a_refusal(headers: Headers) -> None:
    """No third outcome, whatever bytes arrive."""
    with contextlib.suppress(Unauthenticated, InvalidRequest):
        found = extract_credential(headers)
        assert re.fullmatch(rb"[!-~]{1,512}", found)
        assert [value.endswith(found) for name, value in headers if name not in (b"host", b"x-other")] == [True]


@given(st.binary(min_size=32, max_size=32))
def test_a_minted_key_has_our_shape_and_all_its_random_bits(random_bytes: bytes) -> None:
    """The public id is readable from it; different bytes make different keys."""
    key = mint(random_bytes)
    assert re.fullmatch(r"sk-gw-[a-z2-7]{12}-[a-z2-7]{52}", key)
    public_id, secret = key.removeprefix("sk-gw-").split("-")
    assert public_id_of(key.encode(), digest(key.encode())) == public_id
    assert public_id not in secret
    flipped = bytes([random_bytes[0] ^ 1]) + random_bytes[1:]
    assert mint(flipped)[-52:] != secret
    assert mint(random_bytes) == key


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_is_never_made_of_fewer_bits(length: int) -> None:
    """Nor of more: a caller that mixes something up hears of it."""
    with pytest.raises(ValueError, match="32 random bytes"):
        mint(bytes(length))


@pytest.mark.parametrize(
    "key", [b"sk-proj-abc", b"x", OURS + b"x", OURS.upper(), OURS[:-1], b"sk-gw-short-x", OURS + b"\n"]
)
def test_a_foreign_key_shows_only_a_part_of_its_digest(key: bytes) -> None:
    """No character of the key itself may be shown."""
    hashed = digest(key)
    assert hashed == hashlib.sha256(key).digest()
    assert public_id_of(key, hashed) == hashed.hex()[:12]

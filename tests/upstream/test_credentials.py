"""Credential references become header fields, and secrets never become text."""

import pytest

from gateway.domain.backend import Backend, BearerCredential, HeaderCredential, HeaderValue
from gateway.upstream.credentials.static import CredentialUnusable, credential_headers

SECRET = "sk-canary-5fd2"


def backend(credential: BearerCredential | HeaderCredential | None) -> Backend:
    return Backend(dialect="openai", base_url="https://a.example/v1", models={}, credential=credential)


def resolve(reference: str) -> str:
    found = {"env:KEY": SECRET, "file:/run/key": f"{SECRET}\n", "env:EMPTY": " \n", "env:BAD": f"{SECRET}\r\nx: y"}
    return found[reference]


@pytest.mark.parametrize(
    ("credential", "headers"),
    [
        (None, ()),
        (BearerCredential(bearer="env:KEY"), ((b"authorization", b"Bearer sk-canary-5fd2"),)),
        (BearerCredential(bearer="file:/run/key"), ((b"authorization", b"Bearer sk-canary-5fd2"),)),
        (
            HeaderCredential(header=HeaderValue(name="x-api-key", value="env:KEY")),
            ((b"x-api-key", b"sk-canary-5fd2"),),
        ),
    ],
)
def test_a_credential_becomes_its_header(
    credential: BearerCredential | HeaderCredential | None, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    assert credential_headers("b", backend(credential), resolve) == headers


@pytest.mark.parametrize(
    ("reference", "reason"),
    [("env:OTHER", "env:OTHER is not set"), ("env:EMPTY", "is empty"), ("env:BAD", "holds characters")],
)
def test_a_reference_that_leads_nowhere_is_named(reference: str, reason: str) -> None:
    with pytest.raises(CredentialUnusable, match=reason) as caught:
        credential_headers("b", backend(BearerCredential(bearer=reference)), resolve)
    assert SECRET not in str(caught.value)


def test_a_secret_pasted_in_place_of_its_reference_is_not_repeated() -> None:
    with pytest.raises(CredentialUnusable, match="no reference") as caught:
        credential_headers("b", backend(BearerCredential(bearer=SECRET)), resolve)
    assert SECRET not in str(caught.value)


def test_printing_the_headers_shows_their_names_alone() -> None:
    headers = credential_headers("b", backend(BearerCredential(bearer="env:KEY")), resolve)
    assert repr(headers) == str(headers) == f"{headers}" == "<secret headers: authorization>"

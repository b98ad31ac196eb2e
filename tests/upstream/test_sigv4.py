"""Signature Version 4 as AWS checks it: known answers, a verifier of our own, and botocore's chain against loopback."""

import base64
import datetime as dt
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
import httpx
import pytest
from botocore import auth, credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.backend import AwsAccess
from gateway.domain.wire import WireRequest
from gateway.upstream.adapter import HttpxTransport
from gateway.upstream.credentials.aws import AwsSource, SigV4
from gateway.upstream.credentials.identity import Identity, Unsigned
from gateway.upstream.credentials.static import CredentialUnusable
from gateway.upstream.destination import Destination, parse_destination
from gateway.upstream.transport import Transport
from tests.backends.scripted import Request, Script, ScriptedBackend, scripted_backend
from tests.upstream.recording import Recording, Watched
from tests.upstream.verifiers import sigv4_problem

VECTORS = Path(__file__).parents[2].parent / "shared" / "data" / "vectors" / "bedrock-auth"
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # AWS's own, from its documentation
AT = dt.datetime(2026, 6, 1, 12, 34, 56)  # noqa: DTZ001  # botocore's own times are UTC and do not say so
SCOPE = f"{KEY}/20260601/us-east-1/bedrock/aws4_request"
CHAIN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN",
         "AWS_REGION", "AWS_DEFAULT_REGION")  # fmt: skip


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that is signed with stands."""
    monkeypatch.setattr(auth, "get_current_datetime", lambda: AT)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment in which botocore's chain finds nothing; a folder for files that it shall find."""
    for name in CHAIN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def signer(service: str = "bedrock", token: str | None = None) -> SigV4:
    return SigV4(credentials.ReadOnlyCredentials(KEY, SECRET, token), service, "us-east-1")


def known_answers() -> list[tuple[str, dict[str, Any]]]:
    """Of OpenAI's own client for Bedrock, in one form."""
    if not VECTORS.is_dir():
        return []
    one = json.loads((VECTORS / "sigv4.json").read_bytes())
    found = [
        (
            "with-session-token",
            {
                "at": one["expected"]["date"],
                "token": one["credentials"]["sessionToken"],
                "url": one["request"]["url"],
                "headers": {"content-type": one["request"]["contentType"]},
                "body": one["request"]["body"].encode(),
                "authorization": one["expected"]["authorization"],
                "digest": one["expected"]["payloadHash"],
            },
        )
    ]
    for case in json.loads((VECTORS / "cases.json").read_bytes())["cases"]:
        if case["kind"] == "sigv4":
            asked, expected = case["given"], case["expected"]["headers"]
            host = asked["request"]["headers"].pop("host")
            assert host in asked["request"]["url"]
            found.append(
                (
                    case["id"],
                    {
                        "at": expected["x-amz-date"],
                        "token": asked["credentials"].get("session_token"),
                        "url": asked["request"]["url"],
                        "headers": asked["request"]["headers"],
                        "body": base64.b64decode(asked["request"]["body_base64"]),
                        "authorization": expected["authorization"],
                        "digest": expected["x-amz-content-sha256"],
                    },
                )
            )
    return found


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the known answers lie beside the project, and are not there")
def test_the_known_answers_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by another client for the same service, byte for byte."""
    answers = known_answers()
    assert len(answers) >= 2
    for name, case in answers:
        at = dt.datetime.strptime(case["at"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007  # as AT
        monkeypatch.setattr(auth, "get_current_datetime", lambda at=at: at)
        url = httpx.URL(case["url"])
        unsigned = Unsigned(
            method="POST",
            scheme="https",
            authority=url.host,
            target=url.path,
            headers=[(key.encode(), value.encode()) for key, value in case["headers"].items()],
            body=case["body"],
        )
        proof = dict(signer("bedrock-mantle", case["token"]).prove(unsigned))
        assert proof[b"authorization"].decode() == case["authorization"], name
        assert proof[b"x-amz-content-sha256"].decode() == case["digest"], name
        assert proof.get(b"x-amz-security-token", b"").decode() == (case["token"] or ""), name


MODEL_PATHS = [
    "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
    "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.amazon.nova-pro-v1%3A0/converse-stream",
]


@pytest.mark.parametrize("target", MODEL_PATHS)
@pytest.mark.usefixtures("frozen")
def test_an_escaped_colon_of_a_model_id_is_signed_as_escaped_twice(target: str) -> None:
    """`%3A` on the wire, `%253A` in what is signed: signed as it stands, AWS would refuse it."""
    unsigned = Unsigned("POST", "https", "bedrock-runtime.us-east-1.amazonaws.com", target, (), b"{}")
    headers = {name.decode(): value.decode() for name, value in signer().prove(unsigned)} | {"host": unsigned.authority}
    assert sigv4_problem("POST", target, headers, b"{}", secret=SECRET, scope=SCOPE) is None
    assert sigv4_problem("POST", target, headers, b"{}", secret=SECRET, scope=SCOPE, twice=False) == "signature"


@given(
    path=st.lists(st.from_regex(r"[A-Za-z0-9._~-]{0,3}(%3A|%2F|%20|:)?[A-Za-z0-9]{1,5}", fullmatch=True), min_size=1),
    query=st.from_regex(r"([a-z]{1,3}=[a-z0-9]{0,3}(&[a-z]{1,3}=[a-z0-9]{0,3})*)?", fullmatch=True),
    body=st.binary(max_size=64),
    token=st.none() | st.from_regex(r"[A-Za-z0-9/+=]{1,20}", fullmatch=True),
)
@settings(deadline=None, max_examples=50)
def test_whatever_is_signed_is_what_is_sent(path: list[str], query: str, body: bytes, token: str | None) -> None:
    """For every path, query and body, the verifier agrees; and not for another body."""
    target = "/" + "/".join(path) + (f"?{query}" if query else "")
    unsigned = Unsigned("POST", "https", "a.example:8443", target, [(b"content-type", b"application/json")], body)
    headers = {name.decode(): value.decode() for name, value in signer(token=token).prove(unsigned)}
    scope = f"{KEY}/{headers['x-amz-date'][:8]}/us-east-1/bedrock/aws4_request"
    headers |= {"host": "a.example:8443", "content-type": "application/json"}
    assert sigv4_problem("POST", target, headers, body, secret=SECRET, scope=scope) is None
    assert sigv4_problem("POST", target, headers, body + b"x", secret=SECRET, scope=scope) == "signature"


def problem(seen: Request) -> str | None:
    scope = f"{KEY}/{seen.headers['x-amz-date'][:8]}/us-east-1/bedrock/aws4_request"
    if seen.headers["x-amz-content-sha256"] != hashlib.sha256(seen.body).hexdigest():
        return "digest"
    return sigv4_problem(seen.method, seen.path, seen.headers, seen.body, secret=SECRET, scope=scope)


@pytest.fixture
async def signed(backend: ScriptedBackend, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Destination:
    """The backend as a destination whose requests are signed with keys of the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    identity = Identity("bedrock", AwsSource(AwsAccess(region="us-east-1")))
    await identity.renew(Watched())
    return parse_destination("bedrock", backend.base_url, allow_private=True, identity=identity)


async def test_the_pool_signs_the_bytes_it_writes(
    transport: Transport, backend: ScriptedBackend, signed: Destination
) -> None:
    for path in MODEL_PATHS:
        recording = Recording()
        content = [(b"content-type", b"application/json"), (b"traceparent", b"00-1-2-01")]
        transport.send(signed, WireRequest(method="POST", path=path, headers=content, body=b'{"a":1}'), recording)
        await recording.end()
        assert recording.fault is None
    assert [problem(seen) for seen in backend.requests] == [None, None]
    assert [seen.headers["traceparent"] for seen in backend.requests] == ["00-1-2-01"] * 2
    assert backend.accepted == 1


async def test_httpx_over_the_transport_signs_too_and_only_for_that_origin(
    transport: Transport, backend: ScriptedBackend, signed: Destination
) -> None:
    async with (
        scripted_backend() as other,
        httpx.AsyncClient(transport=HttpxTransport(transport, destination=signed)) as client,
    ):
        await client.get(f"{backend.base_url}/models?limit=1&after=%20x")
        await client.post(f"{backend.base_url}/x", json={"a": 1})
        await client.get(f"{other.base_url}/models")
    assert [problem(seen) for seen in backend.requests] == [None, None]
    assert "authorization" not in other.requests[0].headers


# botocore's own chain


async def fetched(access: AwsAccess) -> Unsigned | dict[str, str]:
    """The header fields that a request would carry."""
    grant = await anyio.to_thread.run_sync(AwsSource(access).fetch)
    unsigned = Unsigned("GET", "https", "a.example", "/", (), b"")
    return {name.decode(): value.decode() for name, value in grant.prove(unsigned)}


async def test_a_profile_is_read_from_awss_own_files(nowhere: Path) -> None:
    (nowhere / "credentials").write_text(
        f"[default]\naws_access_key_id=x\naws_secret_access_key=y\n[prod]\naws_access_key_id={KEY}\n"
        f"aws_secret_access_key={SECRET}\naws_session_token=tok\n"
    )
    headers = await fetched(AwsAccess(region="us-east-1", profile="prod", service="bedrock-mantle"))
    assert isinstance(headers, dict)
    assert f"Credential={KEY}/" in headers["authorization"]
    assert "/us-east-1/bedrock-mantle/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "tok"


async def test_an_empty_chain_says_where_it_looked(nowhere: Path) -> None:
    with pytest.raises(CredentialUnusable, match="no AWS credentials in the environment"):
        await fetched(AwsAccess(region="us-east-1"))


async def test_a_pods_web_identity_is_exchanged_for_keys(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IRSA: the token that Kubernetes mounted goes to STS, and its keys end when it says."""
    ends = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(hours=1)
    answer = f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
      <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{KEY}</AccessKeyId>
      <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>irsa</SessionToken>
      <Expiration>{ends.isoformat()}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
    </AssumeRoleWithWebIdentityResponse>"""
    (nowhere / "token").write_text("from-kubernetes")
    async with scripted_backend() as sts:
        sts.default = Script(headers=[("content-type", "text/xml")], steps=[(0, answer.encode())])
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gateway")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(nowhere / "token"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.port}")
        grant = await anyio.to_thread.run_sync(AwsSource(AwsAccess(region="us-east-1")).fetch)
    assert grant.expires_at == ends.timestamp()
    proof = dict(grant.prove(Unsigned("GET", "https", "a.example", "/", (), b"")))
    assert proof[b"x-amz-security-token"] == b"irsa"
    asked = parse_qs(sts.requests[0].body.decode())
    assert (asked["WebIdentityToken"], asked["RoleArn"]) == (
        ["from-kubernetes"],
        ["arn:aws:iam::123456789012:role/gateway"],
    )


@pytest.fixture
async def metadata(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedBackend]:
    """An instance's metadata service on loopback, whose keys say when they end."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    now = dt.datetime.now(dt.UTC)

    def answer(request: Request) -> Script:
        if request.path == "/latest/api/token":
            return Script(steps=[(0, b"imds-token")])
        if request.path.endswith("/security-credentials/"):
            return Script(steps=[(0, b"role")])
        assert request.headers["x-aws-ec2-metadata-token"] == "imds-token"
        number = sum(seen.path.endswith("/role") for seen in backend.requests)
        ends = now + dt.timedelta(hours=6 * number)
        keys = {
            "Code": "Success",
            "AccessKeyId": f"{KEY}{number}",
            "SecretAccessKey": SECRET,
            "Token": "session",
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return Script(steps=[(0, json.dumps(keys).encode())])

    async with scripted_backend() as backend:
        backend.default = answer
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{backend.port}/")
        yield backend


async def test_an_instances_keys_are_renewed_ahead_of_their_end(metadata: ScriptedBackend) -> None:
    """The metadata service is asked once for keys that last, and again when they are about to end."""
    source = AwsSource(AwsAccess(region="us-east-1"))
    unsigned = Unsigned("GET", "https", "a.example", "/", (), b"")
    seen = []
    for hours in (0, 5.9, 5.9):
        if source._renewable is not None:  # Only so can botocore's clock be set.
            now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
            source._renewable._time_fetcher = lambda now=now: now
        grant = await anyio.to_thread.run_sync(source.fetch)
        proof = dict(grant.prove(unsigned))
        assert proof[b"x-amz-security-token"] == b"session"
        seen.append(proof[b"authorization"].split(b"Credential=")[1].split(b"/")[0].decode())
        assert grant.expires_at is not None
    assert seen == [f"{KEY}1", f"{KEY}2", f"{KEY}2"]
    assert sum(request.path.endswith("/role") for request in metadata.requests) == 2

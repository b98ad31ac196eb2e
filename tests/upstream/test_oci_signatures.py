"""Oracle's request signatures: what is signed is what Oracle's own SDK signs, and a verifier agrees with every one."""

import base64
import json
from pathlib import Path

import anyio.to_thread
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.config.settings import read_text
from gateway.domain.backend import OciAccess
from gateway.domain.wire import Headers, WireRequest
from gateway.upstream.credentials.identity import Grant, Identity, Unsigned
from gateway.upstream.credentials.oci import OciSigner, OciSource
from gateway.upstream.credentials.static import CredentialUnusable
from gateway.upstream.destination import parse_destination
from gateway.upstream.transport import Transport
from tests.backends.scripted import ScriptedBackend
from tests.upstream.recording import POST, Recording, Watched
from tests.upstream.verifiers import oci_problem

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
AT = 1_795_521_291.0
DATE = "Tue, 24 Nov 2026 11:54:51 GMT"
HOST = "inference.generativeai.us-chicago-1.oci.oraclecloud.com"
JSON: Headers = [(b"content-type", b"application/json")]

SIGNED = [
    # What oci.signer.Signer of oci 2.189 signed for these requests at that time.
    (
        Unsigned("POST", "https", HOST, "/openai/v1/chat/completions", [*JSON, (b"content-length", b"7")], b'{"a":1}'),
        (
            f"date: {DATE}\n(request-target): post /openai/v1/chat/completions\nhost: {HOST}\ncontent-length: 7\n"
            "content-type: application/json\nx-content-sha256: AVq9f1zFei3ZS3WQ8ErYCEJzkF7jPsXOvq5iJ2qX+GI="
        ),
    ),
    (
        Unsigned("GET", "https", HOST, "/openai/v1/models?x=1&y=%20", JSON, b""),
        f"date: {DATE}\n(request-target): get /openai/v1/models?x=1&y=%20\nhost: {HOST}",
    ),
    (
        Unsigned("POST", "https", "h.example:8443", "/x", [*JSON, (b"content-length", b"0")], b""),
        (
            f"date: {DATE}\n(request-target): post /x\nhost: h.example:8443\ncontent-length: 0\n"
            "content-type: application/json\nx-content-sha256: 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        ),
    ),
    (
        Unsigned("DELETE", "https", "h.example", "/x", [*JSON, (b"content-length", b"0")], b""),
        f"date: {DATE}\n(request-target): delete /x\nhost: h.example",
    ),
    (
        Unsigned("PUT", "https", "h.example", "/x", [*JSON, (b"content-length", b"2")], b"{}"),
        (
            f"date: {DATE}\n(request-target): put /x\nhost: h.example\ncontent-length: 2\n"
            "content-type: application/json\nx-content-sha256: RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        ),
    ),
]


@pytest.mark.parametrize(("unsigned", "signed"), SIGNED, ids=[f"{case[0].method} {case[0].target}" for case in SIGNED])
def test_what_is_signed_is_what_oracles_sdk_signs(unsigned: Unsigned, signed: str) -> None:
    """RSA with this padding has no chance in it: the same string gives the same signature."""
    proof = dict(OciSigner(KEY, "t/u/f", None, lambda: AT).prove(unsigned))
    signature = base64.b64encode(KEY.sign(signed.encode(), PKCS1v15(), SHA256())).decode()
    names = " ".join(line.partition(": ")[0] for line in signed.splitlines())
    assert proof[b"authorization"].decode() == (
        f'Signature algorithm="rsa-sha256",headers="{names}",keyId="t/u/f",signature="{signature}",version="1"'
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration as Oracle's tools write it, with three profiles."""

    def pem(phrase: bytes | None) -> bytes:
        encryption = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
        return KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    (tmp_path / "plain.pem").write_bytes(pem(None) + b"OCI_API_KEY\n")
    (tmp_path / "locked.pem").write_bytes(pem(b"phrase"))
    (tmp_path / "ec.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    claims = base64.urlsafe_b64encode(json.dumps({"exp": AT + 3600}).encode()).decode().rstrip("=")
    (tmp_path / "token").write_text(f"e30.{claims}.sig\n")
    who = "user=ocid1.user.oc1..u\nfingerprint=aa:bb\ntenancy=ocid1.tenancy.oc1..t\nregion=us-chicago-1\n"
    (tmp_path / "config").write_text(
        f"[DEFAULT]\n{who}key_file={tmp_path}/plain.pem\n"
        f"[LOCKED]\nkey_file={tmp_path}/locked.pem\npass_phrase=phrase\n"
        f"[SESSION]\nsecurity_token_file={tmp_path}/token\n"
        f"[WRONG]\nkey_file={tmp_path}/locked.pem\npass_phrase=other\n"
        f"[EC]\nkey_file={tmp_path}/ec.pem\n"
        f"[ABSENT]\nkey_file={tmp_path}/none.pem\n"
        "[EMPTY]\nkey_file=\n"
    )
    return tmp_path


def source(folder: Path, profile: str = "DEFAULT", *, named: bool = False, compartment: str | None = None) -> OciSource:
    file = f"file:{folder / 'config'}" if named else None
    access = OciAccess(profile=profile, file=file, compartment=compartment)
    return OciSource(access, read_text, default_file=folder / "config", wall=lambda: AT)


async def fetch(source: OciSource) -> Grant:
    return await anyio.to_thread.run_sync(source.fetch)


KEY_IDS = [
    ("DEFAULT", "ocid1.tenancy.oc1..t/ocid1.user.oc1..u/aa:bb", None),
    ("LOCKED", "ocid1.tenancy.oc1..t/ocid1.user.oc1..u/aa:bb", None),
    ("SESSION", "ST$e30.", AT + 3600),
]


@pytest.mark.parametrize(("profile", "key_id", "expires_at"), KEY_IDS)
@pytest.mark.parametrize("named", [True, False])
async def test_a_profile_leads_to_its_key(
    folder: Path, profile: str, key_id: str, expires_at: float | None, named: bool
) -> None:
    """A session token ends when it says so, and is read anew until then."""
    grant = await fetch(source(folder, profile, named=named))
    assert f'keyId="{key_id}' in dict(grant.prove(SIGNED[0][0]))[b"authorization"].decode()
    assert grant.expires_at == expires_at


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("NONE", "has no profile `NONE`"),
        ("WRONG", "is no PEM key, or its pass phrase is wrong"),
        ("EC", "is not an RSA key"),
        ("ABSENT", "cannot be read"),
        ("EMPTY", "lacks `key_file`"),
    ],
)
async def test_what_leads_to_no_key_is_named(folder: Path, profile: str, message: str) -> None:
    with pytest.raises(CredentialUnusable, match=message) as caught:
        await fetch(source(folder, profile))
    assert "phrase" not in str(caught.value).replace("pass phrase", "")


async def test_what_is_no_configuration_file_is_told(folder: Path) -> None:
    (folder / "config").write_text("canary without a section")
    with pytest.raises(CredentialUnusable, match="is not an OCI configuration file") as caught:
        await fetch(source(folder))
    assert "canary" not in str(caught.value)


async def test_the_pool_signs_the_bytes_it_writes(folder: Path, transport: Transport, backend: ScriptedBackend) -> None:
    """And names the compartment that pays."""
    identity = Identity("oci", source(folder, compartment="ocid1.compartment.oc1..c"))
    await identity.renew(Watched())
    to = parse_destination("oci", backend.base_url, allow_private=True, identity=identity)
    for request in (POST, WireRequest(method="GET", path="/models?a=b"), WireRequest(method="DELETE", path="/x")):
        recording = Recording()
        transport.send(to, request, recording)
        await recording.end()
    found = [
        oci_problem(seen.method, seen.path, seen.headers, seen.body, KEY.public_key()) for seen in backend.requests
    ]
    assert found == [None, None, None]
    assert {seen.headers["opc-compartment-id"] for seen in backend.requests} == {"ocid1.compartment.oc1..c"}
    assert {seen.headers["date"] for seen in backend.requests} == {DATE}

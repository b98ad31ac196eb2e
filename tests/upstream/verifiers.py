"""Judges of signatures, written from AWS's and Oracle's descriptions, with nothing of their libraries or of ours.

Each says of a request, as it came over the wire, what is wrong with its signature; None when it is right.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256


def sigv4_problem(
    method: str, target: str, headers: Mapping[str, str], body: bytes, *, secret: str, scope: str, twice: bool = True
) -> str | None:
    """`scope` is `key/date/region/service/aws4_request`; `twice` encodes the path once more, as all but S3 do."""
    path, _, query = target.partition("?")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\S+), SignedHeaders=(\S+), Signature=([0-9a-f]{64})", headers["authorization"]
    )
    if found is None:
        return "no SigV4 authorization"
    if found[1] != scope:
        return f"scope {found[1]}"
    names = found[2].split(";")
    if names != sorted(names) or not {"host", "x-amz-date"} <= set(names):
        return f"signed headers {found[2]}"
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~") if twice else path,
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(headers[name].split())}" for name in names),
            "",
            found[2],
            digest,
        ]
    )
    _, *rest = scope.split("/")
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", headers["x-amz-date"], "/".join(rest), hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{secret}".encode()
    for part in rest:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return None if hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest() == found[3] else "signature"


def oci_problem(method: str, target: str, headers: Mapping[str, str], body: bytes, key: RSAPublicKey) -> str | None:
    """By draft-cavage-http-signatures-08, with the headers that Oracle asks for."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', headers["authorization"].removeprefix("Signature ")))
    wanted = ["date", "(request-target)", "host"]
    if method in {"POST", "PUT", "PATCH"}:
        wanted += ["content-length", "content-type", "x-content-sha256"]
        if base64.b64decode(headers["x-content-sha256"]) != hashlib.sha256(body).digest():
            return "digest"
    if fields["headers"].split() != wanted or fields["algorithm"] != "rsa-sha256" or fields["version"] != "1":
        return f"fields {fields}"
    lines = [f"{name}: {f'{method.lower()} {target}' if name[0] == '(' else headers[name]}" for name in wanted]
    try:
        key.verify(base64.b64decode(fields["signature"]), "\n".join(lines).encode(), PKCS1v15(), SHA256())
    except InvalidSignature:
        return "signature"
    return None

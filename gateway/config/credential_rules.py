"""What makes a backend's credential sound: references that are references, and the library that a cloud's needs.

The only I/O is the look whether a secret and a library are there.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Final

from gateway.config.problems import Path, Report
from gateway.config.settings import REFERENCE, read_secret, read_text
from gateway.domain.backend import AwsAccess, AzureAccess, BearerCredential, GoogleAccess, HeaderValue, OciAccess
from gateway.domain.wire import OWN_HEADERS

Fields = Mapping[str, object]

EXTRAS: Final[Mapping[type, tuple[str, tuple[str, ...]]]] = {
    AwsAccess: ("aws", ("botocore",)),
    GoogleAccess: ("google", ("google.auth", "requests")),
    AzureAccess: ("azure", ("azure.identity",)),
    OciAccess: ("oci", ("cryptography",)),
}
"""Credential → the extra of our package that it needs, and what that brings."""


def _bearer(file: str, path: Path, fields: Fields, report: Report) -> None:
    _reference(file, (*path, "bearer"), fields.get("bearer"), report)


def _header(file: str, path: Path, fields: Fields, report: Report) -> None:
    _reference(file, (*path, "value"), fields.get("value"), report)
    name = fields.get("name")
    if isinstance(name, str) and name.encode() in OWN_HEADERS:
        report.mistake(file, (*path, "name"), f"`{name}` is a header that the gateway writes itself, or never sends")


def _aws(file: str, path: Path, _: Fields, report: Report) -> None:
    _library(file, path, AwsAccess, report)


def _google(file: str, path: Path, fields: Fields, report: Report) -> None:
    _library(file, path, GoogleAccess, report)
    _reference(file, (*path, "service_account"), fields.get("service_account"), report, read=read_text)


def _azure(file: str, path: Path, fields: Fields, report: Report) -> None:
    _library(file, path, AzureAccess, report)
    _reference(file, (*path, "client_secret"), fields.get("client_secret"), report)
    given = {name for name in ("tenant", "client_id", "client_secret") if fields.get(name) is not None}
    if given and given != {"client_id"} and len(given) < 3:  # noqa: PLR2004  # all of them
        message = "needs `tenant`, `client_id` and `client_secret` together; `client_id` alone is a managed identity"
        report.mistake(file, path, message)


def _oci(file: str, path: Path, fields: Fields, report: Report) -> None:
    _library(file, path, OciAccess, report)
    _reference(file, (*path, "file"), fields.get("file"), report, read=read_text)


def _library(file: str, path: Path, access: type, report: Report) -> None:
    extra, modules = EXTRAS[access]
    if not all(map(_is_installed, modules)):
        report.mistake(file, path, f"needs the extra `{extra}`; run: pip install 'llm-gateway[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _reference(
    file: str, path: Path, reference: object, report: Report, *, read: Callable[[str], str] = read_secret
) -> None:
    if not isinstance(reference, str):
        return
    if not REFERENCE.fullmatch(reference):
        # Not shown: it may be the secret itself.
        report.mistake(file, path, "is not a reference; write env:NAME or file:PATH, never the secret itself")
        return
    try:
        read(reference)
    except LookupError as error:
        backend = path[1]
        report.warn(file, path, f"{error.args[0]}; `{backend}` is left out until it is there")


CREDENTIAL_RULES: Final[Mapping[type, Callable[[str, Path, Fields, Report], None]]] = {
    BearerCredential: _bearer,
    HeaderValue: _header,
    AwsAccess: _aws,
    GoogleAccess: _google,
    AzureAccess: _azure,
    OciAccess: _oci,
}

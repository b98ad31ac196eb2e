"""What a backend's credential in the configuration stands for: header fields that stand fast, or an `Identity`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from gateway.domain.backend import (
    AwsCredential,
    AzureCredential,
    Backend,
    BearerCredential,
    GoogleCredential,
    HeaderCredential,
    OciCredential,
)
from gateway.upstream.credentials.aws import AwsSource
from gateway.upstream.credentials.azure import AzureSource
from gateway.upstream.credentials.google import GoogleSource
from gateway.upstream.credentials.identity import Identity, Source
from gateway.upstream.credentials.oci import OciSource


def identity_of(name: str, backend: Backend, read: Callable[[str], str]) -> Identity | None:
    """The credential of `backend` that has to be fetched; None for those that stand in header fields, or for none.

    `read` gives the text behind a reference, of several lines perhaps, and raises LookupError when it cannot.
    """
    source = _source(backend, read)
    return None if source is None else Identity(name, source)


def _source(backend: Backend, read: Callable[[str], str]) -> Source | None:
    credential = backend.credential
    match credential:
        case None | BearerCredential() | HeaderCredential():
            return None
        case AwsCredential():
            return AwsSource(credential.aws)
        case GoogleCredential():
            return GoogleSource(credential.google, read)
        case AzureCredential():
            return AzureSource(credential.azure, read)
        case OciCredential():
            return OciSource(credential.oci, read, default_file=Path("~/.oci/config").expanduser(), wall=time.time)
        case _:
            assert_never(credential)

"""What the configuration accepts is what the gateway can be started with."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.policies import load
from gateway.config.problems import ConfigurationError
from gateway.config.settings import read_secret
from gateway.domain.wire import OWN_HEADERS
from gateway.upstream.credentials.static import credential_headers
from gateway.upstream.destination import destination_of

LETTERS = string.ascii_letters + string.digits + "._-~:/[]@%"
HOSTS = st.one_of(
    st.sampled_from(["a.example", "API.Example.com", "worker_1", "8.8.8.8", "[2606:4700::1111]"]),
    st.sampled_from(["localhost", "_a", "127.1", "169.254.169.254", "0x7f.1", "[1.1.1.1]"]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
    st.text(LETTERS, min_size=1, max_size=8),
)
PORTS = st.one_of(st.sampled_from(["", ":443", ":22", ":6379", ":08"]), st.integers(1000, 66_000).map(":{}".format))
PATHS = st.one_of(st.sampled_from(["", "/v1", "/v1/", "/a/../b"]), st.text(LETTERS, max_size=4).map("/{}".format))
URLS = st.builds("{}{}{}{}".format, st.sampled_from(["https://", "http://"]), HOSTS, PORTS, PATHS)
"""Near the border: about one in six is accepted."""
NAMES = st.one_of(
    st.text(string.ascii_lowercase + "-", max_size=8), st.sampled_from(sorted(map(bytes.decode, OWN_HEADERS)))
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is written anew for each example."""
    secret = tmp_path_factory.mktemp("accepted") / "secret"
    secret.write_text("s3cret\n", encoding="utf-8")
    return secret.with_name("x.yaml")


@given(url=URLS, allow_private=st.booleans(), name=NAMES)
@example(url="https://a.example:22/v1", allow_private=False, name="x-api-key")
@example(url="https://_a.example/v1", allow_private=False, name="x-api-key")
@example(url="http://169.254.169.254/v1", allow_private=True, name="x-api-key")
@example(url="https://API.Example.com/v1", allow_private=False, name="x-request-id")
@settings(deadline=None, max_examples=300)
def test_every_backend_that_is_accepted_can_be_sent_to(file: Path, url: str, allow_private: bool, name: str) -> None:
    """`gateway check` and `gateway serve` agree about base URLs and about the names of credential headers."""
    credential = {"header": {"name": name, "value": f"file:{file.with_name('secret')}"}}
    place = {
        "dialect": "openai",
        "base_url": url,
        "allow_private": allow_private,
        "credential": credential,
        "models": {},
    }
    file.write_text(
        json.dumps({"version": 1, "backends": {"b": place}, "policies": {}, "tenants": {}}), encoding="utf-8"
    )
    try:
        backend = load([file]).backends["b"]
    except ConfigurationError:
        return
    headers = credential_headers("b", backend, read_secret)
    destination = destination_of("b", backend, headers)
    assert destination.headers == ((name.encode(), b"s3cret"),)

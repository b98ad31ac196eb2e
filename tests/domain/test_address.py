"""Which base URLs are taken, and which addresses are dialled (the table of security row E)."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.address import BaseUrl, parse_base_url, refusal

PARTS = [
    ("https://api.example.com/v1", "https", "api.example.com", 443, "/v1"),
    ("https://api.example.com/v1/", "https", "api.example.com", 443, "/v1"),
    ("https://api.example.com", "https", "api.example.com", 443, ""),
    ("https://API.Example.com/V1", "https", "api.example.com", 443, "/V1"),
    ("https://api.example.com:8443/a/b", "https", "api.example.com", 8443, "/a/b"),
    ("http://127.0.0.1:8090/v1", "http", "127.0.0.1", 8090, "/v1"),
    ("http://[::1]:8090/v1", "http", "::1", 8090, "/v1"),
    ("http://worker_1:8000/v1", "http", "worker_1", 8000, "/v1"),
    ("http://worker/a.b/~c", "http", "worker", 80, "/a.b/~c"),
]
SOUND = [
    "https://api.openai.com/v1",
    "https://api.openai.com",
    "https://api.openai.com:8443/openai/v1",
    "https://8.8.8.8/v1",
    "https://[2606:4700::1111]/v1",
    "https://1.1.1.1.example/v1",
    "https://a.localhost.example/v1",
    "https://" + "a" * 63 + ".example/",
]
OWN_NETWORK = [
    "http://127.0.0.1:8090/v1",
    "https://127.0.0.1/v1",
    "http://localhost:8090/v1",
    "https://LOCALHOST/v1",
    "http://worker.localhost/v1",
    "http://10.1.2.3/v1",
    "https://192.168.0.1/v1",
    "http://[::1]:8090/v1",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[64:ff9b::7f00:1]/v1",
    "https://[2002:a00:1::]/v1",
    "https://[fd12:3456::1]/v1",
]
NEVER_DIALLED = [
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://0.0.0.0/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[64:ff9b::a9fe:a9fe]/v1",
    "https://[2002:a9fe:a9fe::]/v1",
    "https://[fd00:ec2::254]/v1",
    "https://224.0.0.1/",
    "https://192.0.2.1/",
]
USER = "must not carry a user or a password; use `credential`"
QUERY = "must not have a query or a fragment"
LETTERS = "holds characters that a base URL cannot have"
BEGIN = "must begin with http:// or https://"
PORT = "is not a URL with a proper host and port"
PATH = "has a path with `.`, `..`, `//` or brackets"
HOST = "has a host that is neither a name nor an address in its usual spelling"
NEVER = [
    ("", BEGIN),
    ("api.openai.com/v1", BEGIN),
    ("//api.openai.com/v1", BEGIN),
    ("file:///etc/passwd", BEGIN),
    ("gopher://x/", BEGIN),
    ("ftp://x.example/", BEGIN),
    ("unix:/run/x", BEGIN),
    ("data:,x", BEGIN),
    ("HTTPS://api.openai.com/v1", BEGIN),
    ("https:/api.openai.com/v1", BEGIN),
    ("http:///v1", PORT),
    ("https://", PORT),
    ("https://user:secret@api.openai.com/v1", USER),
    ("https://user:123/secret@api.openai.com/v1", USER),
    ("https://api.openai.com@evil/", USER),
    ("https://evil#@api.openai.com/", USER),
    ("https://evil\\@good/", USER),
    ("https://evil%2f@good/", USER),
    ("https://api.openai.com/v1?key=secret", QUERY),
    ("https://api.openai.com/v1#secret", QUERY),
    ("https://evil\\good/", LETTERS),
    ("https://api.openai.com/v1\r\nx: y", LETTERS),
    ("https://api.openai.com/v1\n", LETTERS),
    ("https://api.openai.com/v1 ", LETTERS),
    ("https://a.example\t/", LETTERS),
    ("https://a.example/%2e%2e/", LETTERS),
    ("https://exa\u212aple.com/", LETTERS),
    ("https://１２７.0.0.1/", LETTERS),
    ("https://[fe80::1%25eth0]/", LETTERS),
    ("https://api.openai.com:0/", PORT),
    ("https://api.openai.com:080/", PORT),
    ("https://api.openai.com:/", PORT),
    ("https://api.openai.com:80:90/", PORT),
    ("https://api.openai.com:65536/", PORT),
    ("https://[::1/", PORT),
    ("https://::1/", PORT),
    ("https://a,b/", PORT),
    ("https://a.example:6379/", "has the port 6379, which belongs to another service"),
    ("https://a.example:22/", "has the port 22, which belongs to another service"),
    ("http://[::1]:81/", "has the port 81, which belongs to another service"),
    ("https://127.1/", HOST),
    ("https://0177.0.0.1/", HOST),
    ("https://2130706433/", HOST),
    ("https://0x7f.1/", HOST),
    ("https://0x7f000001/", HOST),
    ("https://0X7F000001/", HOST),
    ("https://[1.1.1.1]/", HOST),
    ("https://[:::]/", HOST),
    ("https://a..b/", HOST),
    ("https://a.example./", HOST),
    ("https://-a.example/", HOST),
    ("https://_a.example/", HOST),
    ("https://" + "a" * 64 + ".example/", HOST),
    ("https://" + "a.b" * 120 + "/", HOST),
    ("https://api.openai.com/a/../b", PATH),
    ("https://api.openai.com/..", PATH),
    ("https://api.openai.com/./b", PATH),
    ("https://api.openai.com//v1", PATH),
    ("https://api.openai.com/v1//", PATH),
    ("https://api.openai.com/[v1]", PATH),
]


def mistake(url: str, *, allow_private: bool) -> str | None:
    """What is wrong with a URL; None when nothing is."""
    try:
        parse_base_url(url, allow_private=allow_private)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("url", "scheme", "host", "port", "path"), PARTS)
def test_a_base_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str) -> None:
    """Into what is dialled: the host in lower case, the port always there, the path without a slash at its end."""
    found = parse_base_url(url, allow_private=True)
    assert (found.scheme, found.host, found.port, found.path) == (scheme, host, port, path)


@pytest.mark.parametrize("url", SOUND)
def test_https_to_the_open_internet_is_sound(url: str) -> None:
    """With and without the operator's word for private addresses."""
    assert mistake(url, allow_private=False) is None
    assert mistake(url, allow_private=True) is None


@pytest.mark.parametrize("url", OWN_NETWORK)
def test_the_own_network_needs_the_operators_word(url: str) -> None:
    """Private and loopback addresses in all their spellings, and the names that always mean loopback."""
    expected = "points to a private or loopback address; say `allow_private: true` if that is meant"
    assert mistake(url, allow_private=False) == expected
    assert mistake(url, allow_private=True) is None


@pytest.mark.parametrize("url", ["http://worker:8090/v1", "http://api.example.com/v1", "http://8.8.8.8/"])
def test_plain_http_needs_the_operators_word(url: str) -> None:
    """Whatever the name: it is the prompts that anyone on the way could read."""
    expected = "sends prompts unencrypted; use https://, or `allow_private: true` for a host in your own network"
    assert mistake(url, allow_private=False) == expected
    assert mistake(url, allow_private=True) is None


@pytest.mark.parametrize("url", NEVER_DIALLED)
@pytest.mark.parametrize("allow_private", [True, False])
def test_what_is_never_dialled_cannot_be_configured(url: str, allow_private: bool) -> None:
    """Metadata services, link-local and reserved addresses, in whatever form; no operator's word opens them."""
    assert "is never dialled" in (mistake(url, allow_private=allow_private) or "")


@pytest.mark.parametrize(("url", "expected"), NEVER)
def test_a_url_that_two_readers_may_read_differently_is_refused(url: str, expected: str) -> None:
    """Whatever the operator allows; and without repeating it, for it may hold a password."""
    assert mistake(url, allow_private=True) == expected


@given(st.text(max_size=80), st.booleans())
def test_any_text_is_judged(url: str, allow_private: bool) -> None:
    """No spelling makes the check itself fail, and what passes is the same when it is put together again."""
    try:
        found = parse_base_url(f"https://{url}", allow_private=allow_private)
    except ValueError:
        return
    assert parse_base_url(whole(found), allow_private=allow_private) == found


def whole(url: BaseUrl) -> str:
    """The URL as one text."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}:{url.port}{url.path}"


@given(st.ip_addresses(), st.booleans())
def test_a_url_of_an_address_is_judged_as_the_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow_private: bool
) -> None:
    """The configuration takes what will be dialled, and nothing else."""
    host = f"[{address}]" if address.version == 6 else str(address)
    is_refused = mistake(f"https://{host}/v1", allow_private=allow_private) is not None
    assert is_refused == (refusal(str(address), allow_private=allow_private) is not None)


SHUT = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.1.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "2001:0:a9fe:a9fe::",
    "2001:0:808:808:0:0:5601:5601",
    "::ffff:0.0.0.0",
    "2001:db8::1",
    "not-an-address",
    "127.1",
    "0177.0.0.1",
    "2130706433",
]
PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", SHUT)
@pytest.mark.parametrize("allow_private", [True, False])
def test_no_operators_word_opens(address: str, allow_private: bool) -> None:
    """Metadata, link-local, multicast, unspecified and reserved addresses stay shut in whatever form they come."""
    assert refusal(address, allow_private=allow_private) is not None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_open_only_when_the_operator_says_so(address: str) -> None:
    assert refusal(address) is not None
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses(v=4), st.booleans())
def test_an_embedded_address_is_judged_as_the_address_itself(v4: ipaddress.IPv4Address, allow_private: bool) -> None:
    """Mapped, NAT64 and 6to4 forms open nothing that their IPv4 address does not, and close nothing more."""
    plain = refusal(str(v4), allow_private=allow_private)
    number = int(v4)
    forms = [(0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80)]
    for form in forms:
        assert refusal(str(ipaddress.IPv6Address(form)), allow_private=allow_private) == plain

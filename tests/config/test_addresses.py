"""Which base URLs may stand in the configuration (security.md E)."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import base_url_mistake, is_public

SOUND = [
    "https://api.openai.com/v1",
    "https://api.openai.com",
    "https://api.openai.com:8443/openai/v1",
    "https://8.8.8.8/v1",
    "https://[2606:4700::1111]/v1",
]
OWN_NETWORK = [
    "http://127.0.0.1:8090/v1",
    "http://localhost:8090/v1",
    "http://worker.localhost/v1",
    "http://10.1.2.3/v1",
    "https://192.168.0.1/v1",
    "http://[::1]:8090/v1",
    "http://worker:8090/v1",
    "http://169.254.169.254/latest",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://0.0.0.0/",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[64:ff9b::a9fe:a9fe]/v1",
    "https://[2002:a9fe:a9fe::]/v1",
    "https://[fd00:ec2::254]/v1",
]
NEVER = [
    "",
    "api.openai.com/v1",
    "//api.openai.com/v1",
    "file:///etc/passwd",
    "gopher://x/",
    "unix:/run/x",
    "HTTPS://api.openai.com/v1",
    "http:///v1",
    "https://",
    "https://user:secret@api.openai.com/v1",
    "https://api.openai.com@evil/",
    "https://evil#@api.openai.com/",
    "https://evil\\@good/",
    "https://evil%2f@good/",
    "https://api.openai.com/v1?key=x",
    "https://api.openai.com/v1#x",
    "https://api.openai.com/v1\r\nx: y",
    "https://api.openai.com/v1 ",
    "https://exa\u212aple.com/",
    "https://１２７.0.0.1/",
    "https://api.openai.com:0/",
    "https://api.openai.com:/",
    "https://api.openai.com:80:90/",
    "https://api.openai.com:65536/",
    "https://127.1/",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://[fe80::1%25eth0]/",
    "https://a..b/",
    "https://-a.example/",
    "https://api.openai.com/a/../b",
    "https://api.openai.com//v1",
]


@pytest.mark.parametrize("url", SOUND)
def test_https_to_the_open_internet_is_sound(url: str) -> None:
    """With and without the operator's word for private addresses."""
    assert base_url_mistake(url, allow_private=False) is None
    assert base_url_mistake(url, allow_private=True) is None


@pytest.mark.parametrize("url", OWN_NETWORK)
def test_the_own_network_needs_the_operators_word(url: str) -> None:
    """Private, loopback, link-local and metadata addresses in all their spellings, and http to any name."""
    assert "allow_private: true" in (base_url_mistake(url, allow_private=False) or "")
    assert base_url_mistake(url, allow_private=True) is None


@pytest.mark.parametrize("url", NEVER)
def test_a_url_that_two_readers_may_read_differently_is_refused(url: str) -> None:
    """Whatever the operator allows; and without repeating it, for it may hold a password."""
    mistake = base_url_mistake(url, allow_private=True)
    assert mistake is not None
    assert "secret" not in mistake


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_inside_ipv6(address: ipaddress.IPv4Address) -> None:
    """Mapped, NAT64, 6to4 and the old compatible form hide nothing."""
    number = int(address)
    forms = [(0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80), number]
    assert {is_public(ipaddress.IPv6Address(form)) for form in forms} == {is_public(address)}


@given(st.text(max_size=80))
def test_any_text_is_judged(url: str) -> None:
    """No spelling makes the check itself fail."""
    base_url_mistake(f"https://{url}", allow_private=False)

import hiredis
import pytest

from gateway.admission.link import trouble_of
from gateway.admission.servers import slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 12739),  # the check value of the CRC that Redis takes
        ("foo", 12182),
        ("{foo}:tokens", 12182),
        ("gw:{foo}:r:1", 12182),
        ("", 0),
    ],
)
def test_a_key_falls_into_the_slot_of_its_owner(key: str, slot: int) -> None:
    """What stands between the first braces, if there is something; as a cluster's own nodes reckon."""
    assert slot_of(key) == slot


def test_empty_braces_are_no_owner() -> None:
    assert slot_of("{}{foo}") != slot_of("foo")


@pytest.mark.parametrize(
    ("message", "trouble"),
    [
        ("MOVED 3999 127.0.0.1:6381", "moved"),
        ("ASK 3999 127.0.0.1:6381", "moved"),
        ("NOSCRIPT No matching script. Please use EVAL.", "no script"),
        ("READONLY You can't write against a read only replica.", "cannot serve"),
        ("LOADING Redis is loading the dataset in memory", "cannot serve"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "cannot serve"),
        ("CLUSTERDOWN The cluster is down", "cannot serve"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "wrong"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "wrong"),
    ],
)
def test_an_error_says_whether_to_ask_again_elsewhere_or_not_at_all(message: str, trouble: str) -> None:
    assert trouble_of(hiredis.ReplyError(message)) == trouble

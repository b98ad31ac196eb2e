"""What a URL of a Redis may say."""

import pytest

from gateway.domain.store import RedisPlace, is_redis, redis_place

PLACES = [
    ("redis://localhost", RedisPlace(kind="single", hosts=(("localhost", 6379),))),
    (
        "rediss://app:p%40ss@cache.example:6380/3?ca_file=/etc/ca.pem",
        RedisPlace(
            kind="single", hosts=(("cache.example", 6380),), database=3, username="app", password="p@ss", tls=True,
            ca_file="/etc/ca.pem",
        ),
    ),
    ("redis://:secret@[::1]:7000", RedisPlace(kind="single", hosts=(("::1", 7000),), password="secret")),
    (
        "redis+sentinel://a,b:26380/limits/1",
        RedisPlace(kind="sentinel", hosts=(("a", 26379), ("b", 26380)), service="limits", database=1),
    ),
    (
        "rediss+cluster://:s@a:1,b:2,c:3",
        RedisPlace(kind="cluster", hosts=(("a", 1), ("b", 2), ("c", 3)), password="s", tls=True),
    ),
]  # fmt: skip
NO_PLACES = [
    ("redis:localhost", "has to be one of"),
    ("redis+cluster+x://localhost", "has to be one of"),
    ("redis://", "each host"),
    ("redis://:secret@host:port", "each host"),
    ("redis://a,b", "several hosts"),
    ("redis://a/x", "number of a database"),
    ("redis://a/1/2", "number of a database"),
    ("redis+cluster://a/1", "number of a database"),
    ("redis+sentinel://a", "name the service"),
    ("redis://:secret@a?db=1", "no other"),
    ("redis://a#b", "no other"),
    ("redis://a?ca_file=/x", "needs rediss"),
]


@pytest.mark.parametrize(("url", "place"), PLACES)
def test_a_url_names_a_redis(url: str, place: RedisPlace) -> None:
    assert redis_place(url) == place
    assert is_redis(url)


@pytest.mark.parametrize(("url", "message"), NO_PLACES)
def test_what_cannot_be_used_is_refused_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        redis_place(url)
    assert "secret" not in str(caught.value)


def test_a_place_does_not_show_its_password() -> None:
    """Not in logs, not in tracebacks."""
    assert repr(PLACES[1][1]) == "RedisPlace(single cache.example:6380 over TLS)"


@pytest.mark.parametrize("url", ["sqlite:///x", "/var/lib/redis", "postgres://redis"])
def test_another_store_is_no_redis(url: str) -> None:
    assert not is_redis(url)

"""A key's life, from its making to its revocation, as the operator asks for it."""

import datetime as dt
from pathlib import Path

import pytest

from gateway.auth.directory import Directory
from gateway.auth.store import KeyStoreReader
from gateway.config.policies import PolicyBook, load
from gateway.control.keys import KeyRefused, create, listed, revoke
from gateway.domain.errors import Unauthenticated

RANDOM = bytes(range(32))
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC).timestamp()
DEMO = Path(__file__).parents[2] / "policies"


@pytest.fixture(scope="module")
def book() -> PolicyBook:
    return load([DEMO])


def test_a_key_works_from_its_making_to_its_revocation(tmp_path: Path, book: PolicyBook) -> None:
    """And a directory that follows the store knows it as the same key."""
    store = tmp_path / "keys.sqlite"
    new = create(store, "demo", random_bytes=RANDOM, now=NOW, name="ci", models=["gpt"], book=book)
    directory = Directory(store=KeyStoreReader(store))
    directory.refresh()
    assert directory.authenticate(new.secret.encode(), NOW) == new.key
    assert (new.key.tenant, new.key.name, new.key.models, new.key.expires_at) == ("demo", "ci", ("gpt",), None)
    assert new.secret.split("-")[2] == new.key.public_id

    assert revoke(store, new.key.public_id, now=NOW + 1).revoked_at == NOW + 1
    assert revoke(store, new.key.public_id, now=NOW + 2).revoked_at == NOW + 1
    directory.refresh()
    with pytest.raises(Unauthenticated):
        directory.authenticate(new.secret.encode(), NOW)
    directory.close()
    assert [(row.key, row.created_at, row.revoked_at) for row in listed(store)] == [(new.key, NOW, NOW + 1)]


def test_the_secret_is_written_nowhere(tmp_path: Path) -> None:
    """Neither into the file nor into what a log might print of the value."""
    store = tmp_path / "keys.sqlite"
    new = create(store, "demo", random_bytes=RANDOM, now=NOW)
    secret = new.secret.rsplit("-", 1)[1]
    assert secret not in repr(new)
    assert secret.encode() not in store.read_bytes()
    assert RANDOM not in store.read_bytes()


def test_a_key_expires_with_the_beginning_of_its_day(tmp_path: Path) -> None:
    """UTC, as in the configuration; a day that has begun is refused."""
    new = create(tmp_path / "k", "demo", random_bytes=RANDOM, now=NOW, expires=dt.date(2026, 11, 25))
    assert new.key.expires_at == dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp()
    with pytest.raises(KeyRefused, match="expired already"):
        create(tmp_path / "k", "demo", random_bytes=RANDOM, now=NOW, expires=dt.date(2026, 11, 24))


@pytest.mark.parametrize(
    ("tenant", "options", "message"),
    [
        ("nobody", {}, "no tenant `nobody`; it has: demo"),
        ("Demo", {}, "lower-case letters"),
        ("demo\n", {}, "lower-case letters"),
        (
            "demo",
            {"models": ["gpt", "mistral"]},
            "may not use model `mistral`; its policy offers: assistant, gpt, llama",
        ),
        ("demo", {"models": []}, "at least one"),
        ("demo", {"models": ["gpt", ""]}, "at least one"),
        ("demo", {"name": "x" * 65}, "at most 64"),
        ("demo", {"name": "a\x1b[31m"}, "printable"),
    ],
)
def test_a_key_that_could_never_work_is_not_made(
    tmp_path: Path, book: PolicyBook, tenant: str, options: dict[str, str], message: str
) -> None:
    """The reason names what there is instead, and nothing is written."""
    with pytest.raises(KeyRefused, match=message):
        create(tmp_path / "k", tenant, random_bytes=RANDOM, now=NOW, book=book, **options)  # type: ignore[arg-type]  # a table
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    """No file is no keys, and nothing to revoke."""
    assert listed(tmp_path / "k") == []
    with pytest.raises(KeyRefused, match="no such key in k"):
        revoke(tmp_path / "k", "x", now=NOW)
    assert list(tmp_path.iterdir()) == []

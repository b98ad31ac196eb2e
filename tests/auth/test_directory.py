"""Who is asking, and how fast a change of keys is honoured."""

import hmac
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gateway.auth import directory as module
from gateway.auth.directory import POLL_S, Directory
from gateway.auth.keys import REFUSAL, digest
from gateway.auth.store import READ_WAIT_S, TABLE, KeyStore, KeyStoreReader, KeyStoreUnreadable
from gateway.domain.errors import Unauthenticated
from gateway.domain.tenant import ApiKey


def api_key(secret: bytes, **facts: object) -> ApiKey:
    fields = {"public_id": secret.decode()[:12], "tenant": "acme", "digest": digest(secret)} | facts
    return ApiKey(**fields)  # type: ignore[arg-type]  # the tests' own words


def refuses(directory: Directory, credential: bytes, *, at: float = 0.0) -> bool:
    """Whether the credential is refused; if so, in the words of every refusal."""
    try:
        directory.authenticate(credential, at)
    except Unauthenticated as error:
        return error.message == REFUSAL
    return False


def degradation(directory: Directory) -> str | None:
    """A call, so that the type checker does not take an earlier look for the present state."""
    return directory.degraded


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a change on another thread; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110  # the thread tells nobody
        await anyio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "gateway-keys.sqlite"


@pytest.fixture
def followed(path: Path) -> Iterator[Directory]:
    directory = Directory([api_key(b"configured")], store=KeyStoreReader(path))
    directory.refresh()
    yield directory
    directory.close()


def test_a_known_key_is_its_tenants() -> None:
    """Found by digest, with everything that the gateway keeps of it."""
    key = api_key(b"secret", models=("assistant",))
    assert Directory([key]).authenticate(b"secret", 0.0) is key


@pytest.mark.parametrize("credential", [b"", b"Secret", b"secret ", b"secre", digest(b"secret"), b"\xff" * 40])
def test_an_unknown_key_is_refused(credential: bytes) -> None:
    """The digest itself, should it leak, is no key either."""
    assert refuses(Directory([api_key(b"secret")]), credential)


@pytest.mark.parametrize(("at", "refused"), [(99.9, False), (100.0, True), (1e12, True)])
def test_a_key_ends_at_its_moment(at: float, refused: bool) -> None:
    """Expiry is judged at each request, with the time that the caller gives."""
    assert refuses(Directory([api_key(b"secret", expires_at=100.0)]), b"secret", at=at) is refused


@pytest.mark.skipif(not str(module.__file__).endswith(".py"), reason="compiled code cannot be looked into")
def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reaches inside: no behaviour shows which comparison it was."""
    compared: list[tuple[bytes, bytes]] = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(module, "hmac", type("spied", (), {"compare_digest": staticmethod(spy)}))
    Directory([api_key(b"secret")]).authenticate(b"secret", 0.0)
    assert compared == [(digest(b"secret"), digest(b"secret"))]


def test_a_new_configuration_replaces_the_keys_of_the_old_one(followed: Directory, path: Path) -> None:
    """And leaves those of the key store alone."""
    with KeyStore(path) as store:
        store.add(api_key(b"stored"), created_at=1.0)
    followed.refresh()
    followed.adopt([api_key(b"newly configured")])
    assert refuses(followed, b"configured")
    assert not refuses(followed, b"newly configured")
    assert not refuses(followed, b"stored")


def test_a_key_made_or_revoked_by_another_process_counts_from_the_next_look(followed: Directory, path: Path) -> None:
    """The other process is a real one."""
    code = (
        "import sys, pathlib; from gateway.auth.store import KeyStore; from gateway.auth.keys import digest\n"
        "from gateway.domain.tenant import ApiKey\n"
        "with KeyStore(pathlib.Path(sys.argv[1])) as store:\n"
        "    if sys.argv[2] == 'add':\n"
        "        store.add(ApiKey(public_id='p', tenant='acme', digest=digest(b'made')), created_at=1.0)\n"
        "    else:\n"
        "        store.revoke('p', at=2.0)\n"
    )
    assert refuses(followed, b"made")
    subprocess.run([sys.executable, "-c", code, str(path), "add"], check=True)
    followed.refresh()
    assert not refuses(followed, b"made")
    subprocess.run([sys.executable, "-c", code, str(path), "revoke"], check=True)
    followed.refresh()
    assert refuses(followed, b"made")


def test_a_change_is_honoured_within_five_seconds() -> None:
    """The longest a look can be away, and take."""
    assert POLL_S + READ_WAIT_S < 5.0


def test_a_revocation_beats_the_configuration(followed: Directory, path: Path) -> None:
    """A key that stands in both is refused once it is revoked, also after a reload."""
    with KeyStore(path) as store:
        store.add(api_key(b"configured"), created_at=1.0)
        store.revoke("configured", at=2.0)
    followed.refresh()
    assert refuses(followed, b"configured")
    followed.adopt([api_key(b"configured")])
    assert refuses(followed, b"configured")


def test_a_store_that_cannot_be_read_leaves_the_last_good_keys(followed: Directory, path: Path) -> None:
    """The directory says that it is degraded, and recovers by itself."""
    with KeyStore(path) as store:
        store.add(api_key(b"stored"), created_at=1.0)
    followed.refresh()
    good = path.read_bytes()
    for breakage in (b"no database at all, but long enough to look at" * 40, None):
        path.unlink(missing_ok=True)
        if breakage is not None:
            path.write_bytes(breakage)
        followed.refresh()
        reason = degradation(followed)
        assert reason is not None
        assert path.name in reason
        assert str(path.parent) not in reason
        assert not refuses(followed, b"stored")
        path.write_bytes(good)
        followed.refresh()
        assert degradation(followed) is None
        assert not refuses(followed, b"stored")


def test_a_restored_copy_is_noticed(followed: Directory, path: Path) -> None:
    """Another file under the same name: the keys are those of the copy."""
    with KeyStore(path) as store:
        store.add(api_key(b"first"), created_at=1.0)
    copy = path.read_bytes()
    with KeyStore(path) as store:
        store.revoke("first", at=2.0)
    followed.refresh()
    assert refuses(followed, b"first")
    restored = path.with_suffix(".copy")
    restored.write_bytes(copy)
    restored.rename(path)
    followed.refresh()
    assert not refuses(followed, b"first")


async def test_the_watch_follows_the_store_until_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the event loop, through a time without a readable store."""
    monkeypatch.setattr(module, "POLL_S", 0.005)
    directory = Directory(store=KeyStoreReader(path))

    away = path.with_suffix(".away")

    def revoke() -> None:
        away.rename(path)
        with KeyStore(path) as store:
            store.revoke("made", at=2.0)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(directory.watch)
            with KeyStore(path) as store:
                store.add(api_key(b"made"), created_at=1.0)
            await until(lambda: not refuses(directory, b"made"))
            await anyio.to_thread.run_sync(path.rename, away)
            await until(lambda: degradation(directory) is not None)
            assert not refuses(directory, b"made")
            await anyio.to_thread.run_sync(revoke)
            await until(lambda: refuses(directory, b"made"))
            assert degradation(directory) is None
            tasks.cancel_scope.cancel()
    directory.close()


def test_an_unchanged_store_is_not_read_again(path: Path) -> None:
    """The first look reads, the next ones ask for a change only; no file yet is a store without keys."""
    reader = KeyStoreReader(path)
    assert reader.poll() == ()
    assert reader.poll() is None
    with KeyStore(path) as store:
        store.add(api_key(b"one"), created_at=1.0)
        assert [row.key.public_id for row in reader.poll() or ()] == ["one"]
        assert reader.poll() is None
        store.add(api_key(b"two", models=("a", "b"), expires_at=9.0, name="ci"), created_at=2.0)
        rows = reader.poll()
    assert rows is not None
    assert rows[1].key == api_key(b"two", models=("a", "b"), expires_at=9.0, name="ci")
    reader.close()


def test_a_read_in_the_middle_of_a_write_sees_what_was_committed(path: Path) -> None:
    """A writer that takes its time neither blocks readers nor shows half of its work."""
    reader = KeyStoreReader(path)
    with KeyStore(path) as store:
        store.add(api_key(b"one"), created_at=1.0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM keys")
        assert len(reader.poll() or ()) == 1
        other.execute("COMMIT")
        other.close()
    assert reader.poll() == []
    reader.close()


def test_only_its_owner_can_read_the_store(path: Path) -> None:
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        with KeyStore(path) as store:
            store.add(api_key(b"one"), created_at=1.0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_store_of_a_newer_format_is_refused_by_both_sides(path: Path) -> None:
    """Better no change than a wrong one."""
    with KeyStore(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(KeyStoreUnreadable, match="format 3"):
        KeyStore(path)
    with pytest.raises(KeyStoreUnreadable, match="format 3"):
        KeyStoreReader(path).poll()


def test_a_store_of_the_first_format_is_read_and_then_taken_over(path: Path) -> None:
    """It knows no endpoints: its keys may use all of them, whoever reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = TABLE.partition(",\n    endpoints")[0] + ") STRICT"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(old)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO keys VALUES ('old', 'acme', '', x'00', NULL, 1.0, NULL, NULL)")
        connection.commit()
    with closing(KeyStoreReader(path)) as reader:
        assert [(row.key.public_id, row.key.endpoints) for row in reader.poll() or ()] == [("old", None)]
        with KeyStore(path) as store:
            store.add(ApiKey(public_id="new", tenant="acme", digest=b"1", endpoints=("chat",)), created_at=2.0)
        found = [(row.key.public_id, row.key.endpoints) for row in reader.poll() or ()]
    assert found == [("old", None), ("new", ("chat",))]


def test_the_same_key_cannot_be_added_twice(path: Path) -> None:
    """Neither its digest nor its public id."""
    with KeyStore(path) as store:
        store.add(api_key(b"one"), created_at=1.0)
        with pytest.raises(sqlite3.IntegrityError):
            store.add(api_key(b"one", public_id="other"), created_at=1.0)
        with pytest.raises(sqlite3.IntegrityError):
            store.add(api_key(b"other", public_id="one"), created_at=1.0)
        assert len(store.keys()) == 1

"""What a process is told when it starts, and how secrets are resolved."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.settings import Kept, SettingsError, admin_place, config_paths, read, read_secret, store_path
from gateway.domain.store import RedisPlace

STORES = [
    ("sqlite:///var/lib/gateway.sqlite", "/var/lib/gateway.sqlite"),
    ("sqlite:////var/lib/gateway.sqlite", "/var/lib/gateway.sqlite"),
    ("sqlite:///with%20space/g.db", "/with space/g.db"),
]
NOT_STORES = [
    ("sqlite://host/path", "has to be a URL such as"),
    ("sqlite:///", "has to be a URL such as"),
    ("sqlite:///x?mode=memory", "has to be a URL such as"),
    ("/var/lib/gateway.sqlite", "has to be a URL such as"),
    ("postgres://u:secret@h/db", "has to be a URL such as"),
]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (None, "http://127.0.0.1:8081"),
        ("https://gateway.example.com", "https://gateway.example.com"),
        ("http://[::1]:9/", "http://[::1]:9"),
        ("http://host:8081/admin/v1/", "http://host:8081"),
    ],
)
def test_the_admin_api_is_named_by_its_address(url: str | None, place: str) -> None:
    """With or without its path; the command line goes before the environment."""
    found = admin_place(url, {"GATEWAY_ADMIN_KEY": "k"})
    assert (found.url, found.key) == (place, "k")
    assert admin_place(None, {"GATEWAY_ADMIN_KEY": "k", "GATEWAY_ADMIN_URL": url or ""}) == found
    if url is not None:
        assert admin_place(url, {"GATEWAY_ADMIN_KEY": "k", "GATEWAY_ADMIN_URL": "http://other"}) == found
    assert "'k'" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "host:8081",
        "ftp://host",
        "http://me:secret@host",
        "http://host:65536",
        "http://host/path",
        "http://[",
        "http://a..b",
        "http://",
    ],
)
def test_what_is_no_address_of_an_admin_api_is_refused_unshown(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(SettingsError, match="an address such as") as raised:
        admin_place(url, {"GATEWAY_ADMIN_KEY": "k"})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", [None, "", " ", "a\nb", "schlüssel"])
def test_a_key_that_is_not_there_or_fits_no_header_is_told_by_its_variable(key: str | None) -> None:
    """And never shown."""
    with pytest.raises(SettingsError, match="GATEWAY_ADMIN_KEY") as raised:
        admin_place(None, {} if key is None else {"GATEWAY_ADMIN_KEY": key})
    assert not key or not key.strip() or key not in str(raised.value)


@pytest.mark.parametrize(("url", "path"), STORES)
def test_a_store_url_names_an_absolute_path(url: str, path: str) -> None:
    """With three slashes, as URLs have it, and with four, as some tools write it."""
    assert store_path(url) == Path(path)


@pytest.mark.parametrize(("url", "message"), NOT_STORES)
def test_another_store_is_refused_without_showing_its_password(url: str, message: str) -> None:
    """The message says what works instead."""
    with pytest.raises(SettingsError, match=message) as caught:
        store_path(url)
    assert "secret" not in str(caught.value)


def test_the_command_line_beats_the_environment_beats_the_default(tmp_path: Path) -> None:
    """For the configuration and for the store."""
    environ = {"GATEWAY_CONFIG": "/a:/b", "GATEWAY_STORE": "sqlite:///e/g.sqlite", "XDG_STATE_HOME": str(tmp_path)}
    assert config_paths((Path("/c"),), environ) == (Path("/c"),)
    assert config_paths((), environ) == (Path("/a"), Path("/b"))
    assert config_paths((), {}) == ()
    assert read(environ, store="sqlite:///c/g.sqlite").store == Path("/c/g.sqlite")
    assert read(environ).store == Path("/e/g.sqlite")
    assert read({"XDG_STATE_HOME": str(tmp_path)}).store == tmp_path / "llm-gateway" / "gateway.sqlite"
    home = Path.home() / ".local" / "state" / "llm-gateway" / "gateway.sqlite"
    assert read({}).store == home
    assert read({"XDG_STATE_HOME": "relative"}).store == home


def test_with_a_redis_the_ledger_stays_a_file_of_this_gateway(tmp_path: Path) -> None:
    """Named by `--journal` or GATEWAY_JOURNAL; else where it would be without a store."""
    url = "redis://:secret@limits.example/2"
    told = read({"GATEWAY_STORE": url, "GATEWAY_JOURNAL": "/e/g.sqlite"})
    assert (told.store, told.key_store) == (Path("/e/g.sqlite"), Path("/e/g-keys.sqlite"))
    assert isinstance(told.limits, RedisPlace)
    assert (told.limits.hosts, told.limits.database) == ((("limits.example", 6379),), 2)
    assert "secret" not in repr(told)
    assert read({}, store=url, journal=Path("/c/g.sqlite")).store == Path("/c/g.sqlite")
    assert read({"XDG_STATE_HOME": str(tmp_path)}, store=url).store == tmp_path / "llm-gateway" / "gateway.sqlite"
    assert read({}, store="sqlite:///x/g.sqlite").limits is None
    with pytest.raises(SettingsError, match="--journal goes with a Redis store"):
        read({}, store="sqlite:///x/g.sqlite", journal=Path("/c/g.sqlite"))
    with pytest.raises(SettingsError, match="redis\\+sentinel") as caught:
        read({}, store="redis+elsewhere://:secret@host")
    assert "secret" not in str(caught.value)


def test_gateways_of_one_machine_may_share_their_limits_in_a_file() -> None:
    """The command line beats the environment; a Redis has them already."""
    assert read({"GATEWAY_LIMITS": "sqlite:///e/l.sqlite"}).limits == Path("/e/l.sqlite")
    assert read({"GATEWAY_LIMITS": "sqlite:///e/l.sqlite"}, limits="sqlite:///c/l.sqlite").limits == Path("/c/l.sqlite")
    with pytest.raises(SettingsError, match="already"):
        read({"GATEWAY_LIMITS": "sqlite:///e/l.sqlite"}, store="redis://host")


def test_the_key_store_lies_next_to_the_ledger() -> None:
    """Two files, so that the ledger keeps a single writer."""
    assert read({}, store="sqlite:///x/gateway.sqlite").key_store == Path("/x/gateway-keys.sqlite")


def test_a_port_out_of_range_is_refused() -> None:
    """0 lets the system choose."""
    assert read({}, port=0).port == 0
    with pytest.raises(SettingsError, match="port 65536"):
        read({}, port=65536)


def test_a_secret_is_read_without_its_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One trailing line break is what editors and `echo` leave."""
    monkeypatch.setenv("SOME_KEY", "sk-1")
    assert read_secret("env:SOME_KEY") == "sk-1"
    (tmp_path / "key").write_bytes(b"sk-2\r\n")
    assert read_secret(f"file:{tmp_path / 'key'}") == "sk-2"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"sk-3\n\n", b"sk-3\r\nx-evil: 1", b"sk-\xe9", b" sk-3", b"sk-3\x00", b"s" * 70_000]
)
def test_a_secret_that_no_header_can_carry_is_refused_unshown(tmp_path: Path, content: bytes) -> None:
    """Absent, empty or broken: LookupError names the reference and never the value."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(LookupError, match="key: ") as caught:
        read_secret(f"file:{tmp_path / 'key'}")
    assert "sk-3" not in str(caught.value)


@pytest.mark.parametrize("reference", ["env:NOT_SET_ANYWHERE", "file:/not/there"])
def test_a_secret_that_is_not_there_is_named(reference: str) -> None:
    """So that the operator knows what to set."""
    with pytest.raises(LookupError, match=reference):
        read_secret(reference)


@pytest.mark.parametrize("reference", ["sk-4", "env:", "env:A-B", "file:", "vault:x", "env:A\n"])
def test_what_is_no_reference_is_not_shown(reference: str) -> None:
    """It may be the secret itself."""
    with pytest.raises(LookupError) as caught:
        read_secret(reference)
    assert "sk-4" not in str(caught.value)


def test_how_much_of_decisions_is_kept_comes_from_the_environment() -> None:
    """A million for a week unless told; what is no number is refused by name."""
    assert read({"GATEWAY_STORE": "sqlite:///tmp/g.sqlite"}).decisions == Kept(most=1_000_000, days=7)
    told = {"GATEWAY_DECISIONS": "0", "GATEWAY_DECISIONS_DAYS": "30", "GATEWAY_STORE": "sqlite:///tmp/g.sqlite"}
    assert read(told).decisions == Kept(most=0, days=30)
    assert read(told).decisions_file.name == "g-decisions.sqlite"
    told |= {"GATEWAY_EXPLAINED": "20000", "GATEWAY_EXPLAINED_HOURS": "24"}
    assert read(told).decisions == Kept(most=0, days=30, explained=20_000, explained_hours=24)
    with pytest.raises(SettingsError, match="GATEWAY_DECISIONS_DAYS"):
        read(told | {"GATEWAY_DECISIONS_DAYS": "a week"})


@pytest.mark.parametrize("workers", [0, -1, 65])
def test_there_is_at_least_one_worker_and_no_crowd(workers: int) -> None:
    with pytest.raises(SettingsError, match=f"{workers} workers are not between 1 and 64"):
        read({"GATEWAY_STORE": "sqlite:///tmp/g.sqlite"}, workers=workers)


def test_each_worker_has_files_of_its_own_but_for_what_all_share() -> None:
    """The first one's have the names that those of a gateway alone have."""
    told = read({"GATEWAY_STORE": "sqlite:///tmp/g.sqlite"}, workers=3)
    second = replace(told, worker=2)
    assert (told.ledger, told.decisions_file.name) == (told.store, "g-decisions.sqlite")
    assert (second.ledger.name, second.decisions_file.name) == ("g-worker2.sqlite", "g-decisions-worker2.sqlite")
    assert second.control_copy.name == "g-control-copy-worker2.sqlite"
    assert (second.key_store, second.control_log) == (told.key_store, told.control_log)

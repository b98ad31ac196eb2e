"""The process's own settings. The only file that reads the environment, and the one place that resolves secrets."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from gateway.domain.ledger import Durability
from gateway.domain.store import RedisPlace, is_redis, redis_place
from gateway.telemetry import push, tracing
from gateway.telemetry.push import PushSettings
from gateway.telemetry.tracing import TracingSettings

REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}|file:[\x21-\x7e]{1,1024}")
"""How the configuration names a secret."""
MAX_SECRET_BYTES: Final = 64 * 1024
PRINTABLE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
"""What an HTTP header can carry as it is."""


HttpWay = Literal["edge", "asgi"]
"""How inference requests are served: one layer below ASGI, or through it as any ASGI server would."""


_LAST_PORT: Final = 65535
_REHEARSE_S: Final = 3600
MOST_WORKERS: Final = 64
"""Processes behind one port; a machine with more cores than that runs gateways side by side."""
ADMIN_URL: Final = "GATEWAY_ADMIN_URL"
ADMIN_KEY: Final = "GATEWAY_ADMIN_KEY"
_ADMIN_ADDRESS: Final = re.compile(
    r"(?P<place>https?://([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?)/?(admin/v1/?)?"
)


class SettingsError(Exception):
    """Raised when an option or an environment variable cannot be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How much is kept of what requests asked for and where they went. None of it is content."""

    most: int = 1_000_000
    """Requests, from GATEWAY_DECISIONS; some 40 bytes each on disk. 0 keeps none."""
    days: int = 7
    """From GATEWAY_DECISIONS_DAYS."""
    explained: int = 5_000
    """Requests of which all is kept that an operator may ask of one, in memory, from GATEWAY_EXPLAINED; some 3 kB each.
    A drill compares with what they took."""
    explained_hours: int = 1
    """From GATEWAY_EXPLAINED_HOURS."""

    @property
    def age_s(self) -> float:
        """`days` in seconds."""
        return self.days * 86_400.0

    @property
    def explained_s(self) -> float:
        """`explained_hours` in seconds."""
        return self.explained_hours * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process is told when it starts."""

    config: tuple[Path, ...]
    """Files and folders of the configuration; from `--config` or GATEWAY_CONFIG (separated like PATH)."""
    host: str
    port: int
    store: Path
    """The ledger's SQLite file."""
    limits: RedisPlace | Path | None = None
    """Where limits are kept: a fleet's Redis, or a file that gateways of one machine share. None is this process's
    memory."""
    http: HttpWay = "edge"
    """The other way is for diagnosis: slower, and by other code."""
    durability: Durability = "normal"
    """What the ledger survives."""
    admin_port: int = 8081
    """The admin API's, on loopback unless `admin_host` says otherwise."""
    admin_host: str = "127.0.0.1"
    admin_key: str | None = None
    """An owner's key of the admin API, from GATEWAY_ADMIN_KEY; None leaves only the keys made through it."""
    decisions: Kept = Kept()
    """How much is kept of what requests asked for and where they went."""
    tracing: TracingSettings | None = None
    """Where traces go, from OpenTelemetry's own variables; None when none of them names a collector."""
    push: PushSettings | None = None
    """Where metrics are sent, in the same way. They can be fetched from the admin port besides."""
    peer_connections: int | None = None
    """How many connections one client's address may have, from GATEWAY_PEER_CONNECTIONS; None leaves it to us."""
    rehearse_s: int = _REHEARSE_S
    """How often outages are rehearsed with what was recorded, from GATEWAY_REHEARSE_S; 0 for never."""
    told_tenants: int = 0
    """How many tenants metrics name, from GATEWAY_METRICS_TENANTS; all others are one."""
    workers: int = 1
    """How many processes serve together, behind one port and as one gateway."""
    worker: int = 1
    """Which of them this is; the first one serves the admin API."""
    is_first: bool = True
    """Whether no other worker has served before this one in this run: what is found in files is of former ones."""
    group: Path | None = None
    """The folder through which they know of one another, made anew for each run; None where there is one process."""

    @property
    def ledger(self) -> Path:
        """The SQLite file that this process writes. Those of all workers are read together; see `of_workers`."""
        return of_worker(self.store, self.worker)

    @property
    def key_store(self) -> Path:
        """The SQLite file of keys, next to the ledger. Apart from it, so that the ledger keeps a single writer."""
        return key_store_beside(self.store)

    @property
    def decisions_file(self) -> Path:
        """The SQLite file of recorded decisions, next to the ledger."""
        return of_worker(decisions_beside(self.store), self.worker)

    @property
    def control_log(self) -> Path:
        """The SQLite file of what was changed through the admin API, next to the ledger."""
        return self.store.with_name(f"{self.store.stem}-control{self.store.suffix}")

    @property
    def control_copy(self) -> Path:
        """The SQLite file with this gateway's copy of a fleet's changes, next to the ledger."""
        return of_worker(self.store.with_name(f"{self.store.stem}-control-copy{self.store.suffix}"), self.worker)


def read(
    environ: Mapping[str, str] = os.environ,
    *,
    config: Sequence[Path] = (),
    store: str | None = None,
    journal: Path | None = None,
    limits: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    http: HttpWay = "edge",
    durability: Durability = "normal",
    admin_host: str = "127.0.0.1",
    admin_port: int = 8081,
    workers: int = 1,
) -> Settings:
    """What the command line says, else the environment, else the defaults; SettingsError when one of them is bad."""
    for given in (port, admin_port):
        if not 0 <= given <= _LAST_PORT:
            raise SettingsError(f"port {given} is not between 0 and {_LAST_PORT}")
    if not 1 <= workers <= MOST_WORKERS:
        raise SettingsError(f"{workers} workers are not between 1 and {MOST_WORKERS}")
    ledger, redis = places(store or environ.get("GATEWAY_STORE") or None, journal, environ)
    shared = limits or environ.get("GATEWAY_LIMITS") or None
    if shared is not None and redis is not None:
        raise SettingsError("limits are in the Redis of the store already; leave --limits and GATEWAY_LIMITS out")
    return Settings(
        config=config_paths(config, environ),
        host=host,
        port=port,
        http=http,
        durability=durability,
        admin_host=admin_host,
        admin_port=admin_port,
        admin_key=environ.get(ADMIN_KEY) or None,
        store=ledger,
        limits=redis or (None if shared is None else store_path(shared)),
        decisions=_kept(environ),
        tracing=tracing.parse_settings(environ),
        push=push.parse_settings(environ),
        peer_connections=_whole(environ, "GATEWAY_PEER_CONNECTIONS", 0, 1_000_000) or None,
        rehearse_s=_whole(environ, "GATEWAY_REHEARSE_S", _REHEARSE_S, 86_400),
        told_tenants=_whole(environ, "GATEWAY_METRICS_TENANTS", 0, 1000),
        workers=workers,
    )


@dataclass(frozen=True, slots=True)
class AdminPlace:
    """Where the admin API is, for who works through it."""

    url: str
    """Without a path: `http://127.0.0.1:8081`."""
    key: str

    def __repr__(self) -> str:
        return f"AdminPlace({self.url})"


def admin_place(url: str | None = None, environ: Mapping[str, str] = os.environ) -> AdminPlace:
    """The admin API that is named, else that of the environment, else the one on this machine; and its key.

    Raises SettingsError when there is no key, or no such address.
    """
    wanted = url or environ.get(ADMIN_URL) or "http://127.0.0.1:8081"
    match = _ADMIN_ADDRESS.fullmatch(wanted)
    if match is None or int(match["port"] or 0) > _LAST_PORT:
        # Not the address itself: it may hold a password.
        raise SettingsError("the admin API has to be named by an address such as http://127.0.0.1:8081")
    key = environ.get(ADMIN_KEY, "").strip()
    if not key:
        raise SettingsError(f"the environment variable {ADMIN_KEY} is not set: it holds the key of the admin API")
    if not PRINTABLE.fullmatch(key):
        raise SettingsError(f"the key in {ADMIN_KEY} holds characters that an HTTP header cannot carry")
    return AdminPlace(match["place"], key)


def has_admin_url(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names an admin API."""
    return bool(environ.get(ADMIN_URL))


def config_paths(given: Sequence[Path], environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The paths given, else those of GATEWAY_CONFIG; empty when neither names one."""
    return tuple(given) or tuple(Path(part) for part in environ.get("GATEWAY_CONFIG", "").split(os.pathsep) if part)


def places(url: str | None, journal: Path | None, environ: Mapping[str, str]) -> tuple[Path, RedisPlace | None]:
    """The ledger's file, and the Redis of the limits if the store is one.

    With a Redis the ledger stays a file of this gateway's own: `journal`, else GATEWAY_JOURNAL, else as without a URL.
    """
    beside = journal or (Path(environ["GATEWAY_JOURNAL"]) if environ.get("GATEWAY_JOURNAL") else None)
    if url is None or not is_redis(url):
        if journal is not None:
            raise SettingsError("--journal goes with a Redis store; sqlite:///path names the ledger's file already")
        return store_path(url, environ), None
    try:
        place = redis_place(url)
    except ValueError as error:
        raise SettingsError(str(error)) from None  # its cause would show the URL
    return (store_path(None, environ) if beside is None else beside.absolute()), place


def store_path(url: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file that a store URL names: `sqlite:///var/lib/gateway.sqlite` is /var/lib/gateway.sqlite.

    None is the user's own state folder. The path is absolute; a fourth slash, as some tools write it, changes nothing.
    """
    if url is None:
        state = environ.get("XDG_STATE_HOME", "")
        # The XDG specification: a relative path there is to be ignored.
        return (Path(state) if Path(state).is_absolute() else _home_state()) / "llm-gateway" / "gateway.sqlite"
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment or not path.strip("/"):
        # Not the URL itself: it may hold a password.
        raise SettingsError(
            "the store has to be a URL such as sqlite:///var/lib/llm-gateway/gateway.sqlite or redis://host:6379"
        )
    return Path("/" + path.lstrip("/"))


def _home_state() -> Path:
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise SettingsError("this user has no home folder; name the store with --store or GATEWAY_STORE") from error


def key_store_beside(store: Path) -> Path:
    """`gateway.sqlite` → `gateway-keys.sqlite` in the same folder."""
    return store.with_name(f"{store.stem}-keys{store.suffix}")


def decisions_beside(store: Path) -> Path:
    """`gateway.sqlite` → `gateway-decisions.sqlite` in the same folder."""
    return store.with_name(f"{store.stem}-decisions{store.suffix}")


def of_worker(path: Path, number: int) -> Path:
    """`gateway.sqlite` → `gateway-worker2.sqlite` in the same folder; the first worker's has the name itself."""
    return path if number == 1 else path.with_name(f"{path.stem}-worker{number}{path.suffix}")


def of_workers(path: Path) -> list[Path]:
    """The file of that name, be it there or not, and those that further workers have beside it, in their order."""
    name = re.compile(re.escape(path.stem) + r"-worker([1-9][0-9]?)" + re.escape(path.suffix))
    found = [(int(match[1]), each) for each in path.parent.glob("*") if (match := name.fullmatch(each.name))]
    return [path, *(each for number, each in sorted(found) if number > 1)]


def _kept(environ: Mapping[str, str]) -> Kept:
    most = _whole(environ, "GATEWAY_DECISIONS", Kept().most, 100_000_000)
    days = _whole(environ, "GATEWAY_DECISIONS_DAYS", Kept().days, 3650)
    return Kept(
        most=most,
        days=days,
        explained=_whole(environ, "GATEWAY_EXPLAINED", Kept().explained, 1_000_000),
        explained_hours=_whole(environ, "GATEWAY_EXPLAINED_HOURS", Kept().explained_hours, 24 * 31),
    )


def _whole(environ: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(largest)) or int(text) > largest:
        raise SettingsError(f"{name} has to be a whole number from 0 to {largest}")
    return int(text)


def read_secret(reference: str) -> str:
    """The secret behind `env:NAME` or `file:PATH`, without one trailing line break.

    LookupError, naming the reference and never the value, when it is absent, empty or cannot stand in an HTTP header.
    """
    secret = read_text(reference).removesuffix("\n").removesuffix("\r")
    if not PRINTABLE.fullmatch(secret):
        raise LookupError(f"{reference}: is empty, or holds characters that an HTTP header cannot carry")
    return secret


def read_text(reference: str) -> str:
    """The text behind `env:NAME` or `file:PATH`, of several lines perhaps: a key, for example.

    LookupError, naming the reference and never the value, when it is absent.
    """
    if not REFERENCE.fullmatch(reference):
        # Not shown: what is no reference may be the secret itself.
        raise LookupError("a secret is named as env:NAME or file:PATH")
    kind, _, name = reference.partition(":")
    if kind == "env":
        secret = os.environ.get(name)
        if not secret:
            raise LookupError(f"{reference}: the environment variable is not set")
    else:
        return _read_file(name, reference)
    return secret


def _read_file(name: str, reference: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise LookupError(f"{reference}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_SECRET_BYTES:
        raise LookupError(f"{reference}: is larger than {MAX_SECRET_BYTES // 1024} KiB")
    return content.decode("latin-1")

"""A synchronous driver: plays any script of events against an exchange and writes down what everybody saw.

The collaborators are the real ones; the clock moves by hand. The driver asserts by itself what holds for every script:
the order of what the client is sent, that attempts are told of in order, that no reservation is settled twice.
"""

import functools
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import assert_never

from gateway.admission.counting import TokenCounter
from gateway.admission.fairness import Lobby
from gateway.admission.limits import Granted, Unavailable
from gateway.admission.repeats import MemoryRepeats
from gateway.admission.tally import Tally
from gateway.auth.directory import Directory
from gateway.auth.keys import digest, mint
from gateway.config.policies import PolicyBook, load
from gateway.dialects.openai import CHAT
from gateway.dialects.protocols import Endpoint
from gateway.domain.errors import GatewayError
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.tenant import ApiKey
from gateway.domain.wire import Headers
from gateway.pipeline import (
    Abort,
    Action,
    Collaborators,
    Conclude,
    Count,
    Dispatch,
    Exchange,
    Fail,
    Finish,
    FreePlace,
    Grow,
    Recall,
    Reply,
    RequestHead,
    Reserve,
    ReservePlace,
    Respond,
    Send,
    Settle,
    Wait,
)
from gateway.pipeline.reckoning import Reckoner
from gateway.routing.budget import RetryBudgets
from gateway.routing.fleet import Fleet
from gateway.routing.shares import Shares
from gateway.telemetry.tracing import Tracing
from tests.pipeline.wire import DONE, ask, text_of

KEY = mint(bytes(range(32))).encode()
WALL = 1_800_000_000.0
START = 1000.0
EVENT_STREAM: Headers = ((b"content-type", b"text/event-stream"),)
JSON: Headers = ((b"content-type", b"application/json"),)
TIMEOUTS = {"connect": 2, "first_token": 20, "idle": 15, "progress": 60, "total": 600}
HEAD = RequestHead(((b"authorization", b"Bearer " + KEY),))


@functools.cache
def counter() -> TokenCounter:
    """The real counter; its ranks are read once per test process."""
    made = TokenCounter()
    made.load()
    return made


@functools.cache
def book_of(text: str) -> PolicyBook:
    """The configuration in `text`, read the way the gateway reads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(text, encoding="utf-8")
        return load([file])


def configured(
    *,
    targets: int = 3,
    attempts: int = 3,
    timeouts: dict[str, float] | None = None,
    limits: dict[str, int] | None = None,
    quirks: dict[str, object] | None = None,
    on_midstream_failure: str = "error",
    model: dict[str, object] | None = None,
    policy: dict[str, object] | None = None,
    places: Mapping[str, Mapping[str, object]] | None = None,
    tenants: Mapping[str, Mapping[str, object]] | None = None,
    is_ranked: bool = False,
) -> PolicyBook:
    """Backends `a`, `b`, `c` in this order behind the model `assistant`; each has prices of its own.

    `model`, `policy` and `places` (by backend) are further fields. The tenant is `acme`, unless there are `tenants`.
    With `is_ranked` there is the policy `high` too, which differs by being critical.
    """
    backends = {
        name: {
            "dialect": "openai",
            "base_url": f"https://{name}.example/v1",
            "models": {
                f"model-{name}": {
                    "prices": {"input": price, "cached_input": price / 2, "output": 2 * price},
                    "quirks": quirks or {},
                }
            },
            **(places or {}).get(name, {}),
        }
        for name, price in (("a", 1.0), ("b", 2.0), ("c", 4.0))
    }
    listed = [{"backend": name, "model": f"model-{name}"} for name in "abc"[:targets]]
    made = {
        "models": {"assistant": {"targets": listed, "on_midstream_failure": on_midstream_failure, **(model or {})}},
        "limits": limits or {},
        "timeouts": TIMEOUTS | (timeouts or {}),
        "retries": {"attempts": attempts},
        **(policy or {}),
    }
    document = {
        "version": 1,
        "backends": {name: backends[name] for name in "abc"[:targets]},
        "policies": {"standard": made} | ({"high": made | {"priority": "critical"}} if is_ranked else {}),
        "tenants": tenants or {"acme": {"policy": "standard"}},
    }
    return book_of(json.dumps(document))


def wall_of(now: float) -> float:
    """Seconds since the epoch at a moment of the clock that moves by hand."""
    return WALL + now - START


class World:
    """What requests share: configuration, limits, clock, ledger."""

    def __init__(self, book: PolicyBook | None = None, *, keys: Sequence[ApiKey] | None = None) -> None:
        self.book = configured() if book is None else book
        self.limiter = Tally(wall_of)
        self.repeats = MemoryRepeats()
        self.now = START
        self.ledger: dict[tuple[str, int], LedgerEntry] = {}
        self.healthy = True
        self.called: list[Play] = []
        """Whose turn it is, and who has not heard of it."""
        ids = itertools.count(1)
        own = ApiKey(public_id="abcdefghijkl", tenant="acme", digest=digest(KEY))
        self.house = Collaborators(
            directory=Directory([own] if keys is None else keys),
            book=lambda: self.book,
            lobby=Lobby(),
            fleet=Fleet({}, draw=Random(2).random),
            budgets=RetryBudgets(),
            shares=Shares(),
            reckoner=Reckoner(counter()),
            counter=counter(),
            tracing=Tracing(None, random=Random(1), version="0"),
            ledger_is_healthy=lambda: self.healthy,
            new_id=lambda: f"{next(ids):032x}",
        )


def spent(world: World, *, sick: str = "") -> World:
    """Without anything left of the reserve for retries. The backends in `sick` have just failed once."""
    budget = world.house.budgets.of("acme", "assistant")
    while budget.spend(1, world.now):
        pass
    fleet = world.house.fleet
    for target in world.book.policies["standard"].routes["assistant"].leaves:
        if target.backend in sick:
            fault = Fault(kind=FaultKind.SERVER_ERROR, message="as scripted", status=500)
            epoch = fleet.dispatched(target, world.now)
            fleet.finished(target, epoch, world.now, outcome=Outcome.FAILED, fault=fault, waited_s=1.0, prompt_tokens=1)
    return world


class Play:
    """One request, from its head to its end, event by event.

    `ledger` is what the journal does when rows come: `writes` them at once, `fails`, or `waits` until `wrote` is
    called. With `reserves=False` the answer of the limits waits until `reserve` is called.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        body: bytes | None = None,
        stream: bool = True,
        head: RequestHead = HEAD,
        endpoint: Endpoint = CHAT,
        ledger: str = "writes",
        reserves: bool = True,
        opened: bool = True,
    ) -> None:
        self.world = World() if world is None else world
        self.stream = stream
        self.request_body = ask(stream=stream) if body is None else body
        self.ledger = ledger
        self.reserves = reserves
        self.exchange = Exchange(self.world.house, endpoint, head, now=self.now, wall=wall_of(self.now))
        self.status: int | None = None
        self.body = b""
        self.error: GatewayError | None = None
        self.finished = False
        self.dispatched: list[Dispatch] = []
        self.aborted: list[int] = []
        self.granted = 0
        self.settled: list[Settle] = []
        self._reserve: Reserve | None = None
        self.places: list[ReservePlace] = []
        """What backends' limits were asked and have not answered."""
        self.counts: Sequence[str] | None = None
        """What is to be counted beside the loop."""
        self.held_places: list[str] = []
        """What they granted and nobody has given back."""
        if opened:
            self.open()

    # What happens.

    def open(self) -> "Play":
        """The head and the body arrive."""
        self.exchange.authenticate(WALL)
        self.exchange.accept(self.request_body, self.now)
        return self._perform()

    def reserve(self) -> "Play":
        """The limits answer, if they were asked to wait with it; those of backends too."""
        self.reserve_request()
        while self.places:
            self.answer_place()
        return self._perform()

    def reserve_request(self) -> "Play":
        """The limits of the tenant answer."""
        if self._reserve is not None:
            asked, self._reserve = self._reserve, None
            answer = self.world.limiter.reserve(asked.reservation, asked.dimensions, self.now, asked.ttl_s)
            if isinstance(answer, Granted):
                self.granted += 1
                self.exchange.reserved(answer, self.now)
            else:
                self.exchange.denied_by(answer, self.now)
        return self._perform()

    def limits_unavailable(self) -> "Play":
        """The store of limits cannot be reached, if they were asked to wait with their answer."""
        self._reserve = None
        self.exchange.limits_unavailable(Unavailable(), self.now)
        return self._perform()

    def count(self, tokens: int | None = None) -> "Play":
        """What was to be counted is; with no number, as the real counter does."""
        texts, self.counts = self.counts, None
        assert texts is not None
        self.exchange.counted(sum(map(counter().count, texts)) if tokens is None else tokens, self.now)
        return self._perform()

    def answer_place(self) -> "Play":
        """The limits of a backend answer the one who has waited for longest."""
        asked = self.places.pop(0)
        answer = self.world.limiter.reserve(asked.reservation, asked.dimensions, self.now, asked.ttl_s)
        if isinstance(answer, Granted):
            self.held_places.append(asked.reservation)
            self.exchange.place_granted(asked.attempt, self.now)
        else:
            self.exchange.place_refused(asked.attempt, answer, self.now)
        return self._perform()

    def sent(self, attempt: int | None = None) -> "Play":
        """The request is on the wire."""
        self.exchange.sent(self._number(attempt), self.now)
        return self._perform()

    def head(self, status: int = 200, headers: Headers | None = None, attempt: int | None = None) -> "Play":
        """Status and header fields of the backend's answer, after the request was sent."""
        self.sent(attempt)
        if headers is None:
            headers = EVENT_STREAM if self.stream and status == 200 else JSON  # success
        self.exchange.answered(self._number(attempt), status, headers, self.now)
        return self._perform()

    def data(self, *pieces: bytes, attempt: int | None = None) -> "Play":
        """Bytes of the body, each piece one read."""
        number = self._number(attempt)
        for piece in pieces:
            self.exchange.data(number, piece, self.now)
            self._perform()
        return self

    def ended(self, attempt: int | None = None) -> "Play":
        """The body is over."""
        self.exchange.ended(self._number(attempt), self.now)
        return self._perform()

    def failed(self, kind: FaultKind, attempt: int | None = None) -> "Play":
        """The connection failed."""
        self.exchange.failed(self._number(attempt), Fault(kind=kind, message="as scripted"), self.now)
        return self._perform()

    def answer(self, status: int, body: bytes, headers: Headers = JSON) -> "Play":
        """A whole unstreamed answer, an error for example."""
        return self.head(status, headers).data(body).ended()

    def wait(self, seconds: float) -> "Play":
        """Time passes; the exchange is woken whenever it asked to be, never earlier."""
        until = self.now + seconds
        while (wake_at := self.exchange.wake_at) is not None and wake_at <= until:
            self.world.now = max(self.now, wake_at)
            self.exchange.tick(self.now)
            self._perform()
        self.world.now = until
        return self

    def heartbeat(self) -> "Play":
        """A second or so has passed."""
        self.exchange.heartbeat(self.now)
        return self._perform()

    def hang_up(self) -> "Play":
        """The client closes its connection."""
        self.exchange.client_gone(self.now)
        return self._perform()

    def slow(self) -> "Play":
        """The client takes nothing: the backend is held back."""
        self.exchange.client_slow(self.now)
        return self._perform()

    def ready(self) -> "Play":
        """The client has caught up."""
        self.exchange.client_ready(self.now)
        return self._perform()

    def shut_down(self) -> "Play":
        """The gateway stops."""
        self.exchange.shutdown(self.now)
        return self._perform()

    def crash(self) -> "Play":
        """An exception that nobody expected reached the driver."""
        self.exchange.crash(self.now)
        return self._perform()

    def wrote(self, error: Exception | None = None) -> "Play":
        """The journal tells that the rows are on disk, or why not."""
        self.exchange.settled(error, self.now)
        return self._perform()

    # What was seen.

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self.world.now

    @property
    def text(self) -> str:
        """The generated text that the client got."""
        return text_of(self.body, stream=self.stream)

    @property
    def done(self) -> bool:
        """Whether the client was told that the stream is whole."""
        return self.body.endswith(DONE)

    @property
    def code(self) -> str | None:
        """Code of the error that the client got, as its whole answer or inside a stream."""
        return None if self.error is None else self.error.code

    @property
    def param(self) -> str | None:
        """What the client's error names: a field, or the wait that ran out."""
        return None if self.error is None else self.error.param

    @property
    def tried(self) -> str:
        """The backends asked, in order: `ab`."""
        return "".join(each.target.backend for each in self.dispatched)

    @property
    def rows(self) -> list[LedgerEntry]:
        """This request's rows in the ledger."""
        return [entry for (exchange, _), entry in sorted(self.world.ledger.items()) if exchange == self.exchange.id]

    @property
    def outstanding(self) -> int:
        """Reservations that nobody has settled."""
        return self.world.limiter.outstanding(self.now)

    # Actions.

    def _number(self, attempt: int | None) -> int:
        if attempt is None:
            return self.dispatched[-1].attempt if self.dispatched else 0
        return attempt

    def _perform(self) -> "Play":
        while self.exchange.actions:
            actions, self.exchange.actions = self.exchange.actions, []
            for action in actions:
                self._carry_out(action)
        while self.world.called:
            other = self.world.called.pop(0)
            other.exchange.turn(self.now)
            other._perform()
        return self

    def _carry_out(self, action: Action) -> None:
        assert not self.finished or isinstance(action, FreePlace), f"{action} came after the end"
        match action:
            case Reserve():
                self._reserve = action
                if self.reserves:
                    self.reserve()
            case Recall(request=request):
                self.world.repeats.claim(
                    request, self.now, action.ttl_s, lambda known: self.exchange.recalled(request, known, self.now)
                )
            case Conclude(request=request, body=body):
                self.world.repeats.conclude(request, body, self.now)
            case Count() | Wait() | ReservePlace() | FreePlace() | Grow():
                self._adjust(action)
            case Dispatch(attempt=number):
                assert self.granted, "nothing may be sent upstream without a reservation"
                assert number > (self.dispatched[-1].attempt if self.dispatched else 0)
                self.dispatched.append(action)
            case Abort(attempt=number):
                assert number not in self.aborted
                self.aborted.append(number)
            case Reply(body=body):
                assert self.status is None, "an answer has one head"
                self.status, self.body, self.finished = 200, body, True
            case Respond():
                assert self.status is None, "an answer has one head"
                self.status = 200
            case Send(data=data):
                assert self.status == 200, "a body needs a head"  # success
                self.body += data
            case Fail(error=error):
                assert self.error is None, "an answer has one error"
                self.error = error
                if self.status is None:
                    self.status = error.http_status
            case Finish():
                self.finished = True
            case Settle():
                self._settle(action)
            case _:
                assert_never(action)

    def _adjust(self, action: Count | Wait | ReservePlace | FreePlace | Grow) -> None:
        if isinstance(action, Count):
            self.counts = action.texts
            return
        if isinstance(action, Wait):
            action.ticket.call = lambda: self.world.called.append(self)
            self.exchange.queued(self.now)
            return
        if isinstance(action, Grow):
            assert self.world.limiter.grow(action.reservation, action.more, self.now)
            return
        if isinstance(action, FreePlace):
            assert action.reservation in self.held_places, "what was not taken cannot be given back"
            self.held_places.remove(action.reservation)
            assert self.world.limiter.settle(action.reservation, action.used, self.now) == "settled"
            return
        self.places.append(action)
        if self.reserves:
            self.answer_place()

    def _settle(self, action: Settle) -> None:
        assert self.granted
        assert not self.settled, "a reservation is settled once"
        self.settled.append(action)
        assert self.world.limiter.settle(action.reservation, action.used, self.now) == "settled"
        if self.ledger != "fails":
            for entry in action.entries:
                assert self.world.ledger.setdefault((entry.exchange, entry.attempt), entry) is entry
        if self.ledger != "waits":
            self.wrote(OSError("disk full") if self.ledger == "fails" else None)

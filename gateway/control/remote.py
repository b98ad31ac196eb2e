"""A client of the admin API: one gateway, few tries, an end to every wait, and what went wrong as people read it.

Knows HTTP and the shape of an answer's errors; what is asked and shown is the commands' own.
"""

import ssl
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import tenacity

from gateway.config.settings import ADMIN_KEY, AdminPlace
from gateway.control.commands import CommandError
from gateway.control.shown import Problem

CONNECT_S: Final = 2.0
ANSWER_S: Final = 20.0
"""The longest silence that is borne before and between the bytes of an answer."""
TRIES: Final = 3
"""Of connecting only: what was sent may have been done, and is not sent again."""
_UNAUTHENTICATED: Final = 401
_UNACCEPTABLE: Final = frozenset({400, 422})

Kind = TypeVar("Kind")


class Refused(CommandError):
    """Raised when the API says no: its sentence, and each mistake on a line of its own with its place."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_content(self) -> bool:
        """Whether what was sent has mistakes."""
        return self.status in _UNACCEPTABLE


class Answer:
    """What the API answered."""

    __slots__ = ("body", "etag", "next_after")

    def __init__(self, response: httpx.Response) -> None:
        self.body = response.content
        self.etag: str | None = response.headers.get("etag")
        self.next_after: str | None = response.headers.get("x-next-after")
        """Where the next page begins; None when this is the last one."""

    def read(self, kind: type[Kind]) -> Kind:
        """The answer as a value. Raises CommandError for one that is something else."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.DecodeError as error:
            raise CommandError(f"the admin API's answer is not understood; is it of another version? ({error})") from (
                error
            )


class AdminApi:
    """The admin API of one gateway. Close it."""

    def __init__(self, place: AdminPlace) -> None:
        self._url = place.url
        # Not the environment's proxies and netrc: the key is for the gateway alone.
        try:
            base = httpx.URL(f"{place.url}/admin/v1")
        except httpx.InvalidURL as error:
            raise CommandError(f"{place.url} is no address: {error}") from error
        self._client = httpx.Client(
            base_url=base,
            headers={"authorization": f"Bearer {place.key}"},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=False,
            verify=ssl.create_default_context() if place.url.startswith("https:") else False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, *, patience_s: float = ANSWER_S, **query: str | int | None) -> Answer:
        """Read something, which may take so long without a word. Raises CommandError, as all of these do."""
        wanted = {name: each for name, each in query.items() if each is not None}
        return self._asked("GET", path, query=wanted, patience_s=patience_s)

    def all(self, path: str, kind: type[Kind]) -> list[Kind]:
        """A list, page by page."""
        answer = self.get(path)
        found = answer.read(list[kind])  # type: ignore[valid-type]  # a type in a variable, as msgspec reads it
        while answer.next_after is not None:
            answer = self.get(path, after=answer.next_after)
            found += answer.read(list[kind])  # type: ignore[valid-type]  # the same
        return found

    def put(self, path: str, document: object, *, etag: str | None) -> Answer:
        """Write something, of which `etag` names the state that was seen; None when there was nothing."""
        return self._asked("PUT", path, document=document, headers={} if etag is None else {"if-match": etag})

    def post(
        self, path: str, document: object = None, *, etag: str | None = None, patience_s: float = ANSWER_S
    ) -> Answer:
        """Have something done, which may take so long without a word; only if it is still as `etag` says."""
        headers = {} if etag is None else {"if-match": etag}
        return self._asked("POST", path, document=document, headers=headers, patience_s=patience_s)

    def delete(self, path: str, *, etag: str | None = None) -> Answer:
        """Let something hold no longer, of which `etag` names the state that was seen."""
        return self._asked("DELETE", path, headers={} if etag is None else {"if-match": etag})

    def _asked(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        document: object = None,
        headers: dict[str, str] | None = None,
        patience_s: float = ANSWER_S,
    ) -> Answer:
        body = None if document is None else msgspec.json.encode(document)
        fields = {"content-type": "application/json"} | (headers or {}) if body is not None else headers
        request = self._client.build_request(
            method,
            path,
            params=query,
            content=body,
            headers=fields,
            timeout=httpx.Timeout(patience_s, connect=CONNECT_S),
        )
        try:
            response = _connecting(self._client.send, request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CommandError(
                f"the admin API at {self._url} cannot be reached ({_reason(error)}). Is the gateway running, and is "
                "this its admin port? Another one is named with --admin URL or GATEWAY_ADMIN_URL."
            ) from error
        except httpx.HTTPError as error:
            lost = "" if method == "GET" else " It may have been done all the same: `gateway audit` knows."
            raise CommandError(f"the admin API at {self._url} did not answer ({_reason(error)}).{lost}") from error
        if not response.is_success:
            raise self._refusal(response)
        return Answer(response)

    def _refusal(self, response: httpx.Response) -> Refused:
        status = response.status_code
        if response.headers.get("content-type") != "application/problem+json":
            message = (
                f"{self._url} answered {status}, and not as an admin API does. Is it the port of --admin-port (8081 "
                "unless told), and not the one for requests?"
            )
            return Refused(message, status)
        if status == _UNAUTHENTICATED:
            message = (
                f"the admin API at {self._url} does not accept the key in {ADMIN_KEY}. Set it to the key that the "
                f"gateway was started with, or to one that its owner made for you."
            )
            return Refused(message, status)
        problem = Answer(response).read(Problem)
        said = problem.detail  # Of one mistake it may be all that there is to say.
        mistakes = [f"  {each.path}: {each.message}" for each in problem.mistakes if each.message != said]
        return Refused("\n".join([problem.detail or problem.title, *mistakes]), status)


_connecting: Final = tenacity.Retrying(
    stop=tenacity.stop_after_attempt(TRIES),
    wait=tenacity.wait_exponential(multiplier=0.1, max=1.0),
    retry=tenacity.retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout)),
    reraise=True,
)


def step(name: str | int) -> str:
    """A name as a part of a path, with the slash before it."""
    return f"/{quote(str(name), safe='')}"


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__

"""What went wrong, as RFC 9457 problem details: a status, a sentence, and every mistake with its place."""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from gateway.api.errors import error_headers
from gateway.config.problems import ConfigurationError
from gateway.control.desk import Conflict
from gateway.control.events import ChainBroken
from gateway.control.keys import KeyRefused
from gateway.control.recorder import RecordUnusable
from gateway.control.shown import Mistake, Problem
from gateway.control.store import LogUnreachable
from gateway.control.verbs import Missing, Stale
from gateway.domain.errors import GatewayError

log = structlog.get_logger()


def problem(
    status: int, detail: str, mistakes: tuple[Mistake, ...] = (), headers: dict[str, str] | None = None
) -> Response[bytes]:
    """An error's answer."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, mistakes=mistakes)
    return Response(
        msgspec.json.encode(body), status_code=status, media_type="application/problem+json", headers=headers or {}
    )


def _configuration(_request: Request[Any, Any, Any], error: ConfigurationError) -> Response[bytes]:
    mistakes = tuple(Mistake(each.path or each.file, each.message) for each in error.problems)
    return problem(422, f"The configuration would have {len(mistakes)} mistake(s); nothing was changed.", mistakes)


def _stale(_request: Request[Any, Any, Any], error: Stale) -> Response[bytes]:
    return problem(412 if error.was_told else 428, str(error))


def _gateway(_request: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    mistakes = () if error.param is None else (Mistake(error.param, error.message),)
    return problem(error.http_status, error.message, mistakes, headers)


def _key(_request: Request[Any, Any, Any], error: KeyRefused) -> Response[bytes]:
    mistakes = () if error.place is None else (Mistake(error.place, str(error)),)
    return problem(422, str(error), mistakes)


def _validation(_request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    found = error.extra if isinstance(error.extra, list) else []
    mistakes = tuple(Mistake(_place(each), str(each.get("message", ""))) for each in found)
    return problem(400, error.detail.partition("?")[0], mistakes)


def _place(found: dict[str, Any]) -> str:
    """Where a mistake is: of a body as in JSON Path, else the parameter's name."""
    key = str(found.get("key", "data"))
    if found.get("source") != "body":
        return "$" if key == "data" else key
    return "$" if key == "data" else f"$.{key}"


def _http(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    # What the framework says of a request by itself is about a body that is no JSON.
    mistakes = (Mistake("$", error.detail),) if error.status_code == HTTPStatus.BAD_REQUEST else ()
    return problem(error.status_code, error.detail, mistakes, dict(error.headers or {}))


def _crash(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("admin.crashed", exc_info=error)
    return problem(500, "The gateway failed to do this; its log has the details.")


HANDLERS: ExceptionHandlersMap = {
    ConfigurationError: _configuration,
    Stale: _stale,
    Missing: lambda _request, error: problem(404, str(error)),
    KeyRefused: _key,
    Conflict: lambda _request, error: problem(409, str(error)),
    LogUnreachable: lambda _request, error: problem(503, f"This cannot be done now: {error}."),
    RecordUnusable: lambda _request, error: problem(503, f"{error}."),
    ChainBroken: lambda _request, error: problem(500, str(error)),
    GatewayError: _gateway,
    ValidationException: _validation,
    HTTPException: _http,
    Exception: _crash,
}

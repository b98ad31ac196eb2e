"""`If-Match` where nothing heeds it: refused, so that nobody relies on a condition that was never looked at."""

from typing import Final

from gateway.api.admin.office import AdminRequest
from gateway.control.verbs import Stale

_PARAMETER: Final = "if_match"
_READS: Final = frozenset({"GET", "HEAD"})


def refuse_unread(request: AdminRequest) -> None:
    """Before a handler that changes something and knows no ETag. Raises Stale; `*` asks for nothing but existence."""
    condition = request.headers.get("if-match")
    if condition is None or condition == "*" or request.method in _READS:
        return
    if _PARAMETER not in request.route_handler.parsed_fn_signature.parameters:
        raise Stale("There is no ETag here that `If-Match` could name; leave it out.", was_told=True)

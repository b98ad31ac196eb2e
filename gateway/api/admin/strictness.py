"""What a request says and nothing would heed: refused, so that nobody relies on a word that was never read."""

from typing import Final

from gateway.api.admin.office import AdminRequest
from gateway.control.verbs import Stale
from gateway.domain.errors import InvalidRequest

_CONDITION: Final = "if_match"
_NO_QUERY: Final = frozenset({"request", "data", _CONDITION})
"""Parameters of handlers that are not of the query; those of the path aside."""
_READS: Final = frozenset({"GET", "HEAD"})


def refuse_unread(request: AdminRequest) -> None:
    """Before a handler. Raises InvalidRequest for a query parameter that it does not know, Stale for a condition.

    A condition of `*` asks for nothing but existence.
    """
    known = request.route_handler.parsed_fn_signature.parameters.keys()
    for name in request.query_params:
        if name not in known or name in _NO_QUERY or name in request.path_params:
            taken = sorted(known - _NO_QUERY - request.path_params.keys())
            takes = f"it takes {', '.join(taken)}" if taken else "it takes none"
            raise InvalidRequest(f"{name[:64]!a} is no parameter here; {takes}.", param=name[:64])
    condition = request.headers.get("if-match")
    if condition not in {None, "*"} and request.method not in _READS and _CONDITION not in known:
        raise Stale("There is no ETag here that `If-Match` could name; leave it out.", was_told=True)

"""Long lists in pages: in the order of their names, so that a page begins behind the last name of the one before."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Annotated, Final, TypeAlias, TypeVar

from litestar import Response
from litestar.params import QueryParameter

MOST: Final = 1000
NEXT: Final = "x-next-after"
"""The header that is there when more follows; its value is the next page's `after`."""

Item = TypeVar("Item")
After: TypeAlias = Annotated[str | None, QueryParameter(description="Only what comes behind this name.")]
Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=MOST, description=f"At most so many. `{NEXT}` tells more.")]


def paged(items: Iterable[Item], name_of: Callable[[Item], str], after: str | None, limit: int) -> Response[list[Item]]:
    """The items behind `after`, by their names, as many as asked for."""
    behind = sorted((item for item in items if after is None or name_of(item) > after), key=name_of)
    page = list(islice(behind, limit))
    more = len(behind) > len(page)
    return Response(page, headers={NEXT: name_of(page[-1])} if more else {})

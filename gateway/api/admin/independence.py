"""How much hangs on one provider, cloud, chip or region, and what would be left without: as JSON, and as a page."""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Annotated, Final

import anyio.to_thread
from litestar import Response, get, post
from litestar.params import FromQuery, QueryParameter

from gateway.accounting import slots, statement
from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, office
from gateway.control.outlook import spent_of, sums_of
from gateway.control.picture import Picture, picture
from gateway.control.rehearsal import Rehearsal
from gateway.domain.errors import Overloaded

_HOUR_S: Final = 3600.0
_YEAR_S: Final = 366 * 86_400.0


@get("/independence", opt=needs("viewer"))
async def get_independence(
    request: AdminRequest,
    window_s: Annotated[float, QueryParameter(gt=0, le=_YEAR_S)] = _HOUR_S,
    tenant: FromQuery[str | None] = None,
) -> Picture:
    """Shares of tokens and cost by provider, cloud, accelerator and region over the window, and how concentrated.

    Of all gateways that share a Redis: what the others used is known to five minutes, for a day. For one tenant or all.
    Also which models have no alternative, what would be left without each provider, which of them work today, and what
    rehearsed outages would do.
    """
    made = office(request)
    wanted = statement.Filter(tenant=tenant, since=made.wall() - window_s)
    # What workers of one gateway used is in files that are at hand: nothing of it is known to five minutes only.
    others = () if made.shared is None else made.outlook.parts(window_s, own=False)

    def sums() -> list[slots.Sum]:
        found = [
            *(
                each
                for ledger in made.ledgers(all_workers=made.shared is None)
                for each in slots.sums_of(ledger, wanted)
            ),
            *(each for each in sums_of(others) if tenant in {None, each.tenant}),
        ]
        return [each for each in found if each.backend]

    found = await anyio.to_thread.run_sync(sums)
    return picture(
        map(spent_of, found),
        made.desk.now.book,
        requests=sum(each.requests for each in found),
        window_s=window_s,
        tenant=tenant,
        gateways=made.outlook.gateways,
        glance=made.outlook.glance,
        given_up=made.outlook.given_up(),
        rehearsals=made.outlook.all_rehearsals(),
    )


@post("/independence/rehearsals", opt=needs("operator"), status_code=200)
async def rehearse(request: AdminRequest) -> Sequence[Rehearsal]:
    """Rehearse the loss of each failure domain now, in the busiest hour that this gateway recorded in the last day.

    In a process of its own; it happens by itself every hour, or as GATEWAY_REHEARSE_S says.
    """
    try:
        return await office(request).rehearser.rehearse()
    except TimeoutError:
        raise Overloaded("The records could not be gone through in time.") from None


def _page() -> tuple[bytes, dict[str, str]]:
    """The page, and headers that let it load and run nothing but what stands in it."""
    page = (importlib.resources.files(__package__) / "independence.html").read_bytes()
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src '{_hash(page, b'script')}'; "
        f"style-src '{_hash(page, b'style')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }


def _hash(page: bytes, element: bytes) -> str:
    """What a content security policy calls the text of the only element of that name."""
    text = page.split(b"<%b>" % element)[1].split(b"</%b>" % element)[0]
    return f"sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}"


_PAGE, _PAGE_HEADERS = _page()


@get("/independence/view", sync_to_thread=False, include_in_schema=False)
def view_independence() -> Response[bytes]:
    """The same as a page. It holds nothing itself: it asks for an admin key, and fetches with it what it shows."""
    return Response(_PAGE, headers=_PAGE_HEADERS, media_type="text/html; charset=utf-8")


HANDLERS = [get_independence, rehearse]
PAGES = [view_independence]
"""For everybody who reaches the port."""

"""How much hangs on one provider, cloud, chip or region, as this gateway's ledger knows it."""

from typing import Annotated, Final

from litestar import get
from litestar.params import FromQuery, QueryParameter

from gateway.accounting import statement
from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, office
from gateway.control.independence import Independence, Spent, report

_BY: Final[tuple[statement.By, ...]] = ("tenant", "model", "backend")
_HOUR_S: Final = 3600.0
_YEAR_S: Final = 366 * 86_400.0


@get("/independence", opt=needs("viewer"), sync_to_thread=True)
def get_independence(
    request: AdminRequest,
    window_s: Annotated[float, QueryParameter(gt=0, le=_YEAR_S)] = _HOUR_S,
    tenant: FromQuery[str | None] = None,
) -> Independence:
    """Shares of tokens and cost by provider, cloud, accelerator and region over the window, and how concentrated.

    Of the requests that this gateway served, for one tenant or all. Also which public models have no alternative.
    """
    made = office(request)
    wanted = statement.Filter(tenant=tenant, since=made.wall() - window_s)
    totals = [total for total in statement.totals(made.ledger, _BY, wanted) if total.by[2]]
    spent = [
        Spent(
            tenant=total.by[0],
            model=total.by[1],
            backend=total.by[2],
            tokens=total.input_tokens
            + total.cached_input_tokens
            + total.cache_write_tokens
            + total.output_tokens
            + total.reasoning_tokens,
            cost_nano_usd=total.cost_nano_usd,
        )
        for total in totals
    ]
    return report(spent, made.desk.now.book, requests=sum(total.requests for total in totals))


HANDLERS = [get_independence]

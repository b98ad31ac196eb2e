"""The request's way through the stages, as events in and actions out. Does no I/O and reads no clock.

The only room that knows all stages and their order. `exchange.py` is the way itself; the other files hold what it
decides with: `entry.py` and `claiming.py` the way in, `tries.py` the tries that run, `turns.py` whose turn is next,
`attempt.py` one try, `relay.py` what of it goes out, `continuing.py` who goes on with a broken answer, `verdict.py`
what faults mean for the client, `account.py` and `bill.py` who pays what, `actions.py` what a driver must do.
"""

from gateway.pipeline.actions import (
    Abort,
    Action,
    Conclude,
    Count,
    Dispatch,
    Fail,
    Finish,
    FreePlace,
    Grow,
    Recall,
    Reply,
    Reserve,
    ReservePlace,
    Respond,
    Send,
    Settle,
    Wait,
)
from gateway.pipeline.entry import Collaborators, RequestHead
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.report import record_of

__all__ = [
    "Abort",
    "Action",
    "Collaborators",
    "Conclude",
    "Count",
    "Dispatch",
    "Exchange",
    "Fail",
    "Finish",
    "FreePlace",
    "Grow",
    "Recall",
    "Reply",
    "RequestHead",
    "Reserve",
    "ReservePlace",
    "Respond",
    "Send",
    "Settle",
    "Wait",
    "record_of",
]

"""Who hears of finished requests, in their order. Some listen only for a while; those who do not cost nothing."""

from collections.abc import Callable

from gateway.telemetry.record import RequestRecord

Listener = Callable[[RequestRecord], None]


class Listeners:
    """Tells each of them."""

    __slots__ = ("_all",)

    def __init__(self, *listeners: Listener) -> None:
        self._all = listeners

    def tell(self, record: RequestRecord) -> None:
        """A request is over."""
        for listener in self._all:
            listener(record)

    def put_first(self, listener: Listener) -> None:
        """Have this one hear of requests too, and before the others: what it writes into a record they read."""
        self._all = (listener, *self._all)

    def remove(self, listener: Listener) -> None:
        """Have it hear of no more."""
        self._all = tuple(each for each in self._all if each != listener)

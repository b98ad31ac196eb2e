"""What we tell a client: one tree, one leaf for each thing a caller can act on.

    GatewayError
    ├── InvalidRequest              400
    │   ├── UnsupportedParameter    400  unsupported_parameter
    │   ├── ContextTooLong          400  context_length_exceeded
    │   ├── ContentFiltered         400  content_filter
    │   ├── UnknownModel            404  model_not_found
    │   ├── KeyReused               422  idempotency_key_reused | answer_not_kept
    │   └── RequestRejected         the backend's own 4xx, passed on with its status
    ├── Unauthenticated             401  invalid_api_key
    ├── Forbidden                   403
    ├── NotFound                    404
    ├── RequestInFlight             409  request_in_flight
    ├── RequestTimedOut             408  the client was too slow to send its request
    ├── RequestTooLarge             413  request_too_large
    ├── UnsupportedMediaType        415
    ├── RateLimited                 429  rate_limit_exceeded (or upstream_rate_limited)
    ├── BudgetExhausted             429  insufficient_quota
    ├── LoopDetected                508  loop_detected
    ├── Overloaded                  503  overloaded | no_backend_available
    ├── UpstreamFailed              502  upstream_error | upstream_invalid | upstream_auth | upstream_tls
    │   └── UpstreamTimedOut        504  upstream_timeout
    ├── InternalError               500
    └── StreamInterrupted           –    an event inside a stream whose 200 is already sent

A `Fault` is what a backend did; a `GatewayError` is our answer. Only `gateway.api.errors` turns one into bytes.
"""

from typing import ClassVar


class GatewayError(Exception):
    """Raised when a request cannot be served; carries everything the answer needs.

    `retry_after_s` is seconds, None when waiting does not help. `should_retry` is told to the client's SDK in
    `x-should-retry`; None leaves the SDK to its own rules.
    """

    status: ClassVar[int] = 500
    type: str = "api_error"
    code: str | None = None
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if should_retry is not None:
            self.should_retry = should_retry

    @property
    def http_status(self) -> int:
        """The status of the answer."""
        return self.status


class InvalidRequest(GatewayError):
    """Raised when the request itself is wrong: the same request can never succeed."""

    status = 400
    type = "invalid_request_error"
    should_retry = False


class UnsupportedParameter(InvalidRequest):
    """Raised when no target of the model can express a parameter of the request."""

    code = "unsupported_parameter"


class ContextTooLong(InvalidRequest):
    """Raised when the prompt fits no target of the model."""

    code = "context_length_exceeded"


class ContentFiltered(InvalidRequest):
    """Raised when a backend refused the content; never routed around."""

    code = "content_filter"


class UnknownModel(InvalidRequest):
    """Raised when the public model name is not one of the caller's policy."""

    status = 404
    code = "model_not_found"


class KeyReused(InvalidRequest):
    """Raised when the client's idempotency key stands for another request, or for an answer that nobody has."""

    status = 422
    code = "idempotency_key_reused"


class RequestRejected(InvalidRequest):
    """Raised when a backend judged the request itself wrong; passed on with the backend's status."""

    def __init__(
        self, message: str, *, upstream_status: int, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.upstream_status = upstream_status

    @property
    def http_status(self) -> int:
        """The backend's status, which says more than a plain 400."""
        return self.upstream_status


class Unauthenticated(GatewayError):
    """Raised when no valid key came with the request.

    One message for every cause: it must not tell which keys exist.
    """

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    should_retry = False


class Forbidden(GatewayError):
    """Raised when a valid key may not do this."""

    status = 403
    type = "permission_error"
    should_retry = False


class NotFound(GatewayError):
    """Raised when the path names nothing we serve."""

    status = 404
    type = "invalid_request_error"
    should_retry = False


class RequestTimedOut(GatewayError):
    """Raised when the client took too long to send its request."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class RequestInFlight(GatewayError):
    """Raised when the same request, by its idempotency key, is being answered already.

    The only 409 there is: SDKs retry it, and a little later the answer is there.
    """

    status = 409
    type = "invalid_request_error"
    code = "request_in_flight"
    should_retry = True


class RequestTooLarge(GatewayError):
    """Raised when the body is larger than we read."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    should_retry = False


class UnsupportedMediaType(GatewayError):
    """Raised when the body is not JSON, or is compressed."""

    status = 415
    type = "invalid_request_error"
    should_retry = False


class RateLimited(GatewayError):
    """Raised when a limit denies the request; `kind` is the limit's unit in OpenAI's error type."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str, retry_after_s: float, code: str | None = None) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.type = kind


class BudgetExhausted(GatewayError):
    """Raised when a budget is spent; retrying does not help before its period ends."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class LoopDetected(GatewayError):
    """Raised when a request came through too many gateways: most likely the same ones again and again."""

    status = 508
    code = "loop_detected"
    should_retry = False


class Overloaded(GatewayError):
    """Raised when we cannot serve the request now; it may pass with time."""

    status = 503
    type = "server_error"
    code = "overloaded"


class UpstreamFailed(GatewayError):
    """Raised when every attempt allowed by the policy failed."""

    status = 502
    code = "upstream_error"
    should_retry = False


class UpstreamTimedOut(UpstreamFailed):
    """Raised when the backends were too slow; `param` names the phase, one of `gateway.domain.fault.Phase`."""

    status = 504
    code = "upstream_timeout"


class InternalError(GatewayError):
    """Raised when we made a mistake; the log has the details, the client does not."""

    status = 500
    code = "internal_error"


class StreamInterrupted(GatewayError):
    """Raised when an answer broke off after content was delivered; written as an event inside the stream."""

    status = 200
    code = "upstream_interrupted"

"""What can go wrong in the worker, in words a caller can act on. Knows no HTTP framework.

WorkerError                      not for clients: start-up and operation
├── ModelUnavailable             the weights could not be fetched, verified or read
└── DeviceUnavailable            the device asked for is not there
RequestError                     becomes an OpenAI error body
├── InvalidRequest        400    one parameter is wrong
│   ├── UnsupportedParameter     one parameter asks for what this worker cannot do
│   ├── ContextTooLong           prompt and answer do not fit
│   ├── UnknownModel      404    this worker serves another model
│   ├── MethodNotAllowed  405    the path exists, the method is not POST
│   └── RequestTooLarge   413    the body is longer than any prompt that fits
├── Overloaded            503    the queue is full, or the worker is loading or draining; try elsewhere or later
├── DeadlineExceeded      504    the time the caller gave is over
└── EngineFailed          500    the device failed while the request was running
"""

from typing import ClassVar


class WorkerError(Exception):
    """Raised when the worker cannot do its job; the message names the cause and the fix."""


class ModelUnavailable(WorkerError):
    """Raised when the model's weights could not be fetched, verified or read."""


class DeviceUnavailable(WorkerError):
    """Raised when the device asked for by `--device` is not usable here."""


class RequestError(Exception):
    """Raised when one request cannot be served; carries what OpenAI's error object needs."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(RequestError):
    """Raised when a parameter is missing, of the wrong type or out of range."""

    status = 400
    type = "invalid_request_error"


class UnsupportedParameter(InvalidRequest):
    """Raised when a parameter asks for something this worker does not do."""

    code = "unsupported_parameter"


class ContextTooLong(InvalidRequest):
    """Raised when the prompt, or the prompt with `max_tokens`, does not fit into the context window."""

    code = "context_length_exceeded"


class UnknownModel(InvalidRequest):
    """Raised when the request names a model this worker does not serve."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """Raised when the path exists and the method is not POST."""

    status = 405


class RequestTooLarge(InvalidRequest):
    """Raised when the request body is longer than the limit."""

    status = 413
    code = "request_too_large"


class Overloaded(RequestError):
    """Raised when the queue is full, or the worker is loading or draining."""

    status = 503
    code = "overloaded"


class DeadlineExceeded(RequestError):
    """Raised when the answer was not finished within the time its caller gave."""

    status = 504
    code = "deadline_exceeded"


class EngineFailed(RequestError):
    """Raised when the device failed while the request was running."""

    code = "engine_failed"

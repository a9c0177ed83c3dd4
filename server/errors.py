"""What can go wrong, in one tree, and the one table that turns it into HTTP.

    ServerError
    ├── RequestRejected            the client is at fault
    │   ├── MalformedRequest       400  the bytes are not what the route reads
    │   ├── Unauthorized           401  the admin token is missing or wrong
    │   ├── Forbidden              403  this caller may never do this
    │   ├── NotFound               404  no such route
    │   │   ├── ModelNotFound      404
    │   │   └── VersionNotFound    404
    │   ├── MethodNotAllowed       405
    │   ├── RequestTimeout         408  the body did not arrive in time
    │   ├── Conflict               409  the state of the server forbids it now
    │   ├── PayloadTooLarge        413
    │   ├── UnsupportedMedia       415
    │   ├── InvalidInput           422  well-formed but wrong: field, expected, got
    │   └── RequestCancelled       499  the client went away
    ├── ServerBusy                 nobody is at fault; trying again later may work
    │   ├── QueueFull              429  retry after `retry_after_s`
    │   ├── ModelNotReady          503
    │   ├── ServerDraining         503
    │   ├── StoreUnavailable       503  where collections are kept does not answer, or is full
    │   └── DeadlineExceeded       504
    ├── LoadFailed                 422  the model cannot be served: `reason`
    │   └── LoadCrashed            500  loading it broke, and the model may not be why
    └── InternalFault              500  the server is at fault

`code` is for programs and never changes; the message is for people: what was expected, what came,
what to do. HTTP statuses live in `STATUS` only.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ServerError(Exception):
    """A failure that may be told to the client: a message, a `code` and `extra` fields."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **extra: Any) -> None:
        """Keep the message and what a program may want to know beside it."""
        super().__init__(message)
        self.message = message
        self.extra: dict[str, Any] = extra

    def body(self) -> dict[str, Any]:
        """Return the one error shape: `{"error", "code", ...extra}`."""
        return {"error": self.message, "code": self.code, **self.extra}


def how_to_install(package: str, extra: str) -> str:
    """Return how an optional library gets there, from a clone or into an image."""
    return (
        f"in a clone, .venv/bin/python -m pip install -e '.[{extra}]'; for an image, build it with "
        f"{package} in requirements/serve.txt (LOCK=serve.txt)"
    )


class RequestRejected(ServerError):
    """The request is at fault; the same request will fail again."""

    code = "rejected"


class MalformedRequest(RequestRejected):
    """The bytes do not parse as what the route reads."""

    code = "malformed_request"


class Unauthorized(RequestRejected):
    """The admin token is missing or wrong."""

    code = "unauthorized"


class Forbidden(RequestRejected):
    """The caller may not do this at all."""

    code = "forbidden"


class NotFound(RequestRejected):
    """Nothing is there."""

    code = "not_found"


class ModelNotFound(NotFound):
    """The repository has no model of this name."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model has no such version or label."""

    code = "version_not_found"


class MethodNotAllowed(RequestRejected):
    """The route exists, but not for this verb."""

    code = "method_not_allowed"


class RequestTimeout(RequestRejected):
    """The request's body did not arrive in time."""

    code = "request_timeout"


class Conflict(RequestRejected):
    """The state of the server or of the repository forbids it now."""

    code = "conflict"


class PayloadTooLarge(RequestRejected):
    """The body, once unpacked, is larger than the limit."""

    code = "payload_too_large"


class UnsupportedMedia(RequestRejected):
    """The route does not read this content type or encoding."""

    code = "unsupported_media"


class InvalidInput(RequestRejected):
    """Well-formed but wrong; `field`, `expected` and `got` say where."""

    code = "invalid_input"


class RequestCancelled(RequestRejected):
    """The client went away before the answer."""

    code = "cancelled"


class ServerBusy(ServerError):
    """The request was right and the server could not take it; later it may."""

    code = "busy"


class QueueFull(ServerBusy):
    """The model's queue is at `max_queue_size`; retry after `retry_after_s`."""

    code = "queue_full"


class ModelNotReady(ServerBusy):
    """The model exists, but no version of it can answer now."""

    code = "model_not_ready"


class ServerDraining(ServerBusy):
    """The server is shutting down and takes no new work."""

    code = "draining"


class StoreUnavailable(ServerBusy):
    """The folder or database of the collections cannot be used now; the message says why."""

    code = "store_unavailable"


class DeadlineExceeded(ServerBusy):
    """The answer could not be ready before the request's deadline."""

    code = "deadline_exceeded"


class LoadFailed(ServerError):
    """A version cannot be served; `reason` says why."""

    code = "load_failed"


class LoadCrashed(LoadFailed):
    """Loading a version broke in a way that the model may not be to blame for."""


class InternalFault(ServerError):
    """The server is at fault; the log has the details, the client has the request's id."""

    code = "internal"


STATUS: dict[type[ServerError], int] = {
    ServerError: 500,
    RequestRejected: 400,
    MalformedRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    ModelNotFound: 404,
    VersionNotFound: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    Conflict: 409,
    PayloadTooLarge: 413,
    UnsupportedMedia: 415,
    InvalidInput: 422,
    QueueFull: 429,
    RequestCancelled: 499,
    InternalFault: 500,
    ServerBusy: 503,
    ModelNotReady: 503,
    ServerDraining: 503,
    StoreUnavailable: 503,
    DeadlineExceeded: 504,
    LoadFailed: 422,
    LoadCrashed: 500,
}

TENSOR_DOOR_STATUS: dict[int, int] = {422: 400}  # the v2 and v1 protocols know no 422


def status_of(error: ServerError, *, tensor_door: bool = False) -> int:
    """Return the HTTP status of an error; `tensor_door` is for the routes under /v2 and /v1."""
    for cls in type(error).__mro__:
        status = STATUS.get(cls)
        if status is not None:
            return TENSOR_DOOR_STATUS.get(status, status) if tensor_door else status
    return 500

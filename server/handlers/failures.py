"""What a client may know about a failure; the rest goes to the log under the request's id."""

from __future__ import annotations

import logging

from server.errors import InternalFault, ServerError

logger = logging.getLogger("millrace.request")


def as_server_error(error: Exception, request_id: str) -> ServerError:
    """Return the error to tell; what was not foreseen is logged with its stack trace."""
    if isinstance(error, ServerError):
        return error
    logger.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
    return InternalFault(
        f"the server failed on this request; its log has the details under {request_id}"
    )

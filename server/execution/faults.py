"""What the engine raises, in the server's words."""

from __future__ import annotations

import engine
from server.errors import InternalFault, InvalidInput, ModelNotReady, ServerError

# The values of this one request are at fault: the same request fails again, others do not.
_REQUEST_FAULTS = (engine.InvalidInput, engine.RunFailed, engine.ResourceLimit)


def as_server_error(error: BaseException) -> ServerError:
    """Return what to tell the client whose request ended in `error`.

    Only messages that the engine wrote for people pass through; anything else is an `InternalFault`
    that says nothing about the inside of the server.
    """
    if isinstance(error, ServerError):
        return error
    if isinstance(error, _REQUEST_FAULTS):
        return InvalidInput(str(error))
    if isinstance(error, engine.ModelClosed):
        return ModelNotReady("this version of the model was unloaded meanwhile; send it again")
    return InternalFault("the model could not be run; the server's log has the details")

"""What PostgreSQL complains of, as this server's errors, and whether trying again may help."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from server.errors import InternalFault, InvalidInput, NotFound, ServerError, StoreUnavailable
from server.index.postgres.options import Options

# The work was undone because of somebody else's; done again it will succeed.
LOST_RACES = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)
# The server goes down or comes up, or has too many guests for the moment.
COMING_AND_GOING = (
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.CannotConnectNow,
    pg.TooManyConnections,
    pg.ConnectionException,
)
NEVER_BETTER = (
    pg.InvalidPassword,
    pg.InvalidAuthorizationSpecification,
    pg.InvalidCatalogName,
)


def races_at_most(error: psycopg.Error) -> int:
    """Return how often work that failed so may have lost to others before it is given up."""
    if isinstance(error, pg.UndefinedTable):
        return 3  # a space that went meanwhile; if it is the collection, it stays so
    return 50 if isinstance(error, LOST_RACES) else 0


def went_away(error: psycopg.Error) -> bool:
    """Whether the server, or the way to it, is gone for the moment."""
    if isinstance(error, COMING_AND_GOING):
        return True
    if isinstance(error, NEVER_BETTER) or "authentication failed" in str(error):
        return False
    # libpq's own complaints carry no code: refused, reset, closed, no such socket, starting up.
    broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return broken and error.sqlstate is None and "does not exist" not in str(error)


def in_our_words(error: psycopg.Error, options: Options) -> ServerError:
    """Return what to raise for an error of PostgreSQL."""
    where, said = options.place, first_line(error)
    if isinstance(error, pg.UndefinedTable | pg.ForeignKeyViolation):
        return NotFound("the collection, or this space of it, was removed meanwhile")
    if isinstance(error, pg.QueryCanceled | pg.LockNotAvailable):
        return StoreUnavailable(
            f"{where} did not finish within {options.statement_timeout_s:g} s; "
            "raise statement_timeout_s in its URL, or narrow the query"
        )
    if isinstance(error, pg.InsufficientPrivilege):
        return StoreUnavailable(
            f"{where} forbids it: {said}; the account must own the schema {options.schema!r}, "
            "or be allowed to create it"
        )
    if isinstance(error, pg.DiskFull | pg.OutOfMemory):
        return StoreUnavailable(f"{where} is full: {said}; nothing of this call was kept")
    if isinstance(error, pg.DataError):
        return InvalidInput(f"{where} cannot keep this: {said}")
    if isinstance(error, pg.ReadOnlySqlTransaction):
        return StoreUnavailable(
            f"{where} is read-only, as standbys are: name the primary in its URL, or all of them "
            "with target_session_attrs=read-write"
        )
    if error.sqlstate is None or isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(f"{where} cannot be used: {said}")
    return InternalFault(f"{where} failed: {said}")


def first_line(error: psycopg.Error) -> str:
    """Return the complaint without its context; libpq's messages never hold the password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

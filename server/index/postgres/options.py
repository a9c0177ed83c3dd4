"""What a database's URL says: where it is, and how this server is to use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from server.errors import InvalidInput

SCHEMES = ("postgresql", "postgres")
SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Options:
    """A URL, taken apart."""

    conninfo: str  # for libpq; may hold a password, so never print it
    place: str  # for people: host and database
    schema: str = "millrace"
    pool_size: int = 8
    patience_s: float = 10.0  # how long a call waits for a server that restarts
    statement_timeout_s: float = 60.0
    index_from: int = 20_000  # vectors of a space; fewer are compared with one by one


def read_url(url: str) -> Options:
    """Read a database's URL.

    Raises:
        InvalidInput: another scheme, an option out of its range.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"the database's URL cannot be read: {error}") from error
    if parts.scheme not in SCHEMES:
        raise InvalidInput(
            f"a database is named by a URL that begins with postgresql://, not {parts.scheme!r}"
        )
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = given.pop("schema", "millrace")
    if not SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
        raise InvalidInput(
            f"schema {schema!r} in the database's URL: expected lower-case letters, digits and _"
        )
    pool_size = _number(given, "pool_size", 8.0, 1, 1000)
    patience = _number(given, "patience_s", 10.0, 0, 3600)
    timeout = _number(given, "statement_timeout_s", 60.0, 0.1, 86400)
    index_from = _number(given, "index_from", 20_000, 1, 1e12)
    host = given.get("host") or parts.hostname or "the local socket"
    database = parts.path.lstrip("/") or given.get("dbname", "")
    return Options(
        conninfo=urlunsplit(parts._replace(query=urlencode(given, quote_via=quote))),
        place=f"database {database!r} at {host}",
        schema=schema,
        pool_size=int(pool_size),
        patience_s=patience,
        statement_timeout_s=timeout,
        index_from=int(index_from),
    )


def _number(given: dict[str, str], name: str, default: float, low: float, high: float) -> float:
    text = given.pop(name, None)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InvalidInput(
            f"{name}={text!r} in the database's URL: expected a number from {low:g} to {high:g}"
        )
    return value

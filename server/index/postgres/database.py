"""Connections: a bounded number, made when needed, and work on them that outlives a restart."""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from server.errors import StoreUnavailable
from server.index.postgres.binary import Raw, RawDumper
from server.index.postgres.failures import in_our_words, races_at_most, went_away
from server.index.postgres.options import Options

T = TypeVar("T")
Statement = sql.SQL | sql.Composed

CONNECT_LIMIT_S = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5
LARGEST_EF_SEARCH = 1000
EXTENSIONS = "public"  # the schema in which pgvector is, unless the database says another

SETTINGS = {
    "hnsw.iterative_scan": "relaxed_order",  # goes on until there are enough that match
    "jit": "off",  # compiles longer than these queries run
    "idle_in_transaction_session_timeout": "600000",
    "work_mem": "65536",
}


class Connection(psycopg.Connection[TupleRow]):
    """A connection that knows what it has been set to."""

    ef_search = 0  # nothing has been set

    def use_ef_search(self, value: int) -> None:
        """Let searches of an index keep so many candidates from now on."""
        value = min(max(value, 1), LARGEST_EF_SEARCH)
        if self.ef_search != value:
            self.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(value),))
            self.ef_search = value


class Runner(ABC):
    """Something that work on a connection can be given to."""

    options: Options

    @abstractmethod
    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` does with a connection.

        Raises:
            ServerError: in words of this server.
        """

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` does within one transaction: all of it holds, or nothing."""

        def inside(connection: Connection) -> T:
            with connection.transaction():
                return work(connection)

        return self.run(inside)

    def rows(self, query: Statement, parameters: Any = None) -> list[TupleRow]:
        """Return what one statement answers."""
        return self.run(lambda connection: connection.execute(query, parameters).fetchall())

    def execute(self, query: Statement, parameters: Any = None) -> None:
        """Run one statement that answers nothing."""
        self.run(lambda connection: connection.execute(query, parameters) and None)


class Within(Runner):
    """One transaction, for work that is to hold or fall as a whole."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection, self.options = connection, options

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` does; there is no trying again."""
        try:
            return work(self._connection)
        except psycopg.Error as error:
            raise in_our_words(error, self.options) from error


class Database(Runner):
    """At most `pool_size` connections; each is lent to one thread at a time."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._search_path = self._path_to(EXTENSIONS)
        self._slots = threading.BoundedSemaphore(options.pool_size)
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._down_since: float | None = None
        self._closed = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` does with a connection; it is done again where that may help.

        So `work` must be such that twice is as good as once. Statements commit one by one unless
        it opens a transaction.

        Raises:
            ServerError: in words of this server.
        """
        races, pause = 0, FIRST_PAUSE_S
        while True:
            try:
                with self._lent() as connection:
                    result = work(connection)
            except psycopg.Error as error:
                if races < races_at_most(error):
                    races += 1
                elif not (went_away(error) and self._worth_waiting()):
                    raise in_our_words(error, self.options) from error
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._down_since = None
                return result

    def _worth_waiting(self) -> bool:
        """Whether the server has been away for less than our patience.

        Later calls then fail at their first attempt, instead of each waiting anew.
        """
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        return not self._closed and now - self._down_since < self.options.patience_s

    @contextmanager
    def _lent(self) -> Iterator[Connection]:
        if not self._slots.acquire(timeout=self.options.statement_timeout_s):
            raise StoreUnavailable(
                f"all {self.options.pool_size} connections to {self.options.place} are in use; "
                "raise pool_size in its URL, or send less at one time"
            )
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._slots.release()

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"{self.options.place} has been closed")
            if self._idle:
                return self._idle.pop()
        return self.connect()

    def _give_back(self, connection: Connection) -> None:
        clean = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if clean and not self._closed:
                self._idle.append(connection)
                return
            if connection.broken:  # a restart breaks all of them at once
                dead, self._idle = [*self._idle, connection], []
            else:
                dead = [connection]
        for each in dead:
            close(each)

    def connect(self, *, statement_timeout: bool = True) -> Connection:
        """Return a new connection.

        Raises:
            psycopg.Error: as libpq puts it.
        """
        limit_s = self.options.statement_timeout_s if statement_timeout else 0
        connection = Connection.connect(
            self.options.conninfo,
            autocommit=True,
            connect_timeout=CONNECT_LIMIT_S,
            fallback_application_name="millrace",  # the URL may say another
        )
        try:
            connection.adapters.register_dumper(Raw, RawDumper)
            settings = {
                **SETTINGS,
                "statement_timeout": str(round(limit_s * 1000)),
                "search_path": self._search_path,
            }
            each = sql.SQL(", ").join([sql.SQL("set_config(%s, %s, false)")] * len(settings))
            connection.execute(
                sql.SQL("SELECT {}").format(each),
                [part for pair in settings.items() for part in pair],
            )
        except BaseException:
            close(connection)
            raise
        return connection

    @contextmanager
    def apart(self, *, statement_timeout: bool = True) -> Iterator[Connection]:
        """Lend a connection outside the bound, and close it afterwards.

        Raises:
            ServerError: what PostgreSQL complains of, in words of this server.
        """
        try:
            connection = self.connect(statement_timeout=statement_timeout)
            try:
                yield connection
            finally:
                close(connection)
        except psycopg.Error as error:
            raise in_our_words(error, self.options) from error

    def place_extension(self, schema: str) -> None:
        """Look for pgvector's types and operators in `schema` as well."""
        if schema != EXTENSIONS:
            self._search_path = self._path_to(schema)
            self.forget_idle()

    def _path_to(self, schema: str) -> str:
        names = [sql.Identifier(each) for each in (self.options.schema, schema)]
        return sql.SQL(", ").join(names).as_string(None)

    def forget_idle(self) -> None:
        """Close the connections that nobody uses now."""
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            close(each)

    def close(self) -> None:
        """Close all; those that are lent close when they come back."""
        self._closed = True
        self.forget_idle()


def close(connection: Connection) -> None:
    """Close without a word; the connection may be broken already."""
    with suppress(psycopg.Error):
        connection.close()

"""What can be wrong with a database, said at the start; and servers that start together."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql

from benchmarks.common.postgres import PostgresServer
from server.errors import InternalFault, InvalidInput, LoadFailed, NotFound, StoreUnavailable
from server.index.contract import CollectionSpec, Store
from server.index.postgres import open_store, schema
from server.index.postgres.failures import in_our_words, went_away
from server.index.postgres.options import Options, read_url
from server.index.postgres.store import PostgresStore


def test_a_url_is_taken_apart() -> None:
    options = read_url(
        "postgresql://me:secret@host:5433/base?sslmode=require&schema=mine&pool_size=3"
        "&patience_s=0.5&statement_timeout_s=2&index_from=10"
    )
    assert options.conninfo == "postgresql://me:secret@host:5433/base?sslmode=require"
    assert (options.schema, options.pool_size, options.patience_s) == ("mine", 3, 0.5)
    assert (options.statement_timeout_s, options.index_from) == (2, 10)
    assert "secret" not in options.place
    with_spaces = read_url("postgresql://h/b?options=-c%20jit%3Doff").conninfo
    assert with_spaces == "postgresql://h/b?options=-c%20jit%3Doff"  # libpq knows no "+"
    assert read_url("postgres:///?host=/run&dbname=x").place == "database 'x' at /run"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/base", "mysql"),
        ("postgresql://[::1/base", "cannot be read"),
        ("postgresql://h/b?schema=Robert'); DROP", "schema"),
        ("postgresql://h/b?schema=pg_mine", "schema"),
        ("postgresql://h/b?pool_size=none", "pool_size"),
        ("postgresql://h/b?pool_size=0", "pool_size"),
        ("postgresql://h/b?patience_s=-1", "patience_s"),
        ("postgresql://h/b?statement_timeout_s=nan", "statement_timeout_s"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        open_store(url)


def test_a_server_that_is_not_there_is_said_without_the_password() -> None:
    with pytest.raises(StoreUnavailable, match="nowhere") as caught:
        open_store("postgresql://me:secret@/base?host=/nowhere&patience_s=0")
    assert "secret" not in caught.value.message


def test_an_option_that_libpq_does_not_know_is_said() -> None:
    with pytest.raises(StoreUnavailable, match="no_such_option"):
        open_store("postgresql:///base?no_such_option=1&patience_s=600")


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("server.index.postgres.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LoadFailed, match=r"\.\[similarity\]"):
        open_store("postgresql://h/b")


def test_a_database_that_is_not_there_is_not_waited_for(postgres: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_base"):
        open_store(postgres.url("no_such_base") + "&patience_s=600")


@pytest.fixture
def stranger(postgres: PostgresServer) -> str:
    """A URL of a database without pgvector, as somebody who may do nothing there."""
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS bare")
        admin.execute("DROP ROLE IF EXISTS stranger")
        admin.execute("CREATE DATABASE bare")
        admin.execute("CREATE ROLE stranger LOGIN")
    return postgres.url("bare").replace("postgres@", "stranger@")


def test_a_database_without_pgvector_says_what_to_do(stranger: str) -> None:
    with pytest.raises(StoreUnavailable, match="CREATE EXTENSION vector"):
        open_store(stranger)


def test_an_account_without_rights_says_which(postgres: PostgresServer, stranger: str) -> None:
    with psycopg.connect(postgres.url("bare"), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA elsewhere")
        admin.execute("CREATE EXTENSION vector WITH SCHEMA elsewhere")
        admin.execute("GRANT USAGE ON SCHEMA elsewhere TO stranger")
    with pytest.raises(StoreUnavailable, match="schema 'millrace'"):
        open_store(stranger)
    with psycopg.connect(postgres.url("bare"), autocommit=True) as admin:
        admin.execute("GRANT CREATE ON DATABASE bare TO stranger")
    store = open_store(stranger)
    assert store.create(CollectionSpec("a")).space("s", 3).state().vectors == 0
    store.close()


def test_an_old_pgvector_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_PGVECTOR", (99, 0))
    with pytest.raises(StoreUnavailable, match="ALTER EXTENSION"):
        open_store(url)


def test_a_schema_of_a_newer_release_is_left_alone(store: PostgresStore, url: str) -> None:
    store._database.execute(sql.SQL("INSERT INTO schema_version (step) VALUES (999)"))
    with pytest.raises(StoreUnavailable, match="newer Millrace"):
        open_store(url)


def test_servers_that_start_together_make_one_schema(url: str) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(open_store(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    opened[0].create(CollectionSpec("a"))
    assert [each.names() for each in opened] == [["a"]] * 4
    for each in opened:
        each.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        opened[0].names()


def test_a_pool_that_is_used_up_says_so(url: str) -> None:
    store = open_store(url.replace("pool_size=4", "pool_size=1"))
    assert isinstance(store, PostgresStore)
    database = store._database  # opening it may take longer than this; what follows is to
    database.options = replace(database.options, statement_timeout_s=0.3)
    with database._lent(), pytest.raises(StoreUnavailable, match="pool_size"):
        store.names()
    assert store.names() == []
    database._idle.pop().close()
    with pytest.raises(StoreUnavailable, match="statement_timeout_s"):
        database.rows(sql.SQL("SELECT pg_sleep(60)"))
    store.close()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (pg.UndefinedTable("x"), NotFound, "removed"),
        (pg.DiskFull("no space left"), StoreUnavailable, "nothing of this call was kept"),
        (pg.NumericValueOutOfRange("too large"), InvalidInput, "too large"),
        (pg.ReadOnlySqlTransaction("x"), StoreUnavailable, "primary"),
        (pg.IoError("bad sector"), StoreUnavailable, "bad sector"),
        (pg.SyntaxError(), InternalFault, "SyntaxError"),
        (psycopg.OperationalError("reset\nHINT"), StoreUnavailable, "reset"),
    ],
)
def test_errors_come_in_our_words(error: psycopg.Error, kind: type[Exception], said: str) -> None:
    told = in_our_words(error, Options("", "database 'x' at y"))
    assert type(told) is kind and said in told.message and "HINT" not in told.message


def test_what_goes_away_is_told_from_what_never_gets_better() -> None:
    assert went_away(pg.AdminShutdown()) and went_away(psycopg.OperationalError("refused"))
    assert not went_away(pg.InvalidPassword())
    assert not went_away(psycopg.OperationalError("password authentication failed"))
    assert not went_away(pg.SyntaxError())

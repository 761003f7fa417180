"""DOOR: a SQLite file, or a schema of a PostgreSQL database, spoken to in SQL that both understand.

    place = Place(url="sqlite:////data/run/ledger.sqlite")
    place = Place(url="postgresql+psycopg://host/parmflow", schema="run_1f3a")

SQLite: WAL with synchronous FULL, so that what was committed survives a power cut. PostgreSQL: a schema per
use, made when it is not there; passwords stay in ~/.pgpass. Writers take turns in both. SQLAlchemy finds the
driver and connects; statements go straight to the driver's cursor, which costs a fifth of the way through it.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.database_faults import complaint_about_address, fault_of
from pipeline.errors import SettingsError, StoreError

BUSY_SECONDS = 60.0
"""how long a writer waits for its turn, and anybody for a server that does not answer"""
_LOOK_SECONDS = 0.5
"""between two looks whether the server is back"""
_MANY = 500
"""rows per statement of `execute_many`"""
Value = TypeVar("Value")
Values = Mapping[str, Any]
_KEEPALIVES = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
_KEEPALIVES_OF_CLIENT = {
    **{name.removeprefix("tcp_"): value for name, value in _KEEPALIVES.items()},
    "connect_timeout": "10",
}
"""each side finds out within a minute that the other is gone; seconds"""
Backend = Literal["sqlite", "postgresql"]
_NOW: Mapping[Backend, str] = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a database is."""

    url: str
    """as SQLAlchemy writes it; without a password"""
    schema: str = ""
    """PostgreSQL only"""

    @classmethod
    def of_file(cls, path: Path) -> "Place":
        """A SQLite file."""
        return cls(url=f"sqlite:///{path.absolute()}")

    @property
    def backend(self) -> Backend:
        """The kind of database."""
        return "sqlite" if self.is_sqlite else "postgresql"

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file."""
        return self.url.startswith("sqlite:")

    @property
    def path(self) -> Path:
        """Of the file; SQLite only."""
        return Path(self.url.removeprefix("sqlite:///"))

    def __str__(self) -> str:
        """The file's path, or the address."""
        return self.url.removeprefix("sqlite:///") + (f" ({self.schema})" if self.schema else "")


def check_address(url: str) -> str:
    """Give back the address of a PostgreSQL database; SettingsError where it is none or holds a password."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:
        shown = re.sub(r".*@", "...@", url.partition("?")[0])  # it may hold a password
        raise SettingsError(f"{shown!r} is no address of a database; write postgresql://host/name") from error
    if parsed.get_backend_name() != "postgresql":
        raise SettingsError(f"{parsed.get_backend_name()}: databases are PostgreSQL or, by default, SQLite")
    if parsed.password or any("password" in name for name in parsed.query):
        raise SettingsError("the address of the database holds a password; keep it in ~/.pgpass instead")
    return parsed.set(drivername="postgresql+psycopg").render_as_string()


def without_nul(text: str) -> str:
    """PostgreSQL's texts cannot hold the character NUL."""
    return text.replace("\0", "\\0")


class _Answer(Protocol):
    def close(self) -> None: ...


def use_wal(execute: Callable[[str], _Answer]) -> None:
    """Switch a SQLite file to write-ahead logging by `execute`, waiting while another process has it locked.

    SQLite's own patience does not hold here: two that switch a new file at once would wait for each other,
    so one of them is told at once that it is locked. The answer is closed at once: while it is open SQLite
    takes the statement for one in progress and commits nothing.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


class Database:
    """One connection, used by one thread at a time; raises StoreError: locked, disk, corrupt or lost."""

    def __init__(
        self, place: Place, *, tables: str = "", read_only: bool = False, patient: bool = True
    ) -> None:
        """Connect, and make what is missing of the `tables` (SQL statements that end in `;`).

        A server that does not answer is waited for, if `patient`. SettingsError where it refuses us, and
        where there is no such host.
        """
        self.place = place
        self._in_transaction = False
        try:
            self._engine = self._make_engine(read_only)
        except (NoSuchModuleError, ImportError) as error:
            message = f"{place}: psycopg is not installed; pip install 'parmflow[postgres]'"
            raise StoreError(message, kind="missing") from error
        self._errors = (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error)
        self._driver: Any = None
        self._connection = self._patiently(self._connect, lambda: patient)
        try:
            self._prepare(tables, read_only)
        except BaseException:
            self.close()
            raise

    def _make_engine(self, read_only: bool) -> sqlalchemy.Engine:
        url = sqlalchemy.make_url("sqlite://" if self.place.is_sqlite else self.place.url)
        options: dict[str, Any] = {}
        if self.place.is_sqlite:
            options["timeout"] = BUSY_SECONDS
            path = str(self.place)  # set as a part of its own: it may hold what means something in an address
            url = url.set(database=path)
            if read_only:
                url = url.set(database=f"file:{quote(path)}", query={"uri": "true", "mode": "ro"})
        else:
            words = {
                "search_path": f'"{self.place.schema}"',
                "lock_timeout": f"{BUSY_SECONDS * 1000:.0f}",
                "default_transaction_read_only": "on" if read_only else "off",
                **_KEEPALIVES,  # the server's side: it frees the locks of a machine that vanished
            }
            options |= _KEEPALIVES_OF_CLIENT
            options["options"] = " ".join(f"-c {name}={value}" for name, value in words.items())
        return sqlalchemy.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=options
        )

    def _connect(self) -> sqlalchemy.Connection:
        try:
            return self._engine.connect()
        except SQLAlchemyError as error:
            if complaint := complaint_about_address(str(self.place), error):
                raise SettingsError(complaint) from error
            raise self._story(error) from error

    def _prepare(self, tables: str, read_only: bool) -> None:
        if read_only:
            return
        if self.place.is_sqlite:
            try:
                use_wal(self._cursor().execute)
            except sqlite3.Error as error:
                raise self._story(error) from error
            self.execute("PRAGMA synchronous=FULL")
        else:
            self._make_schema()
        if tables:
            self.together(lambda: self._make_tables(tables))

    def _make_tables(self, tables: str) -> None:
        for statement in filter(None, map(str.strip, tables.split(";"))):
            self.execute(statement)

    def _make_schema(self) -> None:
        """Make the schema if it is not there: who may use it need not have the right to make one."""
        there = "SELECT count(*) FROM pg_namespace WHERE nspname = :schema"
        if not self.number(there, schema=self.place.schema):
            # In a transaction: CREATE SCHEMA IF NOT EXISTS is no protection against a race.
            self.together(lambda: self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.place.schema}"'))

    def close(self) -> None:
        """Let go; what was committed is safe."""
        self._connection.close()
        self._engine.dispose()

    def drop(self) -> None:
        """Remove the schema and all that is in it; PostgreSQL only."""
        self.execute(f'DROP SCHEMA IF EXISTS "{self.place.schema}" CASCADE')

    def execute(self, sql: str, **values: Any) -> int:
        """Run a statement with `:name` for values; how many rows it touched.

        Outside a transaction it may run twice, when the server goes away between doing and answering: it must
        be one that twice does what it does once.
        """
        return int(self._answer(sql, values, lambda cursor: cursor.rowcount))

    def execute_many(self, sql: str, rows: Iterable[Values]) -> int:
        """Run a statement once per row, a few hundred at a time; how many rows were touched."""
        rows, n_touched = iter(rows), 0
        while some := list(islice(rows, _MANY)):
            try:
                cursor = self._cursor()
                cursor.executemany(self._spelt(sql), some)
                n_touched += cursor.rowcount
            except self._errors as error:
                raise self._story(error) from error
        return n_touched

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        found: list[tuple[Any, ...]] = self._answer(sql, values, lambda cursor: cursor.fetchall())
        return found

    def row(self, sql: str, **values: Any) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        found: tuple[Any, ...] | None = self._answer(sql, values, lambda cursor: cursor.fetchone())
        return found

    def number(self, sql: str, **values: Any) -> int:
        """The only value of a query that counts."""
        row = self.row(sql, **values)
        return int(row[0]) if row else 0

    def has_table(self, name: str) -> bool:
        """Whether a table is there."""
        where = (
            "sqlite_master WHERE type = 'table' AND name = :name"
            if self.place.is_sqlite
            else "pg_tables WHERE schemaname = current_schema AND tablename = :name"
        )
        return self.number(f"SELECT count(*) FROM {where}", name=name) > 0

    def now(self) -> float:
        """Seconds since 1970, UTC, by the one clock that all who share the database see."""
        row = self.row(_NOW[self.place.backend])
        assert row is not None
        return float(row[0])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing of it; a second writer waits. One within another is a part of it."""
        if self._in_transaction:
            yield
            return
        if self.place.is_sqlite:
            self.execute("BEGIN IMMEDIATE")
        else:
            self.execute("BEGIN")
        self._in_transaction = True
        try:
            if not self.place.is_sqlite:
                self.execute("SELECT pg_advisory_xact_lock(hashtext(:schema))", schema=self.place.schema)
            yield
        except BaseException:
            with contextlib.suppress(StoreError):  # the first error is the one to tell
                self.execute("ROLLBACK")
            raise
        else:
            self.execute("COMMIT")
        finally:
            self._in_transaction = False

    def together(self, work: Callable[[], Value]) -> Value:
        """Do work in a transaction, from its start again where the server goes away before its end.

        StoreError where it goes away at the end itself: nobody knows then whether the work is done.
        """
        at_its_end = False

        def attempt() -> Value:
            nonlocal at_its_end
            with self.transaction():
                value = work()
                at_its_end = True
            return value

        if self._in_transaction:
            return work()
        return self._patiently(attempt, lambda: not at_its_end)

    def passing(self, work: Callable[[], Value]) -> Value:
        """The same for what no power cut outlives, as who is at work: it waits for no disk."""
        if not self.place.is_sqlite:

            def undurable() -> Value:
                self.execute("SET LOCAL synchronous_commit TO off")
                return work()

            return self.together(undurable)
        self.execute("PRAGMA synchronous=NORMAL")
        try:
            return self.together(work)
        finally:
            self.execute("PRAGMA synchronous=FULL")

    def _patiently(self, ask: Callable[[], Value], may_ask_again: Callable[[], bool]) -> Value:
        """Ask until a server that went away is back, for a minute."""
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return ask()
            except StoreError as error:
                if error.kind != "lost" or not may_ask_again() or time.monotonic() > give_up:
                    raise
                time.sleep(_LOOK_SECONDS)

    def _spelt(self, sql: str) -> str:
        """The statement as the driver wants it; sqlite3 takes `:name` as it is."""
        return sql if self.place.is_sqlite else _spelt_for_psycopg(sql)

    def _cursor(self) -> Any:
        """A cursor of the driver; of a new connection where the last was lost."""
        if self._driver is None:
            self._driver = self._connection.connection.driver_connection
        return self._driver.cursor()

    def _answer(self, sql: str, values: Values, take: Callable[[Any], Any]) -> Any:
        """Run a statement and take from its cursor what is wanted; in a transaction its start would lack."""
        return self._patiently(
            lambda: self._answer_at_once(sql, values, take), lambda: not self._in_transaction
        )

    def _answer_at_once(self, sql: str, values: Values, take: Callable[[Any], Any]) -> Any:
        try:
            cursor = self._cursor()
            try:
                cursor.execute(self._spelt(sql), values)
                return take(cursor)
            finally:
                cursor.close()
        except self._errors as error:
            raise self._story(error) from error

    def _story(self, error: Exception) -> StoreError:
        """The driver's error as one that says what to do; after a lost connection the next is another."""
        if self._driver is not None and self._engine.dialect.is_disconnect(error, self._driver, None):  # type: ignore[arg-type]
            self._driver = None
            self._connection.invalidate()
        return fault_of(str(self.place), error)


@lru_cache(maxsize=256)
def _spelt_for_psycopg(sql: str) -> str:
    return re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", sql.replace("%", "%%"))

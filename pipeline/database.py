"""DOOR: a SQLite file, or a schema of a PostgreSQL database, spoken to in SQL that both understand.

    place = Place(url="sqlite:////data/run/ledger.sqlite")
    place = Place(url="postgresql+psycopg://host/parmflow", schema="run_1f3a")

SQLite: WAL with synchronous FULL, so that what was committed survives a power cut. PostgreSQL: a schema per
use, made when it is not there; passwords stay in ~/.pgpass. Writers take turns in both.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.errors import SettingsError, StoreError
from pipeline.store.database import use_wal

BUSY_SECONDS = 60.0
_MANY = 500
"""rows per statement of `execute_many`"""
_LOCKED = ("locked", "busy", "lock timeout", "deadlock")
_FULL = ("disk is full", "disk full", "disk i/o error", "no space left")
"""SQLite's and PostgreSQL's own words; a bare `full` would also be somebody's column or constraint"""
_BROKEN = ("malformed", "not a database")
_AWAY = ("connection", "server closed", "could not translate host")

Values = Mapping[str, Any]
_text = lru_cache(maxsize=256)(sqlalchemy.text)


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
    def is_sqlite(self) -> bool:
        """Whether this is a file."""
        return self.url.startswith("sqlite:")

    def __str__(self) -> str:
        """The file's path, or the address."""
        return self.url.removeprefix("sqlite:///") + (f" ({self.schema})" if self.schema else "")


def check_address(url: str) -> str:
    """Give back the address of a PostgreSQL database; SettingsError where it is none or holds a password."""
    try:
        parsed = sqlalchemy.make_url(url)
    except ArgumentError as error:
        raise SettingsError(f"{url!r} is no address of a database; write postgresql://host/name") from error
    if parsed.get_backend_name() != "postgresql":
        raise SettingsError(f"{parsed.get_backend_name()}: databases are PostgreSQL or, by default, SQLite")
    if parsed.password:
        raise SettingsError("the address of the database holds a password; keep it in ~/.pgpass instead")
    return parsed.set(drivername="postgresql+psycopg").render_as_string()


class Database:
    """One connection, used by one thread at a time; raises StoreError: locked, disk, corrupt or lost."""

    def __init__(self, place: Place, *, tables: str = "", read_only: bool = False) -> None:
        """Connect, and make what is missing of the `tables` (SQL statements that end in `;`)."""
        self.place = place
        self._in_transaction = False
        with self._told_apart():
            try:
                self._engine = self._make_engine(read_only)
            except (NoSuchModuleError, ImportError) as error:
                message = f"{place}: psycopg is not installed; pip install 'parmflow[postgres]'"
                raise StoreError(message, kind="missing") from error
            self._connection = self._engine.connect()
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
        elif read_only:
            options["options"] = "-c default_transaction_read_only=on"
        return sqlalchemy.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=options
        )

    def _prepare(self, tables: str, read_only: bool) -> None:
        if self.place.is_sqlite and not read_only:
            use_wal(self._connection.exec_driver_sql, sqlalchemy.exc.OperationalError)
            self._connection.exec_driver_sql("PRAGMA synchronous=FULL")
        if self.place.schema:
            if not read_only:
                with self.transaction():  # CREATE SCHEMA IF NOT EXISTS is no protection against a race
                    self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.place.schema}"')
            self._connection.exec_driver_sql(f'SET search_path TO "{self.place.schema}"')
        if tables and not read_only:
            with self.transaction():
                for statement in filter(None, map(str.strip, tables.split(";"))):
                    self.execute(statement)

    def close(self) -> None:
        """Let go; what was committed is safe."""
        self._connection.close()
        self._engine.dispose()

    def execute(self, sql: str, **values: Any) -> int:
        """Run a statement with `:name` for values; how many rows it touched."""
        with self._told_apart():
            return int(self._connection.execute(_text(sql), values).rowcount)

    def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Run a statement once per row, a few hundred at a time."""
        rows = iter(rows)
        while some := list(islice(rows, _MANY)):
            with self._told_apart():
                self._connection.execute(_text(sql), some)

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._told_apart():
            return [tuple(row) for row in self._connection.execute(_text(sql), values)]

    def row(self, sql: str, **values: Any) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        with self._told_apart():
            row = self._connection.execute(_text(sql), values).first()
        return None if row is None else tuple(row)

    def number(self, sql: str, **values: Any) -> int:
        """The only value of a query that counts."""
        row = self.row(sql, **values)
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing of it; a second writer waits. One within another is a part of it."""
        if self._in_transaction:
            yield
            return
        if self.place.is_sqlite:
            self._control("BEGIN IMMEDIATE")
        else:
            self._control("BEGIN")
            self.execute("SELECT pg_advisory_xact_lock(hashtext(:schema))", schema=self.place.schema)
        self._in_transaction = True
        try:
            yield
        except BaseException:
            with contextlib.suppress(StoreError):  # the first error is the one to tell
                self._control("ROLLBACK")
            raise
        else:
            self._control("COMMIT")
        finally:
            self._in_transaction = False

    def _control(self, statement: str) -> None:
        with self._told_apart():
            self._connection.exec_driver_sql(statement)

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Turn the driver's errors into a StoreError that says what to do."""
        try:
            yield
        except SQLAlchemyError as error:
            cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            words = cause.lower()
            if any(word in words for word in _LOCKED):
                raise StoreError(f"{self.place}: locked ({cause})", kind="locked", retryable=True) from error
            if any(word in words for word in _FULL):
                message = f"{self.place}: the disk is full or fails ({cause}); free space and repeat"
                raise StoreError(message, kind="disk") from error
            if any(word in words for word in _BROKEN):
                message = f"{self.place}: not a readable database ({cause})"
                raise StoreError(message, kind="corrupt") from error
            if any(word in words for word in _AWAY):
                message = f"{self.place}: the database does not answer ({cause}); repeat when it does"
                raise StoreError(message, kind="lost", retryable=True) from error
            raise StoreError(f"{self.place}: {cause}") from error
        except BaseException:
            # Ctrl-C in mid-statement: SQLAlchemy dropped the connection; it opens another when asked.
            if self._connection.invalidated:
                self._connection.rollback()
            raise

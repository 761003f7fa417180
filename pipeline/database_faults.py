"""What a driver's error about a database means, from its words: SQLite's and PostgreSQL's."""

import re

from sqlalchemy.exc import DBAPIError

from pipeline.errors import StoreError

_LOCKED = ("locked", "busy", "lock timeout", "deadlock")
_FULL = ("disk is full", "disk full", "disk i/o error", "no space left")
"""SQLite's and PostgreSQL's own words; a bare `full` would also be somebody's column or constraint"""
_BROKEN = ("malformed", "not a database")
_AWAY = ("connection", "server closed", "could not translate host", "failed to resolve host")
_NO_SUCH_HOST = ("[errno -2]", "name or service not known")
"""unlike a name server that does not answer; in an address that never worked a slip of the pen"""
_REFUSED = (
    (r"password authentication failed", "check the user in the address and its password in ~/.pgpass"),
    (r"no password supplied", "write this user's password into ~/.pgpass"),
    (r'role "[^"]*" |authentication failed', "check the user in the address"),
    (r'database "[^"]*" does not exist', "check its name in the address, or make it with createdb"),
    (r"permission denied for database", "let this user connect to it (GRANT CONNECT)"),
    (r"no pg_hba.conf entry", "let the server's pg_hba.conf admit this user from this machine"),
)
"""PostgreSQL's words when it answers with a refusal (SQLSTATE 28 and 3D, which its client library does not
hand on), and what to change"""


def fault_of(place: str, error: Exception) -> StoreError:
    """The driver's error as one that says what to do: locked, disk, corrupt, refused or lost."""
    cause = _cause(error)
    words = cause.lower()
    if any(word in words for word in _LOCKED):
        return StoreError(f"{place}: locked ({cause})", kind="locked", retryable=True)
    if any(word in words for word in _FULL):
        message = f"{place}: the disk is full or fails ({cause}); free space and repeat"
        return StoreError(message, kind="disk")
    if any(word in words for word in _BROKEN):
        return StoreError(f"{place}: not a readable database ({cause})", kind="corrupt")
    for refusal, advice in _REFUSED:
        if re.search(refusal, words) and "connection failed" in words:
            return StoreError(f"{place}: the database refuses us ({cause}); {advice}", kind="refused")
    if any(word in words for word in _AWAY):
        message = f"{place}: the database does not answer ({cause}); repeat when it does"
        return StoreError(message, kind="lost", retryable=True)
    return StoreError(f"{place}: {cause}")


def complaint_about_address(place: str, error: Exception) -> str:
    """What to change where nobody can connect so: no such host, or a refusal; empty for all else."""
    cause = _cause(error)
    if any(word in cause.lower() for word in _NO_SUCH_HOST):
        return f"{place}: no such host ({cause}); check the host in the address"
    fault = fault_of(place, error)
    return str(fault) if fault.kind == "refused" else ""


def _cause(error: Exception) -> str:
    """The driver's words, in one line."""
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())

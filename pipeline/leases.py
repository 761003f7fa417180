"""Who works on which record of a run, until when; so that several workers share one ledger.

A lease has an owner, an end and a token that grows with every lease. Who settles a record under another token
than the record's is too late, and nothing is written: a worker that was only thought dead changes nothing.
Clocks may jump: then a record is perhaps computed twice, and still settled once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.database import Database

LEASE_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (name TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS leases (id TEXT PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL,
    until DOUBLE PRECISION NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to settle some records."""

    owner: str
    token: int


NO_LEASE = Lease(owner="", token=0)
"""of who works alone and need not ask"""


class Leases:
    """The leases on the records of one ledger."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        """`now` gives UTC seconds."""
        self._database, self._now = database, now
        self._renewed: dict[int, tuple[float, float]] = {}

    def take(self, numbers: Iterable[int], owner: str, seconds: float) -> tuple[Lease, list[int]]:
        """Lease those of the records that are undone and free, run out, or leased by this very owner.

        Gives the lease and the numbers that it is on, in order.
        """
        database = self._database

        def take() -> tuple[int, float, list[int]]:
            now, taken = self._now(), []
            database.execute(
                "INSERT INTO tokens VALUES ('lease', 1)"
                " ON CONFLICT (name) DO UPDATE SET last = tokens.last + 1"
            )
            token = database.number("SELECT last FROM tokens")
            for number in sorted(numbers):
                row = database.row(
                    "SELECT records.id FROM records LEFT JOIN outcomes ON outcomes.id = records.id"
                    " LEFT JOIN leases ON leases.id = records.id WHERE number = :number AND status IS NULL"
                    " AND (until IS NULL OR until < :now OR owner = :owner)",
                    number=number,
                    now=now,
                    owner=owner,
                )
                if row is not None:
                    taken.append((number, row[0]))
            database.execute_many(
                "INSERT INTO leases VALUES (:id, :owner, :token, :until) ON CONFLICT (id) DO UPDATE SET"
                " owner = excluded.owner, token = excluded.token, until = excluded.until",
                ({"id": id_, "owner": owner, "token": token, "until": now + seconds} for _, id_ in taken),
            )
            return token, now, [number for number, _ in taken]

        token, now, mine = database.together(take)
        self._renewed[token] = (now, seconds)
        return Lease(owner=owner, token=token), mine

    def keep(self, lease: Lease) -> None:
        """Put off the end of a lease of which a third is over; for who is at work on it to call often."""
        renewed, seconds = self._renewed.get(lease.token, (self._now(), 0.0))
        now = self._now()
        if now - renewed > seconds / 3 > 0:
            self._renewed[lease.token] = (now, seconds)
            self._database.execute(
                "UPDATE leases SET until = :until WHERE token = :token",
                until=now + seconds,
                token=lease.token,
            )

    def holds(self, lease: Lease, id_: str) -> bool:
        """Whether who has this lease may still settle a record."""
        if lease == NO_LEASE:
            return True
        return self._database.row("SELECT token FROM leases WHERE id = :id", id=id_) == (lease.token,)

    def end(self, id_: str) -> None:
        """End the lease of one record."""
        self._database.execute("DELETE FROM leases WHERE id = :id", id=id_)

    def release(self, lease: Lease) -> None:
        """Give up what is left of a lease."""
        self._renewed.pop(lease.token, None)
        self._database.execute("DELETE FROM leases WHERE token = :token", token=lease.token)

    def release_all(self) -> int:
        """Drop all leases, when nobody else can be at work; how many there were."""
        return self._database.execute("DELETE FROM leases")

    def running(self) -> list[tuple[int, str]]:
        """Number and owner of every record on which somebody has a lease now, in input order."""
        rows = self._database.rows(
            "SELECT number, owner FROM records JOIN leases ON leases.id = records.id"
            " WHERE until >= :now ORDER BY number",
            now=self._now(),
        )
        return [(int(row[0]), str(row[1])) for row in rows]

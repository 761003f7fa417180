"""A batch of ligands in one output folder: every record ends as one Outcome, interrupted or not.

The ledger is the truth. Work runs in threads that only wait for child processes; the ledger is written by the
thread that asked for the work, record by record, so that nothing finished is lost or done twice.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from pipeline.leases import NO_LEASE, Lease
from pipeline.ledger import Ledger
from pipeline.ledger_values import Prepared
from pipeline.library import Record
from pipeline.names import shard_of
from pipeline.outcome import Delivered, Failure, Outcome
from pipeline.outcomes_table import PARTS, write_outcomes
from pipeline.parametrize import attempt
from pipeline.schema import FloatArray, MMParameters

Item = TypeVar("Item")
Value = TypeVar("Value")

LIBRARY_FILE = "library.offxml"
LEASE_SECONDS = 3600.0
"""renewed while its owner is at work"""


class Watch(Protocol):
    """Is told how a run goes: progress bars on a terminal, lines in a log, an artifact in Prefect."""

    def begin(self, stage: str, total: int) -> None:
        """A stage begins with so many pieces of work."""

    def advance(self, stage: str) -> None:
        """One piece of a stage's work is done."""

    def say(self, sentence: str) -> None:
        """Something the user should read."""


class Silent:
    """A watch that nobody looks at."""

    def begin(self, stage: str, total: int) -> None:
        """Say nothing."""

    def advance(self, stage: str) -> None:
        """Say nothing."""

    def say(self, sentence: str) -> None:
        """Say nothing."""


class Line(Protocol):
    """The steps for one ligand, see `pipeline.parametrize`; each raises on failure."""

    def prepare(self, record: Record) -> Prepared:
        """Standardise a record."""

    def predict(self, ligands: Sequence[Prepared]) -> list[MMParameters]:
        """Checked parameters, in canonical order; the same in one call as one by one."""

    def conformer(self, prepared: Prepared) -> FloatArray:
        """One conformer (n_atoms, 3), angstrom, in canonical order."""

    def deliver(self, prepared: Prepared, parameters: MMParameters, coords: FloatArray, folder: Path) -> None:
        """Write, read back and weigh the files."""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One run in one folder."""

    folder: Path
    ledger: Ledger
    line: Line
    watch: Watch
    clock: Callable[[], float]
    """monotonic seconds"""
    jobs: int
    """ligands in work at the same time"""
    owner: str = "alone"
    """who we are among those who share the ledger"""
    lease: Lease = NO_LEASE
    """on the records in work"""


def begin_work(campaign: Campaign) -> list[int]:
    """Numbers of the records still to do; with any, the tables of an earlier end are taken away."""
    campaign.ledger.leases.release_all()  # we have the folder's lock: who had them is dead
    for part in campaign.folder.glob(PARTS):
        part.unlink(missing_ok=True)
    undone = campaign.ledger.numbers(status="undone")
    n_records = campaign.ledger.n_records()
    if undone:
        for name in ("outcomes.csv", "outcomes.parquet", "fits.csv", LIBRARY_FILE):
            (campaign.folder / name).unlink(missing_ok=True)
    if len(undone) < n_records:
        campaign.watch.say(f"{n_records - len(undone)} of {n_records} records are done already.")
    return undone


def finish_run(campaign: Campaign) -> dict[str, int]:
    """Write the tables of a run in which every record has its outcome; how many there are of which status."""
    ledger = campaign.ledger
    n_records, n_ok = ledger.n_records(), ledger.n_outcomes(status="ok")
    if ledger.n_outcomes() != n_records:
        raise RuntimeError(
            f"{n_records} records but {ledger.n_outcomes()} outcomes: this is a bug in parmflow"
        )
    write_outcomes(ledger.outcomes(), campaign.folder)
    return {"n_records": n_records, "n_ok": n_ok, "n_failed": n_records - n_ok}


# ---- the work ----


def each(
    campaign: Campaign, stage: str, items: Iterable[Item], work: Callable[[Item], Value], *, ahead: int = 0
) -> Generator[tuple[Item, Value, float], None, None]:
    """Do the work of every item, a few at a time; gives item, value and seconds in the order they end.

    Only a few items are in memory at once; `ahead` of them wait for a worker, which then does not wait for
    them where they take time to make. On Ctrl-C the items in work are finished and given, the others not
    begun; after a second one nothing more is given.
    """
    most = max(2 * campaign.jobs, ahead)

    def timed(item: Item) -> tuple[Item, Value, float]:
        start = campaign.clock()
        value = work(item)
        return item, value, campaign.clock() - start

    with ThreadPoolExecutor(max_workers=campaign.jobs, thread_name_prefix=stage) as pool:
        running: set[Future[tuple[Item, Value, float]]] = set()
        try:
            for item in items:
                running.add(pool.submit(timed, item))
                if len(running) >= most:
                    yield from _ended(running)
            while running:
                yield from _ended(running)
        except KeyboardInterrupt:
            running -= {future for future in running if future.cancel()}
            while running:
                yield from _ended(running)
            raise
        finally:  # an error, a second Ctrl-C, or a consumer that stopped
            for future in running:
                future.cancel()


def _ended(running: set[Future[tuple[Item, Value, float]]]) -> Iterator[tuple[Item, Value, float]]:
    """Wait until something ends, take it out of `running`, and give it."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        running.remove(future)
        yield future.result()


@contextlib.contextmanager
def leased(campaign: Campaign, numbers: Iterable[int]) -> Iterator[tuple[Campaign, list[int]]]:
    """Take those of the records that nobody else is at work on; the campaign that may settle them."""
    leases = campaign.ledger.leases
    lease, mine = leases.take(numbers, campaign.owner, LEASE_SECONDS)
    try:
        yield dataclasses.replace(campaign, lease=lease), mine
    finally:
        leases.release(lease)


def end(
    campaign: Campaign, numbered: tuple[str, Record], ending: Failure | Delivered, stage: str, seconds: float
) -> None:
    """Note the last stage of a record, given with its id, and settle it, in one piece."""
    id_, record = numbered

    def both() -> None:
        note(campaign, id_, stage, ending, seconds)
        settle(campaign, id_, record, ending)

    campaign.ledger.together(both)


def note(campaign: Campaign, id_: str, stage: str, ending: object, seconds: float) -> None:
    """Write into the history that a record went through a stage, whether it failed there or not."""
    if isinstance(ending, Failure):
        campaign.ledger.history.note(id_, ending.stage, seconds, ending.kind, ending.message)
    else:
        campaign.ledger.history.note(id_, stage, seconds)
    campaign.ledger.leases.keep(campaign.lease)


def settle(campaign: Campaign, id_: str, record: Record, ending: Failure | Delivered) -> None:
    """Write what became of a record."""
    failure = ending if isinstance(ending, Failure) else None
    if not campaign.ledger.leases.holds(campaign.lease, id_):
        return  # another has taken it over, or settled it
    if failure:
        shutil.rmtree(campaign.folder / ligand_folder(id_), ignore_errors=True)
    outcome = Outcome(
        record=record.number,
        name=record.name,
        id=id_,
        folder="" if isinstance(ending, Failure) else ending.folder,
        status="failed" if failure else "ok",
        stage=failure.stage if failure else "",
        kind=failure.kind if failure else "",
        message=ending.message if isinstance(ending, Failure) else ending.warning,
        seconds=campaign.ledger.history.seconds(id_),
    )
    campaign.ledger.settle(outcome, failure, campaign.lease)


def ligand_folder(id_: str) -> str:
    """Where a ligand's files are, relative to the run's folder."""
    return f"ligands/{shard_of(id_)}/{id_}"


def prepare_record(line: Line, record: Record) -> Prepared | Failure:
    """Standardise a record, or say why not."""
    return attempt(record.name, "read" if record.problem else "standardise", line.prepare, record)


def with_note(failure: Failure, prepared: Prepared) -> Failure:
    """Why a standardised record failed, after what was left out of it or changed in it."""
    return dataclasses.replace(failure, message="; ".join(filter(None, (prepared.note, failure.message))))


def pose(line: Line, prepared: Prepared) -> FloatArray | Failure:
    """Coordinates (n_atoms, 3) to deliver, angstrom, record's order: its own, else one conformer's."""
    if prepared.pose is not None:
        return prepared.pose
    conformer = attempt(prepared.ligand.name, "conformers", line.conformer, prepared)
    if isinstance(conformer, Failure):
        return with_note(conformer, prepared)
    return in_order_of(prepared, conformer)


def in_order_of(prepared: Prepared, coords: FloatArray) -> FloatArray:
    """Bring coordinates (n_atoms, 3) from canonical order into the record's."""
    return coords[np.argsort(prepared.order)]


def deliver_record(
    campaign: Campaign, id_: str, prepared: Prepared, parameters: MMParameters, coords: FloatArray
) -> Delivered | Failure:
    """Write a ligand's files with these coordinates (in its order); where they are, or why not."""
    folder = ligand_folder(id_)
    path = campaign.folder / folder
    shutil.rmtree(path, ignore_errors=True)
    problem = attempt(
        prepared.ligand.name, "deliver", campaign.line.deliver, prepared, parameters, coords, path
    )
    if isinstance(problem, Failure):
        return with_note(problem, prepared)
    sure = parameters.confidence
    if sure is not None and prepared.charges is not None:
        sure = sure.without_charges()
    return Delivered(folder=folder, doubt=sure.doubts if sure else "", note=prepared.note)

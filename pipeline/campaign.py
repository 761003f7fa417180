"""A batch of ligands in one output folder: every record ends as one Outcome, interrupted or not.

The ledger is the truth. Work runs in threads that only wait for child processes; the ledger is written by the
thread that asked for the work, record by record, so that nothing finished is lost or done twice.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import OutputFolderError
from pipeline.ledger import Ledger, Prepared
from pipeline.library import Record
from pipeline.names import record_id, shard_of
from pipeline.outcome import Failure, Outcome
from pipeline.outcomes_table import write_outcomes
from pipeline.parametrize import attempt
from pipeline.schema import FloatArray, MMParameters

Item = TypeVar("Item")
Value = TypeVar("Value")

STATE_FOLDER = ".parmflow"
LIBRARY_FILE = "library.offxml"


class Watch(Protocol):
    """Is told how a run goes: progress bars on a terminal, lines in a log, an artifact in Prefect."""

    def begin(self, stage: str, total: int) -> None:
        """A stage begins with so many pieces of work."""

    def advance(self, stage: str) -> None:
        """One piece of a stage's work is done."""

    def say(self, sentence: str) -> None:
        """Something the user should read."""


class Line(Protocol):
    """The steps for one ligand, see `pipeline.parametrize`; each raises on failure."""

    def prepare(self, record: Record) -> Prepared:
        """Standardise a record."""

    def predict(self, prepared: Prepared) -> MMParameters:
        """Checked parameters, in canonical order."""

    def pose(self, prepared: Prepared) -> FloatArray:
        """Coordinates (n_atoms, 3) to deliver, angstrom, in the record's order."""

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


# ---- the folder ----


def check_folder(folder: Path) -> None:
    """Say whether a run can be kept in this folder, without making it: OutputFolderError when it cannot."""
    try:
        if folder.is_dir() and not (folder / STATE_FOLDER).is_dir() and any(folder.iterdir()):
            raise OutputFolderError(f"{folder} is not empty and holds no parmflow run; choose another folder")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            reason = "may not be written" if there.is_dir() else "is no folder"
            raise OutputFolderError(f"{folder}: cannot be written ({there} {reason})")
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of an output folder, making both where there is none.

    Raises OutputFolderError when the folder cannot be written or holds something else than a run.
    """
    check_folder(folder)
    state = folder / STATE_FOLDER
    try:
        state.mkdir(parents=True, exist_ok=True)
        return Ledger(state / "ledger.sqlite")
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def compare_identity(campaign: Campaign, identity: dict[str, Any]) -> None:
    """Drop everything that an earlier run in this folder computed under other conditions, and say so.

    `identity` is all that decides results besides the library: command, settings, model, programs.
    """
    ledger = campaign.ledger
    before = json.loads(ledger.recall("identity", "null"))
    now = json.loads(json.dumps(identity))
    if before is not None and before != now:
        campaign.watch.say(
            f"{campaign.folder} holds a run that differs in {'; '.join(_differences(before, now))}. "
            "Everything is computed anew; QM results stay in the store."
        )
        _remove_ligand_folders(campaign, ledger.forget_everything())
    ledger.remember("identity", json.dumps(now, sort_keys=True))


def take_in(campaign: Campaign, records: Iterable[Record]) -> None:
    """Make these records the run's library; what is gone from it goes from the folder."""
    ledger = campaign.ledger
    n_before = ledger.n_records()
    n_new, n_gone, folders = ledger.take_in(_identified(records))
    if n_before and (n_new or n_gone):
        campaign.watch.say(
            f"The library is not that of the run in {campaign.folder}: {n_new} records new, {n_gone} gone."
        )
    _remove_ligand_folders(campaign, folders)


def begin_work(campaign: Campaign) -> list[int]:
    """Numbers of the records still to do; with any, the tables of an earlier end are taken away."""
    undone = campaign.ledger.numbers(status="undone")
    n_records = campaign.ledger.n_records()
    if undone:
        for name in ("outcomes.csv", "outcomes.parquet", "fits.csv", LIBRARY_FILE):
            (campaign.folder / name).unlink(missing_ok=True)
    if len(undone) < n_records:
        campaign.watch.say(f"{n_records - len(undone)} of {n_records} records are done already.")
    return undone


def _differences(before: object, now: object, where: str = "") -> list[str]:
    """The dotted names of what differs between two nested tables, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{where} ({before} -> {now})"]


def _identified(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    """Give every record its id; the same text under the same name twice is told apart by its occurrence."""
    seen: dict[tuple[str, str], int] = {}
    for record in records:
        content = f"{record.form}\n{record.text}\n{record.problem}"
        occurrence = seen.get((record.name, content), 0)
        seen[record.name, content] = occurrence + 1
        yield record_id(record.name, content, occurrence), record


def _remove_ligand_folders(campaign: Campaign, folders: Iterable[str]) -> None:
    for folder in folders:
        shutil.rmtree(campaign.folder / folder, ignore_errors=True)


def finish_run(campaign: Campaign) -> list[Outcome]:
    """Write the tables of a run in which every record has its outcome."""
    outcomes = campaign.ledger.outcomes()
    n_records = campaign.ledger.n_records()
    if len(outcomes) != n_records:
        raise RuntimeError(f"{n_records} records but {len(outcomes)} outcomes: this is a bug in parmflow")
    write_outcomes(outcomes, campaign.folder)
    return outcomes


# ---- the work ----


def each(
    campaign: Campaign, stage: str, items: Iterable[Item], work: Callable[[Item], Value]
) -> Iterator[tuple[Item, Value, float]]:
    """Do the work of every item, a few at a time; gives item, value and seconds in the order they end.

    Only a few items are in memory at once. On Ctrl-C the items in work are finished and given, the
    others not begun; after a second one nothing more is given.
    """

    def timed(item: Item) -> tuple[Item, Value, float]:
        start = campaign.clock()
        value = work(item)
        return item, value, campaign.clock() - start

    with ThreadPoolExecutor(max_workers=campaign.jobs, thread_name_prefix=stage) as pool:
        running: set[Future[tuple[Item, Value, float]]] = set()
        try:
            for item in items:
                running.add(pool.submit(timed, item))
                if len(running) >= 2 * campaign.jobs:
                    yield from _ended(campaign, stage, running)
            while running:
                yield from _ended(campaign, stage, running)
        except KeyboardInterrupt:
            running -= {future for future in running if future.cancel()}
            while running:
                yield from _ended(campaign, stage, running)
            raise
        finally:  # an error, a second Ctrl-C, or a consumer that stopped
            for future in running:
                future.cancel()


def _ended(
    campaign: Campaign, stage: str, running: set[Future[tuple[Item, Value, float]]]
) -> Iterator[tuple[Item, Value, float]]:
    """Wait until something ends, take it out of `running`, and give it."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        running.remove(future)
        campaign.watch.advance(stage)
        yield future.result()


def settle(campaign: Campaign, id_: str, record: Record, ending: Failure | str) -> None:
    """Write what became of a record: a Failure, or the folder where its files are, relative to the run's."""
    failure = ending if isinstance(ending, Failure) else None
    if failure:
        shutil.rmtree(campaign.folder / ligand_folder(id_), ignore_errors=True)
    outcome = Outcome(
        record=record.number,
        name=record.name,
        id=id_,
        folder="" if isinstance(ending, Failure) else ending,
        status="failed" if failure else "ok",
        stage=failure.stage if failure else "",
        kind=failure.kind if failure else "",
        message=failure.message if failure else "",
        seconds=campaign.ledger.spend(id_, 0.0),
    )
    campaign.ledger.settle(outcome, failure)


def ligand_folder(id_: str) -> str:
    """Where a ligand's files are, relative to the run's folder."""
    return f"ligands/{shard_of(id_)}/{id_}"


def prepare_record(line: Line, record: Record) -> Prepared | Failure:
    """Standardise a record, or say why not."""
    return attempt(record.name, "read" if record.problem else "standardise", line.prepare, record)


def deliver_record(
    campaign: Campaign, id_: str, prepared: Prepared, parameters: MMParameters
) -> str | Failure:
    """Give a ligand its coordinates and write its files; the folder, or why not."""
    name = prepared.ligand.name
    coords = attempt(name, "conformers", campaign.line.pose, prepared)
    if isinstance(coords, Failure):
        return coords
    folder = ligand_folder(id_)
    path = campaign.folder / folder
    shutil.rmtree(path, ignore_errors=True)
    problem = attempt(name, "deliver", campaign.line.deliver, prepared, parameters, coords, path)
    return problem if isinstance(problem, Failure) else folder


def assign(campaign: Campaign, numbers: Iterable[int]) -> None:
    """Parametrise these records by the shipped model alone, one by one, and settle each."""

    def assign_one(numbered: tuple[str, Record]) -> str | Failure:
        id_, record = numbered
        prepared = prepare_record(campaign.line, record)
        if isinstance(prepared, Failure):
            return prepared
        parameters = attempt(record.name, "predict", campaign.line.predict, prepared)
        if isinstance(parameters, Failure):
            return parameters
        return deliver_record(campaign, id_, prepared, parameters)

    numbers = list(numbers)
    campaign.watch.begin("assign", len(numbers))
    undone = (campaign.ledger.record(number) for number in numbers)
    for (id_, record), ending, seconds in each(campaign, "assign", undone, assign_one):
        campaign.ledger.spend(id_, seconds)
        settle(campaign, id_, record, ending)

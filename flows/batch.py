"""Open a run's folder with the real doors in place, and walk the straight line through it.

The plain command and the Prefect flow both come here; they differ only in who calls the phases.
"""

import contextlib
import fcntl
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from flows import qm_bench
from flows.fits_plot import write_fits_plot
from flows.fragments_picture import write_fragment_pictures
from flows.notify import Herald
from flows.request import Request
from models.predict import Predictor, load_predictor
from pipeline.assign import assign
from pipeline.campaign import Campaign, Watch, begin_work, finish_run
from pipeline.deliver import missing_programs
from pipeline.errors import LibraryFileError, OutputFolderError, SettingsError, UsageError
from pipeline.ledger import Ledger
from pipeline.library import Record, read_library
from pipeline.library_delivery import write_library
from pipeline.machine import usable_cores
from pipeline.outcomes_table import write_json
from pipeline.parametrize import StraightLine
from pipeline.process.child import Isolate, run_in_child
from pipeline.process.crew import Crew
from pipeline.refine import molecules, plan, refine
from pipeline.refine_bench import Bench
from pipeline.rerun import compare_identity, take_in, would_change
from pipeline.run_folder import STATE_FOLDER, check_folder, discard, ledger_place, open_ledger
from pipeline.schema import CONVENTIONS_VERSION, Ligand
from pipeline.settings import Form, NotifySettings, Settings

_PROGRAMS = ("parmflow", "rdkit", "torch", "numpy", "openmm")
"""Programs whose versions decide the numbers; the QM programs' are in the provenance of each result."""

Doors = TypeVar("Doors")

OUT_OF_BUDGET = "budget"
"""kind of failure of a ligand whose QM was not begun for lack of budget"""
FRAGMENT_FOLDER = "fragments"

_NOT_DECISIVE: dict[str, bool | set[str]] = {
    "jobs": True,
    "model": True,
    "notify": True,
    "qm": {"budget_seconds", "over_budget", "server"},
    "export": {"library_offxml_limit"},
}
"""Settings that change how fast or far a run goes, not what comes out; the model's hash stands for it."""


@lru_cache(maxsize=2)
def predictor_of(name: str, form: Form) -> Predictor:
    """Load the weights once per process; one thread, so that sums come out the same on every machine."""
    torch.set_num_threads(1)
    return load_predictor(name, form)


def n_jobs(settings: Settings) -> int:
    """Worker processes: as asked, else one per core that we may use."""
    return settings.jobs or usable_cores()


def identity_of(request: Request) -> dict[str, Any]:
    """All that decides a run's results besides its library; what run.json says and a second run compares.

    Raises SettingsError for formats asked for by name that cannot hold what this model gives.
    """
    predictor = predictor_of(request.settings.model, request.settings.form)
    request.settings.check_pairs(has_pairs=predictor.has_pairs)
    settings = request.settings.model_dump(mode="json", exclude=_NOT_DECISIVE)
    if request.command == "assign":  # it computes no QM and tunes nothing
        settings = {
            name: value for name, value in settings.items() if name not in ("qm", "fine_tune", "fragments")
        }
    return {
        "command": request.command,
        "settings": settings,
        "model": {"name": predictor.name, "version": predictor.version, "sha256": predictor.sha256},
        "conventions": CONVENTIONS_VERSION,
        "programs": {name: version(name) for name in _PROGRAMS},
    }


def provenance_of(identity: dict[str, Any], level: str) -> tuple[tuple[str, str], ...]:
    """The same as sorted pairs of words, for the files of each ligand."""
    model = identity["model"]
    pairs = {
        "command": identity["command"],
        "conventions": identity["conventions"],
        "model": f"{model['name']}/{model['version']}",
        "model_sha256": model["sha256"],
    } | {f"version_{name}": number for name, number in identity["programs"].items()}
    if level:
        pairs["qm_level"] = level
    if identity["settings"]["charges"] != "model":
        pairs["charges"] = identity["settings"]["charges"]
    return tuple(sorted(pairs.items()))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the system drops the lock when we die, however we die."""
    with (folder / STATE_FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{folder}: another parmflow is at work here; wait until it ends"
            raise OutputFolderError(message) from error
        yield


def line_of(request: Request, isolate: Isolate) -> StraightLine:
    """The steps for one ligand with the real doors in place; SettingsError where a program is missing."""
    missing = missing_programs(request.settings.export)
    if missing:
        raise SettingsError(
            f"--check all: not installed: {', '.join(missing)}; install what is missing (see README), leave "
            "its format out, or check in-process"
        )
    _check_charges(request)
    level = qm_bench.specs_of(request.settings)[0].level if request.command == "refine" else ""
    return StraightLine(
        predictor=predictor_of(request.settings.model, request.settings.form),
        settings=request.settings,
        provenance=provenance_of(identity_of(request), level),
        isolate=isolate,
    )


def _check_charges(request: Request) -> None:
    """SettingsError for charges that the command does not have."""
    if request.command == "refine" and request.settings.charges == "input":
        raise SettingsError("--charges input: `refine` has one set of charges per molecule; use `assign`")
    if request.command == "assign" and request.settings.charges == "resp":
        raise SettingsError("--charges resp: `assign` computes no QM; use `refine`")


@contextlib.contextmanager
def open_campaign(request: Request, watch: Watch, owner: str = "alone") -> Iterator[Campaign]:
    """The run of a request: ledger open, real doors in place. Whatever is wrong with the request is said
    before the folder is made. `owner` takes over what an earlier one of this name left in work.
    """
    with contextlib.ExitStack() as stack:
        line = line_of(request, stack.enter_context(Crew()).run)
        ledger = stack.enter_context(contextlib.closing(open_ledger(request.out, request.ledger)))
        yield Campaign(
            folder=request.out,
            ledger=ledger,
            line=line,
            watch=Herald(watch, ledger, request.out, request.settings.notify),
            clock=time.monotonic,
            jobs=n_jobs(request.settings),
            owner=owner,
        )


@contextlib.contextmanager
def held(folder: Path, doors: contextlib.AbstractContextManager[Doors]) -> Iterator[Doors]:
    """Open the doors and keep other runs out. Of a request that is refused then, for instance for its budget,
    nothing stays in a folder that was not there before; what another run has there is not ours to remove.
    """
    was_there = folder.exists()
    with doors as opened, locked(folder):
        try:
            yield opened
        except UsageError:
            if not was_there:
                discard(folder)
            raise


def records_of(libraries: Sequence[Path]) -> Iterator[Record]:
    """Stream the records; LibraryFileError at once when a file cannot be read or none holds a record."""
    records = read_library(libraries)
    first = next(records, None)
    if first is None:
        raise LibraryFileError(f"no record in {', '.join(map(str, libraries))}")
    return chain([first], records)


def open_run(campaign: Campaign, request: Request, records: Iterator[Record]) -> None:
    """Take the library in, note the request and write run.json."""
    identity = identity_of(request)
    compare_identity(campaign, identity)
    campaign.ledger.forget_failures(kinds=[OUT_OF_BUDGET])
    take_in(campaign, records)
    campaign.ledger.remember("request", request.model_dump_json())
    facts = {
        "libraries": [str(path) for path in request.libraries],
        "store": request.store,
        "n_records": campaign.ledger.n_records(),
    }
    write_json(campaign.folder / "run.json", identity | facts)


def walk(campaign: Campaign, bench: Bench | None, settings: Settings) -> dict[str, int]:
    """Do what is undone, write the tables, give the counts; without a bench, by the model alone."""
    undone = begin_work(campaign)
    if bench is None:
        assign(campaign, undone)
        return close_run(campaign, settings)
    refine(campaign, bench)
    return close_run(campaign, settings)


def close_run(campaign: Campaign, settings: Settings) -> dict[str, int]:
    """Write what concerns the library as a whole: its OFFXML, the tables, the pictures; gives the counts."""
    write_library(campaign, settings.export, run_in_child)
    counts = finish_run(campaign)
    if isinstance(campaign.watch, Herald):
        campaign.watch.complete()
    write_fits_plot(campaign.folder)
    if settings.qm.torsion_drives and (campaign.folder / "fits.csv").is_file():
        draw_fragments(campaign, [molecule.prepared.ligand for molecule in molecules(campaign)], settings)
    return counts


def draw_fragments(campaign: Campaign, ligands: Sequence[Ligand], settings: Settings) -> None:
    """Draw each ligand and the fragments that were driven for it; or say why there are no pictures."""
    try:
        write_fragment_pictures(campaign.folder / FRAGMENT_FOLDER, ligands, settings.fragments)
    except ImportError as error:
        campaign.watch.say(f"No pictures of the fragments: {error}; install libxrender1 and libxext6.")


def check(request: Request, watch: Watch) -> None:
    """Raise what `run` would raise before its first step: UsageError about files, settings, folders."""
    records_of(request.libraries)
    was_there = request.out.exists()
    with held(request.out, open_doors(request, watch)):
        if not was_there:
            discard(request.out)


class _Rehearsal:
    """Shows the stages of a rehearsal, and keeps its sentences to itself."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def begin(self, stage: str, total: int) -> None:
        """Pass it on as a part of the rehearsal."""
        self._watch.begin(self._named(stage), total)

    def advance(self, stage: str) -> None:
        """Pass it on as a part of the rehearsal."""
        self._watch.advance(self._named(stage))

    def say(self, sentence: str) -> None:
        """Say nothing."""

    def _named(self, stage: str) -> str:
        return f"{stage} (for the cost)"


def rehearse(request: Request, watch: Watch) -> None:
    """Raise SettingsError where a refinement costs more than its budget, before it drops what an earlier run
    has in the folder: its way to the statement of the cost is walked in a folder that is thrown away. `watch`
    is shown the way; what is said there is said again when the run itself comes to it.
    """
    qm = request.settings.qm
    place = ledger_place(request.out)
    if (
        request.command != "refine"
        or place is None
        or qm.budget_seconds is None
        or qm.over_budget != "refuse"
    ):
        return
    with contextlib.closing(Ledger(place, read_only=True)) as ledger:
        if not would_change(ledger, identity_of(request), records_of(request.libraries)):
            return
    with tempfile.TemporaryDirectory(prefix="parmflow-refine-") as folder:
        settings = request.settings.model_copy(update={"notify": NotifySettings()})
        passing = request.model_copy(update={"out": Path(folder), "ledger": "", "settings": settings})
        with held(passing.out, open_doors(passing, _Rehearsal(watch))) as (campaign, bench):
            take_in(campaign, records_of(request.libraries))
            assert bench is not None
            plan(campaign, bench)


def run(request: Request, watch: Watch) -> dict[str, int]:
    """Run a request, or go on with it where it stopped; how many records ended how."""
    records = records_of(request.libraries)
    rehearse(request, watch)
    with held(request.out, open_doors(request, watch)) as (campaign, bench):
        open_run(campaign, request, records)
        return walk(campaign, bench, request.settings)


def existing_ledger(folder: Path) -> Ledger:
    """The ledger of a run that is there, to be read only; OutputFolderError when there is none."""
    place = ledger_place(folder)
    if place is None:
        raise OutputFolderError(f"{folder}: no parmflow run here")
    return Ledger(place, read_only=True)


def request_in(folder: Path) -> Request:
    """The request of the run in a folder."""
    with contextlib.closing(existing_ledger(folder)) as ledger:
        text = ledger.recall("request")
    if not text:
        raise OutputFolderError(f"{folder}: the run never began; give its command again")
    return Request.model_validate_json(text).model_copy(update={"out": folder})


def retry(folder: Path, watch: Watch, kinds: Collection[str] = ()) -> dict[str, int]:
    """Try failed records again, on the library as it was taken in: those of these classes (kinds or stages),
    else those for which it can help.
    """
    request = request_in(folder)
    with open_doors(request, watch) as (campaign, bench), locked(folder):
        compare_identity(campaign, identity_of(request))
        n_again = campaign.ledger.forget_failures(kinds=kinds)
        watch.say(f"{n_again} failed records are tried again.")
        return walk(campaign, bench, request.settings)


@contextlib.contextmanager
def open_bench(request: Request) -> Iterator[Bench]:
    """The bench of a request with its own child processes."""
    settings, line = request.settings, line_of(request, run_in_child)
    predictor = predictor_of(settings.model, settings.form)
    with qm_bench.open_bench(request, predictor, line, n_jobs(settings)) as bench:
        yield bench


@contextlib.contextmanager
def open_doors(request: Request, watch: Watch) -> Iterator[tuple[Campaign, Bench | None]]:
    """Everything a request needs; the bench only where it computes QM.

    The store is opened before the folder is made, and the folder looked at before that: neither is left
    behind when the other cannot be used.
    """
    check_folder(request.out)
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(open_bench(request)) if request.command == "refine" else None
        yield stack.enter_context(open_campaign(request, watch)), bench

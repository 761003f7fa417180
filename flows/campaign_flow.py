"""The same run as a Prefect flow: who watches it in Prefect's UI sees its phases, shards and outcomes.

The ledger stays the truth. A task is a shard of ligands, named by record numbers, and gives counts back, so
that no molecule travels through Prefect; a task tried again does only what its shard left undone.
"""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from flows.batch import close_run, locked, open_bench, open_campaign, open_run, records_of, rehearse, run
from flows.flow_report import show_report
from flows.reconcile import name_host, reconcile
from flows.request import Request
from flows.server_away import Teller, is_away
from pipeline.assign import assign
from pipeline.campaign import Campaign, Watch, begin_work
from pipeline.errors import SettingsError
from pipeline.qm.budget import Budget
from pipeline.refine import (
    compute_qm,
    deliver_fits,
    drive_torsions,
    foresee,
    make_geometries,
    molecules,
    prepare,
    state_cost,
    state_cost_of_relaxing,
    tune,
    write_fits,
)
from pipeline.refine_bench import Bench

FLOW_NAME = "parmflow"
CHEAP_SHARD = 200
"""ligands in a task of a stage that takes a second per ligand, at least"""
QM_SHARD = 4
"""molecules in a QM task, at least"""
MAX_TASKS = 400
"""per phase, of which a flow run has four: Prefect's server loses events of runs with many thousand tasks"""
MAX_TABLE_ROWS = 1000
"""of the outcome table in the UI; the whole table is outcomes.csv"""

_ONCE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "result_serializer": "json"}
"""The ledger remembers; a result that Prefect remembered for the same arguments would be stale."""
_AGAIN: dict[str, Any] = {"retries": 2, "retry_delay_seconds": 5} | _ONCE


class FlowLog:
    """A watch that writes to the log of the task it is made in."""

    def __init__(self) -> None:
        self._log = get_run_logger()

    def begin(self, stage: str, total: int) -> None:
        """Say how much there is to do."""
        self._log.info("%s: %d to do", stage, total)

    def advance(self, stage: str) -> None:
        """Single ligands are too many for a log; the tasks show the progress."""

    def say(self, sentence: str) -> None:
        """Write it."""
        self._log.info(sentence)


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[tuple[Campaign, Bench]]:
    with open_bench(request) as bench, open_campaign(request, FlowLog()) as campaign:
        yield campaign, bench


def shards(items: Sequence[Any], at_least: int) -> list[list[Any]]:
    """Cut into at most MAX_TASKS pieces of `at_least` so many, in order; the last one is what is left."""
    size = max(at_least, math.ceil(len(items) / MAX_TASKS))
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _owner(numbers: Sequence[int]) -> str:
    """A shard's name: tried again, it takes over what its first try left in work."""
    return f"records {numbers[0]} to {numbers[-1]}"


@task(name="take in the library", **_ONCE)
def take_library_in(request: Request) -> list[int]:
    """Read the library into the ledger; the numbers of the records still to do."""
    records = records_of(request.libraries)
    with open_campaign(request, FlowLog()) as campaign:
        open_run(campaign, request, records)
        return begin_work(campaign)


@task(name="assign", **_AGAIN)
def assign_shard(request: Request, numbers: list[int]) -> int:
    """Parametrise some records; how many."""
    with open_campaign(request, FlowLog(), _owner(numbers)) as campaign:
        undone = sorted(set(numbers) & set(campaign.ledger.numbers(status="undone")))
        assign(campaign, undone)
        return len(undone)


@task(name="standardise", **_AGAIN)
def prepare_shard(request: Request, numbers: list[int]) -> int:
    """Standardise some records; how many were given."""
    with open_campaign(request, FlowLog(), _owner(numbers)) as campaign:
        prepare(campaign, sorted(set(numbers) & set(campaign.ledger.numbers(status="undone"))))
        return len(numbers)


@task(name="list molecules", **_AGAIN)
def list_molecules(request: Request) -> list[str]:
    """The keys of the distinct molecules."""
    with open_campaign(request, FlowLog()) as campaign:
        return list(dict.fromkeys(key for _, key in campaign.ledger.in_tuning()))


@task(name="conformers", **_AGAIN)
def geometry_shard(request: Request, keys: list[str]) -> int:
    """Make the geometries of some molecules; how many were given."""
    with _opened(request) as (campaign, bench):
        foresee(campaign, bench, molecules(campaign, set(keys)))
        make_geometries(campaign, bench, molecules(campaign, set(keys)))
        return len(keys)


@task(name="state the cost", **_ONCE)
def state_cost_first(request: Request) -> str:
    """Log what the QM will cost; why not to begin it, else nothing."""
    return _refusal(request, state_cost)


@task(name="state the cost of optimisations", **_ONCE)
def state_cost_of_relaxing_first(request: Request) -> str:
    """The same before the geometries are made, where conformers are optimised by QM."""
    return _refusal(request, state_cost_of_relaxing)


def _refusal(request: Request, state: Callable[[Campaign, Bench], None]) -> str:
    """What a statement of the cost refuses, as text: Prefect logs what is raised as a bug."""
    with _opened(request) as (campaign, bench):
        try:
            state(campaign, bench)
        except SettingsError as error:
            return str(error)
    return ""


@task(name="QM", **_AGAIN)
def qm_shard(request: Request, keys: list[str]) -> int:
    """Compute the references of some molecules; how many were given."""
    with _opened(request) as (campaign, bench):
        compute_qm(campaign, bench, molecules(campaign, set(keys)))
        return len(keys)


@task(name="torsion drives", **_AGAIN)
def drive_all(request: Request) -> None:
    """Run the torsion drives of all fragments, where the settings ask for them."""
    with _opened(request) as (campaign, bench):
        drive_torsions(campaign, bench)


@task(name="fine-tune", **_AGAIN)
def tune_all(request: Request) -> list[int]:
    """Fine-tune on all references; the numbers of the records to deliver."""
    with _opened(request) as (campaign, bench):
        tune(campaign, bench)
        return campaign.ledger.numbers(status="undone")


@task(name="deliver", **_AGAIN)
def deliver_shard(request: Request, numbers: list[int]) -> int:
    """Deliver some records; how many."""
    with open_campaign(request, FlowLog(), _owner(numbers)) as campaign:
        undone = sorted(set(numbers) & set(campaign.ledger.numbers(status="undone")))
        deliver_fits(campaign, undone)
        return len(undone)


@task(name="finish", **_AGAIN)
def finish(request: Request) -> dict[str, int]:
    """Write the tables; how many records ended how."""
    with open_campaign(request, FlowLog()) as campaign:
        if request.command == "refine":
            write_fits(campaign)
        counts = close_run(campaign, request.settings)
        first = [vars(outcome) for outcome in islice(campaign.ledger.outcomes(), MAX_TABLE_ROWS)]
        failures = campaign.ledger.failures_by_class()

    def show() -> None:
        create_table_artifact(
            key="outcomes",
            table=first,
            description=f"The first {MAX_TABLE_ROWS} rows of {request.out / 'outcomes.csv'}",
        )
        show_report(request, counts, failures)

    Teller().tell(show)
    return counts


class _Progress:
    """One progress artifact over all shards of a flow run."""

    def __init__(self) -> None:
        self._teller = Teller()
        self._artifact: UUID | None = None

    def _show(self, percent: float) -> None:
        if self._artifact is None:
            made = create_progress_artifact(progress=percent, key="progress", description="phases done")
            self._artifact = cast(UUID, made)  # a coroutine only where the caller is asynchronous
        else:
            update_progress_artifact(self._artifact, progress=percent)

    def over(self, part: tuple[float, float], pieces: Sequence[Any], do: Callable[[Any], object]) -> None:
        """Do the pieces one after the other, moving from one percentage to the other."""
        begin, end = part
        self._teller.tell(lambda: self._show(begin))
        for n_done, piece in enumerate(pieces, start=1):
            do(piece)
            percent = begin + (end - begin) * n_done / len(pieces)
            self._teller.tell(lambda percent=percent: self._show(percent))  # type: ignore[misc]


def _run_name() -> str:
    """In the UI a run is named after what it does to which library."""
    request = flow_run.parameters["request"]
    request = request if isinstance(request, Request) else Request.model_validate(request)
    return f"{request.command} {' '.join(path.name for path in request.libraries)}"


@flow(name=FLOW_NAME, flow_run_name=_run_name, persist_result=False, result_serializer="json")
def campaign_flow(request: Request) -> dict[str, int]:
    """Run a request, or go on with it where it stopped; gives the counts of outcomes.

    Raises SettingsError when the QM costs more than the budget; the flow run ends as failed, in one sentence.
    """
    Teller().tell(name_host)
    records_of(request.libraries)  # a library that cannot be read is said before the folder is made
    try:
        rehearse(request, FlowLog())
    except SettingsError as error:
        return _refused(error)
    progress = _Progress()
    was_there = request.out.exists()
    with open_campaign(request, FlowLog()), locked(request.out):
        Teller().tell(lambda: reconcile([FLOW_NAME]))
        undone = take_library_in(request)
        if request.command == "assign":
            progress.over((0, 99), shards(undone, CHEAP_SHARD), lambda some: assign_shard(request, some))
        elif undone and (refusal := _refine_in_shards(request, undone, progress)):
            if not was_there:
                shutil.rmtree(request.out, ignore_errors=True)
            return _refused(SettingsError(refusal))
        counts = finish(request)
    progress.over((99, 100), [counts], lambda _: None)
    return counts


def _refused(error: SettingsError) -> dict[str, int]:
    """A state is what Prefect hands on without a traceback; its data is raised in the caller."""
    return cast(dict[str, int], Failed(message=str(error), data=error))


def run_in_prefect(request: Request, watch: Watch) -> dict[str, int]:
    """Run a request as a flow; where Prefect's server goes away, to its end without Prefect.

    What the flow finished is in the ledger and is not done again. The server hears of the end from the next
    run that it sees (`reconcile`).
    """
    try:
        return campaign_flow(request)
    except (httpx.TransportError, RuntimeError) as error:
        if not is_away(error):
            raise
    watch.say("Prefect's server does not answer: the run ends without it; the next run tells it.")
    return run(request, watch)


def _refine_in_shards(request: Request, undone: list[int], progress: _Progress) -> str:
    """Walk the phases of a refinement; why it stopped before the QM, else nothing."""
    progress.over((0, 5), shards(undone, CHEAP_SHARD), lambda some: prepare_shard(request, some))
    keys = list_molecules(request)
    refusal = state_cost_of_relaxing_first(request)
    if refusal:
        return refusal
    budget = Budget(request.settings.qm.budget_seconds)
    is_relaxed = request.settings.qm.optimise_spec is not None
    progress.over(
        (5, 10),
        shards(keys, CHEAP_SHARD),
        lambda some: geometry_shard(_within(budget, request) if is_relaxed else request, some),
    )
    refusal = state_cost_first(request)
    if refusal:
        return refusal
    keys = list_molecules(request)
    progress.over(
        (10, 80),
        shards(keys, QM_SHARD),
        lambda some: qm_shard(_within(budget, request), some),
    )
    if request.settings.qm.torsion_drives:
        drive_all(_within(budget, request))
    undelivered = tune_all(request)
    progress.over((80, 99), shards(undelivered, CHEAP_SHARD), lambda some: deliver_shard(request, some))
    return ""


def _within(budget: Budget, request: Request) -> Request:
    """The request with what is left of the budget, which is for all shards together."""
    qm = request.settings.qm
    if qm.budget_seconds is None:
        return request
    left = qm.model_copy(update={"budget_seconds": max(budget.left(), 1e-3)})
    return request.model_copy(update={"settings": request.settings.model_copy(update={"qm": left})})


def server_note() -> str:
    """What to know when no Prefect server is set: Prefect starts one for the run alone. Else nothing."""
    if PREFECT_API_URL.value():
        return ""
    return (
        "no Prefect server is set: a temporary one ends with this run; to keep one, start it with "
        "`prefect server start` and set PREFECT_API_URL"
    )

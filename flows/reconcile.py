"""Tell Prefect the truth about runs that it believes to be at work, when nobody is.

After `kill -9`, or a power cut, a flow run stays RUNNING on the server for ever. A run of ours holds the lock
of its output folder while it works, and the system drops that lock however the process dies: a RUNNING flow
run whose lock is free is dead. Where its library is done, the server was away at the end: it is told so now.
Else the run is marked as crashed, and the work itself goes on from its ledger.

A server may serve several machines and users: nothing is said of a run on another machine, where the same
path is another file, nor of one whose lock we may not read.
"""

import contextlib
import datetime
import fcntl
import platform
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, State

from flows.batch import existing_ledger
from flows.service import lock_path, read_service
from pipeline.errors import OutputFolderError, SettingsError, StoreError
from pipeline.run_folder import STATE_FOLDER

YOUNG_SECONDS = 120.0
"""A run may need so long from its start until it has its lock."""
HOST_LABEL = "parmflow.host"
"""of a flow run: the machine that it is on"""
_PAGE = 200


def name_host() -> None:
    """Tell the server on which machine the flow run in work is."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(UUID(flow_run.id), {HOST_LABEL: platform.node()})


def is_free(lock: Path) -> bool:
    """Whether surely nobody holds a lock: where there is no file nobody does."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:  # held, or not ours to read
        return False
    return True


def lock_of(run: FlowRun) -> Path | None:
    """The lock that a flow run of ours holds while it works; None for what has none."""
    request, service, job = (run.parameters.get(name) for name in ("request", "service", "job"))
    if isinstance(request, dict) and isinstance(request.get("out"), str):
        return Path(request["out"]) / STATE_FOLDER / "lock"
    if isinstance(service, str):
        with contextlib.suppress(SettingsError):
            return lock_path(read_service(Path(service)), str(job))
    if isinstance(service, dict) and isinstance(service.get("out"), str):
        return Path(service["out"]) / STATE_FOLDER / f"{job}.lock"
    return None


def reconcile(flow_names: Iterable[str]) -> list[str]:
    """Give the orphans among the runs of these flows the state that they ended in; a sentence for each."""
    told = []
    with get_client(sync_client=True) as client:
        for run in _running(client, list(flow_names)):
            if _is_dead(run):
                state = _ending_of(run)
                client.set_flow_run_state(run.id, state, force=True)
                told.append(f"{run.name}: {state.message}")
    return told


def _ending_of(run: FlowRun) -> State:
    request = run.parameters.get("request")
    out = Path(request["out"]) if isinstance(request, dict) else None
    if out is None or not (out / "outcomes.csv").is_file():
        return Crashed(message="nobody holds the lock of its folder: the process is gone")
    try:
        with contextlib.closing(existing_ledger(out)) as ledger:
            n_records, n_ok, n_done = ledger.n_records(), ledger.n_outcomes(status="ok"), ledger.n_outcomes()
    except (OutputFolderError, StoreError) as error:
        return Crashed(message=f"the process is gone, and its ledger cannot be read: {error}")
    if n_done != n_records:
        return Crashed(message="the process is gone; the next run goes on with what is undone")
    return Completed(message=f"{n_ok} of {n_records} ligands parametrised; told after the server was away")


def _running(client: SyncPrefectClient, names: list[str]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=names)),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        ),
        limit=_PAGE,
    )


def _is_dead(run: FlowRun) -> bool:
    if run.labels.get(HOST_LABEL) != platform.node():
        return False
    started = run.start_time or run.expected_start_time
    if started and (datetime.datetime.now(datetime.UTC) - started).total_seconds() < YOUNG_SECONDS:
        return False
    lock = lock_of(run)
    return lock is not None and is_free(lock)

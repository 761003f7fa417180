"""Task runs that Prefect's server recorded, beside those that ran and what the ledger holds.

    python -m benchmarks.prefect_events --tasks 3000

One flow run on a server of its own, a task per record. Prefect tells its server of each state by an event
that may be lost, so only the ledger is believed; this counts what is lost at a size.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run
from prefect.testing.utilities import prefect_test_harness

from flows.campaign_flow import assign_shard, finish, take_library_in
from flows.request import Request, settings_from

_QUIET_SECONDS = 60.0
"""the server is taken to be done when it recorded nothing new for so long"""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Of one flow run."""

    n_ran: int
    """tasks that gave their answer"""
    n_recorded: int
    """task runs that the server knows as completed"""
    n_outcomes: int
    """records with an outcome, by the ledger"""


@flow(name="a task per record", persist_result=False, result_serializer="json")
def task_per_record(request: Request) -> tuple[int, int, UUID]:
    """Tasks that ran, records with an outcome, and which flow run this is."""
    answers = [assign_shard(request, [number]) for number in take_library_in(request)]
    counts = finish(request)
    return len(answers) + 2, counts["n_ok"] + counts["n_failed"], UUID(flow_run.id)


def count_events(folder: Path, n_tasks: int, model: str = "default") -> Counted:
    """Run so many tasks with a record each on the server that is set, and count."""
    library = folder / "library.smi"
    library.write_text("C methane\n" + "".join(f"no-smiles broken-{n}\n" for n in range(1, n_tasks)))
    request = Request(
        command="assign",
        libraries=(library,),
        out=folder / "out",
        store=str(folder / "store"),
        settings=settings_from(None, {"model": model, "export.formats": ("openmm",)}),
    )
    n_ran, n_outcomes, id_ = task_per_record(request)
    return Counted(n_ran=n_ran, n_recorded=_recorded(id_, n_ran), n_outcomes=n_outcomes)


def _recorded(flow_run_id: UUID, n_expected: int) -> int:
    """Task runs that the server has as completed, once they are as many as expected, or no more come."""
    n_known, last_news = -1, time.monotonic()
    while n_known < n_expected and time.monotonic() - last_news < _QUIET_SECONDS:
        n_before, n_known = n_known, _completed(flow_run_id)
        if n_known > n_before:
            last_news = time.monotonic()
        time.sleep(0.5)
    return n_known


def _completed(flow_run_id: UUID) -> int:
    n_completed, offset = 0, 0
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        while page := client.read_task_runs(flow_run_filter=only, limit=200, offset=offset):
            n_completed += sum(run.state is not None and run.state.is_completed() for run in page)
            offset += len(page)
    return n_completed


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3000)
    options, _ = parser.parse_known_args()
    with (
        tempfile.TemporaryDirectory(prefix="parmflow-events-") as folder,
        prefect_test_harness(server_startup_timeout=300),
    ):
        counted = count_events(Path(folder), options.tasks)
    print("| tasks that ran | recorded by Prefect | records | outcomes in the ledger |")
    print("|---|---|---|---|")
    print(f"| {counted.n_ran} | {counted.n_recorded} | {options.tasks} | {counted.n_outcomes} |")


if __name__ == "__main__":
    main()

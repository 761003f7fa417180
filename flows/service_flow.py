"""The service's one flow: Prefect runs it on a schedule for each job.

Its parameters are the path of the settings file (or the settings themselves) and the name of the job. Every
library it takes is a flow run of its own, named after the file.
"""

from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL

from flows.campaign_flow import FLOW_NAME, FlowLog, run_in_prefect
from flows.reconcile import name_host, reconcile
from flows.request import store_place
from flows.retraining import retrain
from flows.server_away import Teller, wait_for_server
from flows.service import (
    Job,
    Service,
    is_taken,
    job_lock,
    library_files,
    lock_path,
    read_service,
    request_for,
)
from flows.serving import serve
from pipeline.errors import SettingsError, StoreError, UsageError
from pipeline.store import QMStore
from pipeline.store.care import verify

SERVICE_FLOW_NAME = "parmflow service"
SERVER_PATIENCE = 60.0
"""seconds; a server that is started together with us takes some ten"""
_DESCRIPTIONS: dict[Job, str] = {
    "inbox": "Runs every library file of the inbox that was not run yet.",
    "refine": "Refines what came in, as far as the QM budget goes.",
    "retrain": "Trains, and promotes what beats the model in use.",
    "verify": "Reads every result of the QM store and checks it.",
}


@flow(name=SERVICE_FLOW_NAME, flow_run_name="{job}", persist_result=False, result_serializer="json")
def service_flow(service: Service | Path, job: Job) -> dict[str, Any]:
    """Do one job of the service; what became of it, in a few words per library."""
    teller = Teller()
    teller.tell(name_host)
    known = service if isinstance(service, Service) else read_service(service)
    with job_lock(known, job):
        teller.tell(_tell_endings)
        if job == "retrain":
            return _retrain(known)
        if job == "verify":
            return _verify(known)
        return _run_libraries(known, refine=job == "refine")


def _tell_endings() -> None:
    """Tell the server what became of the runs whose process is gone."""
    for sentence in reconcile([FLOW_NAME, SERVICE_FLOW_NAME]):
        get_run_logger().warning(sentence)


def _run_libraries(service: Service, *, refine: bool) -> dict[str, Any]:
    """Run every library file that is not done; one that cannot be used is logged and the others go on.

    Raises StoreError at the end where a ledger or the QM store was broken: that is for a person to mend.
    """
    log = get_run_logger()
    endings: dict[str, Any] = {}
    broken: StoreError | None = None
    for library in library_files(service):
        try:
            request = request_for(service, library, refine=refine)
            if not is_taken(request):
                endings[library.name] = run_in_prefect(request, FlowLog())
        except (UsageError, StoreError) as error:
            log.error("%s: %s", library.name, error)
            endings[library.name] = {"problem": str(error)}
            broken = error if isinstance(error, StoreError) else broken
    if broken:
        raise broken
    return endings


def _retrain(service: Service) -> dict[str, Any]:
    job = service.retrain
    if job is None:
        raise SettingsError("the settings have no [service.retrain]")
    log = get_run_logger()
    verdict = retrain(job.config, job.data, job.evaluation, service.registry_folder, log.info)
    return vars(verdict)


def _verify(service: Service) -> dict[str, Any]:
    with QMStore(store_place(service.qm_store)) as store:
        found = verify(store)
    if not found.is_whole:
        raise StoreError(
            f"{service.qm_store}: {len(found.damaged)} of {found.n_results} results are damaged; "
            "`parmflow store verify` names them",
            kind="corrupt",
        )
    return {"n_results": found.n_results}


def deployments_of(service: Service, source: Path | None) -> list[RunnerDeployment]:
    """One deployment per job, each with its schedule; `source` is the settings file, when there is one."""
    parameter = str(source) if source else service.model_dump(mode="json")
    made = [
        service_flow.to_deployment(
            name=job,
            schedule=Cron(cron, timezone="UTC"),
            description=_DESCRIPTIONS[job],
            parameters={"service": parameter, "job": job},
        )
        for job, cron in service.crons().items()
    ]
    return [cast(RunnerDeployment, deployment) for deployment in made]


def serve_service(service: Service, source: Path | None) -> None:
    """Register the deployments with their schedules and carry out their runs, until stopped.

    Raises SettingsError without a Prefect server, since only a server fires schedules, and where another
    `parmflow serve` is at work for the same service.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise SettingsError(
            "no Prefect server is set: start one with `prefect server start` and set PREFECT_API_URL"
        )
    if not service.inbox.is_dir():
        raise SettingsError(f"{service.inbox}: no such folder")
    wait_for_server(url, SERVER_PATIENCE)
    lock_path(service, "inbox").parent.mkdir(parents=True, exist_ok=True)
    reconcile([FLOW_NAME, SERVICE_FLOW_NAME])
    serve(deployments_of(service, source), limit=len(service.crons()))

"""`parmflow serve`: a Prefect deployment that looks into an inbox folder on a schedule and runs its files.

Every library file has an output folder of its own. A file that is done costs seconds at the next look, a file
that was changed is run as its ledger says, so nothing about the inbox itself is remembered.
"""

from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL

from flows.campaign_flow import campaign_flow
from flows.request import Request
from flows.serving import serve
from pipeline.errors import SettingsError, UsageError
from pipeline.names import record_id

DEPLOYMENT = "inbox"


def requests_in(inbox: Path, template: Request) -> list[Request]:
    """One request per visible file of the inbox, by name; `template` says all but the library."""
    files = sorted(path for path in inbox.iterdir() if path.is_file() and not path.name.startswith("."))
    return [
        template.model_copy(
            update={
                "libraries": (path,),
                "out": template.out / record_id(path.name, content="", occurrence=0),
            }
        )
        for path in files
    ]


@flow(name="parmflow inbox", persist_result=False, result_serializer="json")
def inbox_flow(inbox: Path, template: Request) -> dict[str, Any]:
    """Run every library file of the inbox; a file that cannot be used is logged and the others go on."""
    log = get_run_logger()
    endings: dict[str, Any] = {}
    for request in requests_in(inbox, template):
        name = request.libraries[0].name
        try:
            endings[name] = campaign_flow(request)
        except UsageError as error:
            log.error("%s: %s", name, error)
            endings[name] = {"problem": str(error)}
    return endings


def serve_inbox(inbox: Path, template: Request, cron: str) -> None:
    """Register the deployment with its schedule and carry out its runs, one at a time, until stopped.

    Raises SettingsError without a Prefect server, since only a server fires schedules.
    """
    if not PREFECT_API_URL.value():
        raise SettingsError(
            "no Prefect server is set: start one with `prefect server start` and set PREFECT_API_URL"
        )
    deployment = inbox_flow.to_deployment(
        name=DEPLOYMENT,
        cron=cron,
        description="Runs every library file that lies in the inbox.",
        parameters={"inbox": str(inbox), "template": template.model_dump(mode="json")},
    )
    serve([cast(RunnerDeployment, deployment)], limit=1)

"""The settings of a nightly service, and its jobs: `[service]` in parmflow.toml.

A library file in the inbox is taken once, by content, into a folder of its own; what is done is left alone.
"""

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows import registry
from flows.batch import OUT_OF_BUDGET, existing_ledger
from flows.request import Request, beside, chosen_store, parse_duration, read_toml
from pipeline.database import check_address
from pipeline.errors import LibraryFileError, OutputFolderError, SettingsError
from pipeline.names import record_id
from pipeline.run_folder import STATE_FOLDER
from pipeline.settings import Settings, build_settings

Job = Literal["inbox", "refine", "retrain", "verify"]
JOBS: tuple[Job, ...] = ("inbox", "refine", "retrain", "verify")

_BLOCK = 1 << 20
_REFINED = "-refined"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RefineJob(_Table):
    """Refine what came in, as far as the QM budget goes; the next night goes on."""

    cron: str = "0 1 * * *"
    budget: str = "6h"

    @field_validator("budget")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        parse_duration(text)
        return text


class RetrainJob(_Table):
    """Train on the tables as they are now; promote what beats the model in use on the evaluation table."""

    cron: str = "0 3 * * 0"
    config: Path
    data: Path
    evaluation: Path


class VerifyJob(_Table):
    """Read every result of the QM store and check it."""

    cron: str = "0 6 * * 0"


class Service(_Table):
    """A group's service; paths are relative to the settings file."""

    inbox: Path
    out: Path
    cron: str = "*/10 * * * *"
    quiet_seconds: float = Field(default=5.0, ge=0)
    """a file written to more recently than this may still be on its way"""
    store: str | None = None
    """folder, or address of a PostgreSQL database"""
    ledger: str = ""
    """address of a PostgreSQL database; empty: a file in the output folder of each run"""
    models: Path | None = None
    """registry of retrained models; what was promoted last there is used"""
    refine: RefineJob | None = None
    retrain: RetrainJob | None = None
    verify: VerifyJob | None = None
    settings: Settings = Settings()

    @property
    def qm_store(self) -> str:
        """Folder or address of the QM store."""
        return chosen_store(self.store)

    @property
    def registry_folder(self) -> Path:
        """Folder of the retrained models."""
        return self.models or self.out / "models"

    def crons(self) -> dict[Job, str]:
        """When each job that there is runs."""
        jobs: dict[Job, str] = {"inbox": self.cron}
        for job in (self.refine, self.retrain, self.verify):
            if job is not None:
                jobs[_NAME_OF[type(job)]] = job.cron
        return jobs


_NAME_OF: dict[type, Job] = {RefineJob: "refine", RetrainJob: "retrain", VerifyJob: "verify"}


def read_service(path: Path) -> Service:
    """Read `[service]` and the settings beside it; SettingsError says what is wrong."""
    table = read_toml(path)
    service = table.pop("service", None)
    if not isinstance(service, dict):
        raise SettingsError(f"{path}: no table [service]; see the README, or give the inbox by name")
    return build_service(service, beside(path, build_settings(table)), path.absolute().parent)


def build_service(values: dict[str, object], settings: Settings, base: Path) -> Service:
    """Check the values; relative paths are taken from `base`."""
    try:
        service = Service.model_validate({**values, "settings": settings})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"service: {where}: {first['msg']}") from error
    names = ("inbox", "out", "models")
    paths = {name: getattr(service, name) for name in names}
    changed: dict[str, object] = {name: base / path for name, path in paths.items() if path is not None}
    if service.retrain:
        job = service.retrain
        changed["retrain"] = job.model_copy(
            update={name: base / getattr(job, name) for name in ("config", "data", "evaluation")}
        )
    if service.ledger:
        changed["ledger"] = check_address(service.ledger)
    if service.store is not None:
        changed["store"] = chosen_store(service.store, base)
    return service.model_copy(update=changed)


@contextlib.contextmanager
def job_lock(service: Service, job: Job) -> Iterator[None]:
    """Keep a second run of a job out; the system drops the lock when we die, however we die."""
    lock = lock_path(service, job)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputFolderError(f"{service.out}: the job `{job}` is at work already") from error
        yield


def lock_path(service: Service, job: str) -> Path:
    """The file that a job's run locks."""
    return service.out / STATE_FOLDER / f"{job}.lock"


def library_files(service: Service) -> list[Path]:
    """The visible files of the inbox that nobody is writing to, by name."""
    return sorted(
        path
        for path in service.inbox.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.stat().st_mtime <= time.time() - service.quiet_seconds  # now, not when the listing began
    )


def folder_of(service: Service, library: Path, ending: str = "") -> Path:
    """The run's folder of a library file: known by its content, named after the first file that had it.

    The ending tells what was done with it; a key is hexadecimal, so that no folder is taken for another's.
    Raises LibraryFileError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with library.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise LibraryFileError(f"{library}: cannot be read ({error.strerror or error})") from error
    key = digest.hexdigest()[:16] + ending
    there = next(service.out.glob(f"*-{key}"), None) if service.out.is_dir() else None
    slug = record_id(library.name, content="", occurrence=0).rpartition("-")[0]
    return there or service.out / f"{slug}-{key}"


def request_for(service: Service, library: Path, *, refine: bool) -> Request:
    """What to run for a library file, with the model in use."""
    settings = service.settings
    promoted = registry.current(service.registry_folder)
    if promoted is not None:
        settings = settings.model_copy(update={"model": str(promoted)})
    if refine and service.refine:
        budget = {"budget_seconds": parse_duration(service.refine.budget), "over_budget": "stop"}
        settings = settings.model_copy(update={"qm": settings.qm.model_copy(update=budget)})
    return Request(
        command="refine" if refine else "assign",
        libraries=(library,),
        out=folder_of(service, library, _REFINED if refine else ""),
        store=service.qm_store,
        ledger=service.ledger,
        settings=settings,
    )


def is_taken(request: Request) -> bool:
    """Whether a library is done: its tables are there, and no ligand waits for more QM budget."""
    if not (request.out / "outcomes.csv").is_file():
        return False
    with contextlib.closing(existing_ledger(request.out)) as ledger:
        return all(kind != OUT_OF_BUDGET for _, kind, _, _ in ledger.failures_by_class())

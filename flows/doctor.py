"""`parmflow doctor`: is everything here that a run needs, in versions that are known to work?"""

import http.client
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from flows.request import server_login, store_place
from models.predict import load_predictor
from pipeline.deliver import FILES
from pipeline.errors import QMError, SettingsError, StoreError
from pipeline.process.program import is_installed
from pipeline.qm.door import available_engines
from pipeline.qm.methods import PROGRAMS, is_computed_with, methods_of
from pipeline.qm.remote import connect
from pipeline.settings import ServerSettings
from pipeline.store.database import is_there

MIN_SCRATCH_GB = 2.0
"""What one DFT calculation of a drug-sized molecule may leave in its scratch folder."""

_NEEDED_ENGINES = ("pyscf", "tblite")
_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "wrong"]
    """note: something optional is missing; wrong: runs will fail"""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Nothing is wrong."""
        return all(finding.state != "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {"is_well": self.is_well, "findings": [asdict(finding) for finding in self.findings]}

    def to_text(self) -> str:
        """One line per finding."""
        marks = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
        return "\n".join(f"{marks[f.state]} {f.name}: {f.detail}" for f in self.findings)


def examine(store: str, server: ServerSettings) -> Report:
    """Look at versions, weights, engines, a server, disk space and the scheduler; changes nothing."""
    findings = [
        *check_versions(requires("parmflow") or [], version),
        _check_weights(),
        *_check_engines(),
        check_server(server),
        *_check_md_programs(),
        check_space("scratch space", Path(tempfile.gettempdir())),
        check_store(store),
        check_scheduler(os.environ.get("PREFECT_API_URL", "")),
    ]
    return Report(findings=tuple(findings))


def check_versions(requirements: list[str], version_of: Callable[[str], str]) -> list[Finding]:
    """Hold what is installed to the bounds in the project's own metadata; Python first."""
    ours = sys.version_info[:2]
    findings = [
        Finding(
            name="python",
            state="ok" if (3, 11) <= ours < (3, 13) else "wrong",
            detail=f"{ours[0]}.{ours[1]}, 3.11 or 3.12 is needed",
        )
    ]
    needed = [
        requirement
        for requirement in map(Requirement, requirements)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    return findings + [_check_version(requirement, version_of) for requirement in needed]


def _check_version(requirement: Requirement, version_of: Callable[[str], str]) -> Finding:
    try:
        have = version_of(requirement.name)
    except PackageNotFoundError:
        return Finding(name=requirement.name, state="wrong", detail=f"not installed; needs {requirement}")
    fits = requirement.specifier.contains(have, prereleases=True)
    detail = f"{have}" if fits else f"{have} is installed; needs {requirement}"
    return Finding(name=requirement.name, state="ok" if fits else "wrong", detail=detail)


def _check_weights() -> Finding:
    try:
        predictor = load_predictor("default")
    except SettingsError as error:
        return Finding(name="network weights", state="wrong", detail=str(error))
    detail = f"{predictor.name}/{predictor.version}, sha256 {predictor.sha256[:12]}"
    return Finding(name="network weights", state="ok", detail=detail)


def _check_engines() -> list[Finding]:
    """List what computes and at which levels; only pyscf and tblite, which pip installs, must be there."""
    engines = {engine.name: engine for engine in available_engines()}
    findings = []
    for name in dict.fromkeys([*PROGRAMS, *engines]):
        if name in engines:
            engine = engines[name]
            detail = f"{engine.version}: {', '.join(engine.levels)}"
            state: Literal["ok", "note", "wrong"] = "note" if engine.hint else "ok"
            detail += f"; {engine.hint}" if engine.hint else ""
            findings.append(Finding(name=f"engine {name}", state=state, detail=detail))
        else:
            state = "wrong" if name in _NEEDED_ENGINES else "note"
            detail = f"not found; {PROGRAMS[name].install} for {', '.join(methods_of(name))}"
            findings.append(Finding(name=f"engine {name}", state=state, detail=detail))
    return findings


def check_server(settings: ServerSettings) -> Finding:
    """Does the QCFractal server answer, and what would its workers compute for us now?"""
    name = "QCFractal server"
    if not settings.address:
        detail = "none given; with --server URL it is looked at, and refine and qm compute there"
        return Finding(name=name, state="note", detail=detail)
    try:
        programs = connect(settings, server_login()).programs()
    except (SettingsError, QMError) as error:
        return Finding(name=name, state="wrong", detail=str(error))
    ours = [
        f"{program} {', '.join(versions)}: {', '.join(methods_of(program)) or 'its own methods'}"
        for program, versions in programs.items()
        if is_computed_with(program)
    ]
    detail = f"{settings.address} answers; {'; '.join(ours) or 'nobody computes there now'}"
    return Finding(name=name, state="ok" if ours else "note", detail=detail)


def _check_md_programs() -> list[Finding]:
    """GROMACS and LAMMPS are optional: only `--check all` runs them."""
    findings = []
    for kind in FILES:
        if kind.engine:
            there = is_installed(kind.engine)
            detail = f"weighs {kind.name} under --check all" if there else "not found; --check all needs it"
            findings.append(
                Finding(name=f"program {kind.engine}", state="ok" if there else "note", detail=detail)
            )
    return findings


def check_space(name: str, folder: Path) -> Finding:
    """Is the folder, or the nearest one above that exists, writable and not full?"""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(name=name, state="wrong", detail=f"{there} cannot be written")
    free = shutil.disk_usage(there).free / 1e9
    state: Literal["ok", "wrong"] = "ok" if free >= MIN_SCRATCH_GB else "wrong"
    return Finding(name=name, state=state, detail=f"{folder}, {free:.0f} GB free")


def check_store(store: str) -> Finding:
    """Has the store's folder room, or does its database answer?"""
    place = store_place(store)
    if place.is_sqlite:
        return check_space("QM store", Path(store))
    try:
        detail = "" if is_there(place, patient=False) else "; the store is made when it is first used"
    except (SettingsError, StoreError) as error:
        return Finding(name="QM store", state="wrong", detail=str(error))
    return Finding(name="QM store", state="ok", detail=f"{store} answers{detail}")


def check_scheduler(url: str) -> Finding:
    """Does the Prefect server answer that PREFECT_API_URL names?"""
    if not url:
        detail = "PREFECT_API_URL is not set; --prefect then runs a server of its own while it works"
        return Finding(name="scheduler", state="note", detail=detail)
    try:
        status = ask_health(url)
        state: Literal["ok", "wrong"] = "ok" if status == 200 else "wrong"
        detail = f"{url} answers {status}; {_last_scheduled(url)}"
        return Finding(name="scheduler", state=state, detail=detail)
    except SettingsError as error:
        return Finding(name="scheduler", state="wrong", detail=str(error))
    except OSError as error:
        return Finding(name="scheduler", state="wrong", detail=f"{url} does not answer: {error}")


def ask_health(url: str) -> int:
    """Status of a Prefect server; OSError where none answers, SettingsError where the URL is no address."""
    no_address = f"PREFECT_API_URL {url!r} is no web address"
    if not url.startswith(("http://", "https://")):
        raise SettingsError(no_address)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except http.client.InvalidURL as error:
        raise SettingsError(no_address) from error
    except http.client.HTTPException as error:
        raise OSError(f"no answer in HTTP: {error}") from error


def _last_scheduled(url: str) -> str:
    """When a schedule last started a run: a server that answers may still fire none (Prefect with a wrong
    SQLAlchemy does so).
    """
    question = {
        "flow_runs": {"start_time": {"is_null_": False}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 200,
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/flow_runs/filter",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        starts = [run["start_time"] for run in json.load(answer) if run["auto_scheduled"]]
    if not starts:
        return "no schedule has started a run yet"
    age = datetime.now(UTC) - datetime.fromisoformat(max(starts))
    return f"a schedule last started a run {age.total_seconds() / 60:.0f} minutes ago"

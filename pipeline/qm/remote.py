"""DOOR: a QCFractal server, through qcportal where that is installed.

What is asked here is asked of QCEngine's program of the same name there, in the task's own frame with the
orientation fixed, with the keywords of our own engine, and without the dispersion correction, which is added
here as it is beside a local engine. So a result is the same wherever it was computed.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from pipeline.errors import QMError, SettingsError
from pipeline.qm.dispersion import corrections
from pipeline.qm.molecule import to_molecule
from pipeline.qm.psi4_keywords import psi4_keywords, version_numbers
from pipeline.qm.record import in_own_frame
from pipeline.qm.result import EngineResult
from pipeline.schema import QMTask
from pipeline.settings import ServerSettings
from pipeline.units import ANGSTROM_PER_BOHR

DRIVERS = ("energy", "gradient")
"""what is asked of a server; everything else is computed here"""
INSTALL = "pip install 'qcportal<0.66'"
"""later ones want a qcelemental with which psi4 1.3.2 cannot be driven"""
_AT_ONCE = 200
"""molecules per request; servers take 500"""
_BETWEEN_TRIES = 5.0
"""seconds, beside the client's own patience of a quarter of a minute"""
_NEWEST_PSI4 = "1.9"
"""taken where no worker says its version"""
_T = TypeVar("_T")


class Client(Protocol):
    """What is asked of a server: these methods of `qcportal.PortalClient`."""

    def add_singlepoints(
        self,
        molecules: Sequence[Any],
        program: str,
        driver: str,
        method: str,
        basis: str | None,
        keywords: dict[str, Any],
        *,
        compute_tag: str,
    ) -> Any:
        """Submit molecules at one level; gives (metadata, record ids in the order of the molecules)."""

    def get_singlepoints(
        self, record_ids: Sequence[int], missing_ok: bool, *, include: Iterable[str] | None = None
    ) -> Sequence[Any]:
        """The records of these ids: status, return_result, properties, molecule, provenance, error."""

    def reset_records(self, record_ids: Sequence[int]) -> Any:
        """Let records that ended in an error be computed again."""

    def query_managers(self, *, status: str) -> Iterable[Any]:
        """Those who compute: programs (name -> versions) and compute_tags."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who we are to a server."""

    user: str
    password: str = field(repr=False)


class Server:
    """A server that answers, or is waited for."""

    def __init__(
        self,
        client: Client,
        settings: ServerSettings,
        *,
        refusals: tuple[type[Exception], ...] = (),
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """`refusals` are the client's exceptions for an answer that is none."""
        self.address = settings.address
        self._client = client
        self._settings = settings
        self._refusals = refusals
        self._wait = wait

    def submit(self, tasks: Sequence[QMTask]) -> dict[str, tuple[int, bool]]:
        """Ask for tasks: by key, the record's number and whether the server had it already."""
        answer: dict[str, tuple[int, bool]] = {}
        for some in _by_level(tasks):
            for start in range(0, len(some), _AT_ONCE):
                part = some[start : start + _AT_ONCE]
                numbers, known = self._submit(part)
                answer |= {
                    task.key: (number, place in known)
                    for place, (task, number) in enumerate(zip(part, numbers, strict=True))
                }
        return answer

    def _submit(self, tasks: Sequence[QMTask]) -> tuple[list[int], set[int]]:
        spec = tasks[0].spec
        metadata, numbers = self._patiently(
            lambda: self._client.add_singlepoints(
                [to_molecule(in_own_frame(task)) for task in tasks],
                spec.program,
                spec.driver,
                spec.method,
                spec.basis,
                self._keywords(tasks[0]),
                compute_tag=self._settings.tag,
            )
        )
        if not metadata.success:
            raise QMError(f"{self.address} took no calculation: {metadata.error_string}", kind="server")
        return list(numbers), set(metadata.existing_idx)

    def _keywords(self, task: QMTask) -> dict[str, object]:
        chosen: dict[str, object] = dict(task.spec.keywords)
        if task.spec.program != "psi4":
            return chosen
        versions = self.programs().get("psi4") or (_NEWEST_PSI4,)
        return psi4_keywords(task, min(versions, key=version_numbers)) | chosen

    def look(self, numbers: Sequence[int]) -> dict[int, Any]:
        """The records of these numbers, finished ones with their molecules; one that is gone is None."""
        if not numbers:
            return {}
        found = self._get(numbers, None)
        finished = [number for number, record in found.items() if record and status_of(record) == "complete"]
        return found | (self._get(finished, ["molecule"]) if finished else {})

    def _get(self, numbers: Sequence[int], include: Sequence[str] | None) -> dict[int, Any]:
        records = self._patiently(lambda: self._client.get_singlepoints(numbers, True, include=include))
        return dict(zip(numbers, records, strict=True))

    def complaint_of(self, record: Any) -> str:
        """Why a record is no result: its status, and the words of the program there."""
        error = self._patiently(lambda: record.error) or {}
        return f"{status_of(record)}: {error.get('error_type', '')} {error.get('error_message', '')}"

    def reset(self, numbers: Sequence[int]) -> None:
        """Let records that ended in an error be computed again."""
        self._patiently(lambda: self._client.reset_records(numbers))

    def programs(self) -> dict[str, tuple[str, ...]]:
        """What those compute who would take our tasks now: program -> versions; empty when nobody would."""
        managers = self._patiently(lambda: list(self._client.query_managers(status="active")))
        versions: dict[str, set[str]] = {}
        for manager in managers:
            if self._settings.tag in manager.compute_tags or "*" in manager.compute_tags:
                for program, some in manager.programs.items():
                    versions.setdefault(program, set()).update(map(str, some))
        return {program: tuple(sorted(some)) for program, some in sorted(versions.items())}

    def in_words(self, program: str) -> str:
        """The server, and whether anybody there computes with a program now."""
        versions = self.programs().get(program)
        if versions is None:
            return f"{self.address}, where nobody runs {program} now: they wait for somebody who does"
        return f"{self.address} ({program} {', '.join(versions)})"

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Ask until the server answers; QMError (kind server) when it stays away or refuses."""
        give_up = time.monotonic() + self._settings.patience_seconds
        while True:
            try:
                return ask()
            except OSError as error:  # requests' errors, and the client's, are OSErrors
                why: Exception = error
            except self._refusals as error:
                if not _is_its_own_fault(error):
                    raise QMError(f"{self.address} refuses: {error}", kind="server") from error
                why = error
            if time.monotonic() >= give_up:
                raise QMError(
                    f"{self.address} does not answer: {' '.join(str(why).split())}\nWhat was submitted "
                    "stays there; give the same command again.",
                    kind="server",
                    retryable=True,
                ) from why
            self._wait(_BETWEEN_TRIES)


def _is_its_own_fault(error: Exception) -> bool:
    """Whether an answer says that the server is ill (HTTP 5xx) or busy (429)."""
    status = int(getattr(error, "status_code", 0))
    return status >= 500 or status == 429


def connect(settings: ServerSettings, login: Login | None = None) -> Server:
    """Open a server by its address; SettingsError where that cannot be: no qcportal, no answer, no entry."""
    try:
        from qcportal import PortalClient, PortalRequestError
        from qcportal.exceptions import AuthenticationFailure
    except ImportError as error:
        raise SettingsError(
            f"qm.server: a QCFractal server needs qcportal, which is not installed: {INSTALL}"
        ) from error
    # We say ourselves that a server does not answer, and do not mind its message of the day.
    for name in ("PortalClientBase", "PortalClient"):
        logging.getLogger(name).setLevel(logging.ERROR)
    user, password = (login.user, login.password) if login else (None, None)
    try:
        client: Client = PortalClient(settings.address, user, password, show_motd=False)
    except (OSError, ValueError, RuntimeError, PortalRequestError) as error:
        said = "refuses the login" if isinstance(error, AuthenticationFailure) else "cannot be used"
        raise SettingsError(
            f"qm.server: {settings.address} {said}: {' '.join(str(error).split())}"
        ) from error
    return Server(client, settings, refusals=(PortalRequestError, AuthenticationFailure))


def _by_level(tasks: Iterable[QMTask]) -> list[list[QMTask]]:
    """Tasks of one level and, because psi4's keywords go by the elements, of one way to integrate."""
    levels: dict[Any, list[QMTask]] = {}
    for task in tasks:
        integrals = psi4_keywords(task, _NEWEST_PSI4)["scf_type"] if task.spec.program == "psi4" else ""
        levels.setdefault((task.spec, integrals), []).append(task)
    return list(levels.values())


def status_of(record: Any) -> str:
    """The status as a word; qcportal's is an enumeration of words."""
    return str(getattr(record.status, "value", record.status))


def result_of(task: QMTask, record: Any) -> EngineResult:
    """What a finished record holds, with the corrections that belong to the level; in the own frame."""
    n_atoms = len(task.atomic_numbers)
    energy, gradient = float(record.properties["return_energy"]), None
    if task.spec.driver == "gradient":
        gradient = np.asarray(record.return_result, dtype=float).reshape(n_atoms, 3)
    for extra in corrections(in_own_frame(task)):
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    spins = (record.properties.get("calcinfo_nalpha"), record.properties.get("calcinfo_nbeta"))
    maker = record.provenance
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=np.asarray(record.molecule.geometry).reshape(n_atoms, 3) * ANGSTROM_PER_BOHR,
        electrons=None if None in spins else (int(spins[0]), int(spins[1])),
        provenance={
            "program": str(maker.creator).lower(),
            "version": str(maker.version),
            "scf_rung": "default",
            "host": str(getattr(maker, "hostname", "")),
            "server_record": str(record.id),
        },
    )

"""The straight line for one ligand, and the boundary at which an exception becomes a Failure.

    record -> standardise -> canonical ligand -> predict -> check -> the record's order -> deliver

Parameters are always computed on the canonical ligand, so that one molecule drawn twice gets the same numbers
to the last bit; files are written in the atom order of the record.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from pipeline.conformers import displaced_copies, generate_conformers
from pipeline.deliver import deliver
from pipeline.errors import ChildError, DiskError, StoreError
from pipeline.input_charges import charges_of
from pipeline.ledger_values import Prepared
from pipeline.library import Record
from pipeline.ligand import canonical_ligand, canonical_order, ligand_key, standardise
from pipeline.outcome import Failure, failure_from_exception
from pipeline.process.child import Isolate, Limits
from pipeline.sampling import sample_copies
from pipeline.schema import Conformers, FloatArray, Ligand, MMParameters, Parametrized, Topology
from pipeline.settings import LigandRules, Settings
from pipeline.topology import build_topology, restore_order
from pipeline.verify import check_parameters

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

STEP_SECONDS = 300.0
"""Wall-clock limit of standardising or delivering one ligand; both take well under a second."""

MAX_STARTS = 3
"""Conformers from which a torsion drive begins; the wavefront finds its way from there."""


class Predictor(Protocol):
    """Gives ligands their parameters; the network, or a fake in a test."""

    name: str
    version: str
    sha256: str

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        """Parameters of every term of the topology."""

    def predict_many(self, ligands: Sequence[tuple[Ligand, Topology]]) -> list[MMParameters]:
        """The same of several; what they are asked with changes no number."""


def attempt(
    ligand: str,
    stage: str,
    step: Callable[Arguments, Value],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Value | Failure:
    """Take one step for one ligand: the step's value, or the Failure that its exception stands for.

    This is the ligand's boundary, the only broad `except` of the repository. What is not about the ligand
    passes: Ctrl-C, a disk or a store that cannot be written.
    """
    try:
        return step(*args, **kwargs)
    except (DiskError, StoreError):
        raise
    except ChildError as error:
        if error.kind == "disk":
            raise DiskError(str(error)) from error
        return failure_from_exception(error, ligand=ligand, stage=stage)
    except Exception as error:  # noqa: BLE001 - a bad ligand must not stop the batch
        return failure_from_exception(error, ligand=ligand, stage=stage)


@dataclass(frozen=True, kw_only=True)
class StraightLine:
    """The steps for one ligand; each takes values, returns a new one, and raises on failure."""

    predictor: Predictor
    settings: Settings
    provenance: tuple[tuple[str, str], ...]
    """stamped on every file"""
    isolate: Isolate
    relax: Callable[[Ligand, str, Conformers], Conformers] | None = None
    """optimises conformers of a ligand (and its key) before they are copied; None: they stay as embedded"""
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def prepare(self, record: Record) -> Prepared:
        """Standardise a record, in a child process; RecordError or RefusedLigandError say why not."""
        prepared = self.isolate(standardise_record, record, self.settings.ligand, limits=self._limits())
        if self.settings.charges != "input":
            return prepared
        charges, note = charges_of(record, prepared)
        return replace(prepared, charges=charges, note="; ".join(filter(None, (prepared.note, note))))

    def predict(self, ligands: Sequence[Prepared]) -> list[MMParameters]:
        """Parameters of the canonical ligands, within their physical ranges; raises what any of them raises.

        Several in one call cost half of what they cost one by one, and get the same numbers.
        """
        pairs = [(prepared.canonical, build_topology(prepared.canonical)) for prepared in ligands]
        with self._lock:  # one model, called by several threads
            predicted = self.predictor.predict_many(pairs)
        for (ligand, topology), parameters in zip(pairs, predicted, strict=True):
            check_parameters(topology, parameters, ligand.total_charge)
        return predicted

    def conformer(self, prepared: Prepared) -> FloatArray:
        """One conformer: (n_atoms, 3) angstrom, canonical order."""
        settings = self.settings.conformers.model_copy(update={"n_embed": 1})
        coords: FloatArray = generate_conformers(
            prepared.canonical, settings, seed=_seed(prepared.ligand_key), isolate=self.isolate
        ).coords[0]
        return coords

    def deliver(self, prepared: Prepared, parameters: MMParameters, coords: FloatArray, folder: Path) -> None:
        """Write the files into `folder`, read them back and weigh them, in a child process."""
        topology, restored = restore_order(
            build_topology(prepared.canonical), parameters, np.array(prepared.order)
        )
        if prepared.charges is not None:
            restored = restored.with_charges(prepared.charges)
        parametrized = Parametrized(
            id=folder.name,
            ligand=prepared.ligand,
            topology=topology,
            parameters=restored,
            coords=coords,
            provenance=self.provenance,
        )
        export = self.settings.export
        self.isolate(
            deliver, parametrized, folder.absolute(), export.delivered, export.check, limits=self._limits()
        )

    def make_geometries(self, prepared: Prepared) -> FloatArray:
        """Conformers, then displaced copies of them: (n_points, n_atoms, 3) angstrom, canonical order."""
        qm, seed = self.settings.qm, _seed(prepared.ligand_key)
        found = generate_conformers(
            prepared.canonical, self.settings.conformers, seed=seed, isolate=self.isolate
        )
        conformers = Conformers(coords=found.coords[: qm.n_points])
        if self.relax is not None:
            conformers = self.relax(prepared.canonical, prepared.ligand_key, conformers)
        n_copies = qm.n_points - conformers.n_confs
        if n_copies == 0:
            return conformers.coords
        copies = self._copies(prepared, conformers, n_copies)
        return np.concatenate([conformers.coords, copies.coords])

    def _copies(self, prepared: Prepared, conformers: Conformers, n_copies: int) -> Conformers:
        """Displaced copies of conformers, in the way that the settings say."""
        qm, seed = self.settings.qm, _seed(prepared.ligand_key)
        if qm.sampling == "cartesian":
            return displaced_copies(conformers, n_copies, sigma=qm.displacement, seed=seed)
        force_field = (build_topology(prepared.canonical), self.predict([prepared])[0])
        work = partial(sample_copies, way=qm.sampling, seed=seed)
        return self.isolate(work, force_field, conformers, n_copies, limits=self._limits())

    def make_starts(self, ligand: Ligand) -> FloatArray:
        """The lowest conformers, from which a torsion drive begins: (n_starts, n_atoms, 3) angstrom."""
        seed = _seed(ligand_key(ligand))
        found = generate_conformers(ligand, self.settings.conformers, seed=seed, isolate=self.isolate)
        return found.coords[:MAX_STARTS]

    def _limits(self) -> Limits:
        return Limits(wall_seconds=STEP_SECONDS, memory_mb=self.settings.conformers.memory_mb)


def standardise_record(record: Record, rules: LigandRules) -> Prepared:
    """Standardise a record and find the canonical ligand that stands for its molecule."""
    ligand, conformers, note = standardise(record, rules)
    return Prepared(
        ligand=ligand,
        canonical=canonical_ligand(ligand),
        order=tuple(int(index) for index in canonical_order(ligand)),
        ligand_key=ligand_key(ligand),
        pose=None if conformers is None else conformers.coords[0],
        note=note,
    )


def _seed(ligand_key: str) -> int:
    """A seed that depends on the molecule alone."""
    return int(ligand_key[:7], 16)

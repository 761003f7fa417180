"""The cheap half of a plan of two levels: conformers optimised by QM before the dear single points."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.conformers import prune_conformers
from pipeline.database import Place
from pipeline.errors import QMError
from pipeline.outcome import Failure
from pipeline.qm.batch import Batch
from pipeline.qm.budget import Budget
from pipeline.qm.levels import spec_by_name
from pipeline.resp import MAX_POTENTIALS
from pipeline.schema import Conformers, Ligand, QMRecord, QMSpec, QMTask
from pipeline.settings import Settings
from pipeline.store import QMStore
from pipeline.topology import build_topology

Ending = QMRecord | Failure
Compute = Callable[[Sequence[QMTask]], Mapping[str, Ending]]
Relax = Callable[[Ligand, str, Conformers], Conformers]
"""ligand, its key and its conformers -> optimised ones, lowest first"""


def relax_conformers(
    ligand: Ligand,
    ligand_key: str,
    conformers: Conformers,
    *,
    spec: QMSpec,
    compute: Compute,
    prune_rms: float,
) -> Conformers:
    """Optimise conformers; those that failed, reacted or became another's copy are left out, lowest first.

    Raises QMError of the last failure's kind when none is left, and of kind budget where some were not begun:
    geometries are made once, and those of another time would be others.
    """
    numbers = build_topology(ligand).atomic_numbers
    tasks = [
        QMTask(
            ligand_key=ligand_key,
            atomic_numbers=numbers,
            coords=coords,
            total_charge=ligand.total_charge,
            spec=dataclasses.replace(spec, driver="optimise"),
        )
        for coords in conformers.coords
    ]
    endings = compute(tasks)
    records = [endings[task.key] for task in tasks]
    unbegun = [record for record in records if isinstance(record, Failure) and record.kind == "budget"]
    if unbegun:
        raise _why_none(ligand, unbegun)
    good = [record for record in records if isinstance(record, QMRecord) and not record.flags]
    if not good:
        raise _why_none(ligand, records)
    good.sort(key=lambda record: record.energy)
    relaxed = Conformers(coords=np.array([record.coords for record in good]))
    return prune_conformers(ligand, relaxed, prune_rms)


def _why_none(ligand: Ligand, records: Sequence[Ending]) -> QMError:
    last = records[-1]
    if isinstance(last, Failure):
        said = last.message.replace(last.ligand, ligand.name)
        return QMError(said, kind=last.kind, retryable=last.retryable)
    changes = dict(last.provenance).get("changed_bonds", ", ".join(last.flags))
    return QMError(f"{ligand.name}: every optimised conformer reacted: {changes}", kind="connectivity")


def foreseen_by(settings: Settings) -> Callable[[Ligand, str], Sequence[QMTask]] | None:
    """Foresee what the plan of two levels costs: a ligand and its key -> stand-ins for its calculations.

    At most so many conformers are optimised as there will be geometries, whose single points and potentials
    follow. None when the settings ask for no optimisation.
    """
    name, n_points = settings.qm.optimise_spec, settings.qm.n_points
    if name is None:
        return None
    cheap = dataclasses.replace(spec_by_name(name), driver="optimise")
    dear = spec_by_name(settings.qm.spec, settings.qm.program)
    counts = {cheap: n_points, dear: n_points}
    if settings.charges == "resp":
        counts[spec_by_name("charges")] = min(n_points, MAX_POTENTIALS)

    def foresee(ligand: Ligand, ligand_key: str) -> Sequence[QMTask]:
        numbers = build_topology(ligand).atomic_numbers
        return [
            QMTask(
                ligand_key=ligand_key,
                atomic_numbers=numbers,
                coords=np.zeros((len(numbers), 3)),  # sizes decide the cost, not where the atoms are
                total_charge=ligand.total_charge,
                spec=spec,
            )
            for spec, count in counts.items()
            for _ in range(count)
        ]

    return foresee


def relax_by(store: Place | Path, settings: Settings, budget: Budget) -> Relax | None:
    """The optimiser that the settings ask for, over a store and within a budget; None when they ask for none.

    It may be called from several threads: each call opens the store for itself.
    """
    name = settings.qm.optimise_spec
    if name is None:
        return None
    spec = spec_by_name(name)

    def relax(ligand: Ligand, ligand_key: str, conformers: Conformers) -> Conformers:
        with QMStore(store) as opened, Batch(opened, settings.qm, jobs=1, budget=budget) as batch:
            return relax_conformers(
                ligand,
                ligand_key,
                conformers,
                spec=spec,
                compute=lambda tasks: batch.run(tasks, on_result=lambda *_: None),
                prune_rms=settings.conformers.prune_rms,
            )

    return relax

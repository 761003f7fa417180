"""The QM references of a molecule: its calculations, what the store has of them, why they are too few."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.campaign import Campaign
from pipeline.errors import QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.refine_bench import Bench, Molecule
from pipeline.schema import QMRecord, QMTask
from pipeline.topology import build_topology

MIN_REFERENCES = 3
"""Fewer calculated geometries than this cannot be divided into those tuned on and those tested on."""


def qm_tasks(campaign: Campaign, bench: Bench, molecule: Molecule) -> list[QMTask]:
    """The calculations of one molecule, one per geometry."""
    coords = campaign.ledger.geometries(molecule.ligand_key)
    if coords is None:
        return []
    topology = build_topology(molecule.prepared.canonical)
    return [
        QMTask(
            ligand_key=molecule.ligand_key,
            atomic_numbers=topology.atomic_numbers,
            coords=geometry,
            total_charge=molecule.prepared.canonical.total_charge,
            spec=bench.qm.spec,
        )
        for geometry in coords
    ]


def missing_tasks(campaign: Campaign, bench: Bench, some: Sequence[Molecule]) -> list[QMTask]:
    """The calculations that the store does not hold yet."""
    missing = []
    for molecule in some:
        tasks = {task.key: task for task in qm_tasks(campaign, bench, molecule)}
        found = bench.qm.find(tasks)
        missing += [task for key, task in tasks.items() if key not in found]
    return missing


def find_records(campaign: Campaign, bench: Bench, molecule: Molecule) -> tuple[QMRecord, ...]:
    """The unflagged results of one molecule that the store holds, in the order of its geometries."""
    keys = [task.key for task in qm_tasks(campaign, bench, molecule)]
    found = bench.qm.find(keys)
    return tuple(found[key] for key in keys if key in found and not found[key].flags)


def why_too_few(molecule: Molecule, failures: Sequence[Failure], n_found: int, n_points: int) -> Failure:
    """The molecule's failure: worth a retry when the calculations that are would make up the number."""
    if not failures:
        error = QMError("the calculations gave no result; run again", kind="lost", retryable=True)
        return failure_from_exception(error, ligand=molecule.name, stage="qm")
    again = [failure for failure in failures if failure.retryable]
    retryable = n_found + len(again) >= min(MIN_REFERENCES, n_points)
    # The failure that speaks is of the sort that decides.
    last = again[-1] if retryable else next((f for f in reversed(failures) if not f.retryable), failures[-1])
    message = f"only {n_found} of {n_points} QM calculations succeeded; the last failure: {last.message}"
    return replace(last, ligand=molecule.name, message=message, retryable=retryable)

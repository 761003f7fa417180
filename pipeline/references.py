"""The QM of a molecule: its calculations, what the store has of them, and the reference that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.campaign import Campaign
from pipeline.conformers import prune_conformers
from pipeline.errors import QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.refine_bench import Bench, Molecule
from pipeline.resp import MAX_POTENTIALS, fit_resp
from pipeline.schema import Conformers, FloatArray, QMRecord, QMSpec, QMTask, Reference
from pipeline.topology import build_topology

MIN_REFERENCES = 3
"""Fewer calculated geometries than this cannot be divided into those tuned on and those tested on."""


def qm_tasks(campaign: Campaign, bench: Bench, molecule: Molecule) -> list[QMTask]:
    """The calculations of one molecule whose energies and forces are tuned on, one per geometry."""
    coords = campaign.ledger.geometries(molecule.ligand_key)
    return [] if coords is None else _tasks(molecule, coords, bench.qm.spec)


def potential_tasks(campaign: Campaign, bench: Bench, molecule: Molecule) -> list[QMTask]:
    """The potentials to which its charges are fitted, one per conformer; none where the model's are used."""
    coords = campaign.ledger.geometries(molecule.ligand_key)
    if bench.charges is None or coords is None:
        return []
    # Displaced copies are as close to their conformer as no two conformers are to each other.
    conformers = prune_conformers(
        molecule.prepared.canonical, Conformers(coords=coords), bench.charges.prune_rms
    )
    return _tasks(molecule, conformers.coords[:MAX_POTENTIALS], bench.charges.spec)


def _tasks(molecule: Molecule, coords: FloatArray, spec: QMSpec) -> list[QMTask]:
    topology = build_topology(molecule.prepared.canonical)
    return [
        QMTask(
            ligand_key=molecule.ligand_key,
            atomic_numbers=topology.atomic_numbers,
            coords=geometry,
            total_charge=molecule.prepared.canonical.total_charge,
            spec=spec,
        )
        for geometry in coords
    ]


def all_tasks(campaign: Campaign, bench: Bench, molecule: Molecule) -> list[QMTask]:
    """All calculations of one molecule."""
    return qm_tasks(campaign, bench, molecule) + potential_tasks(campaign, bench, molecule)


def missing_tasks(campaign: Campaign, bench: Bench, some: Sequence[Molecule]) -> list[QMTask]:
    """The calculations that the store does not hold yet."""
    missing = []
    for molecule in some:
        tasks = {task.key: task for task in all_tasks(campaign, bench, molecule)}
        found = bench.qm.find(tasks)
        missing += [task for key, task in tasks.items() if key not in found]
    return missing


def find_records(bench: Bench, tasks: Sequence[QMTask]) -> tuple[QMRecord, ...]:
    """The unflagged results of these calculations that the store holds, in their order."""
    keys = [task.key for task in tasks]
    found = bench.qm.find(keys)
    return tuple(found[key] for key in keys if key in found and not found[key].flags)


def reference_of(campaign: Campaign, bench: Bench, molecule: Molecule) -> Reference:
    """What the store has of a molecule, to be tuned on; QMError where no charges can be fitted."""
    ligand = molecule.prepared.canonical
    potentials = find_records(bench, potential_tasks(campaign, bench, molecule))
    return Reference(
        ligand=ligand,
        topology=build_topology(ligand),
        records=find_records(bench, qm_tasks(campaign, bench, molecule)),
        charges=None if bench.charges is None else fit_resp(ligand, potentials).charges,
    )


def why_too_few(
    campaign: Campaign, bench: Bench, molecule: Molecule, failures: Mapping[str, Failure]
) -> Failure | None:
    """A molecule's failure where it has too little QM to go on with, from failures by task key; else None.

    A reference may lack where there are others like it; a potential may not, for the charges would depend on
    which. What the budget did not pay for is waited for: no result depends on the budget.
    """
    references = qm_tasks(campaign, bench, molecule)
    potentials = potential_tasks(campaign, bench, molecule)
    its = [failures[task.key] for task in (*references, *potentials) if task.key in failures]
    unpaid = [failure for failure in its if failure.kind == "budget"]
    if unpaid:
        said = unpaid[-1].message.replace(unpaid[-1].ligand, molecule.name)
        n_tasks = len(references) + len(potentials)
        message = f"{len(unpaid)} of {n_tasks} QM calculations wait for more budget: {said}"
        return replace(unpaid[-1], ligand=molecule.name, message=message)
    n_potentials = len(bench.qm.find([task.key for task in potentials]))
    for tasks, n_found, n_needed in (
        (references, len(find_records(bench, references)), min(MIN_REFERENCES, len(references))),
        (potentials, n_potentials, len(potentials)),
    ):
        if n_found < n_needed:
            its = [failures[task.key] for task in tasks if task.key in failures]
            return _too_few(molecule, its, n_found, n_needed, len(tasks))
    return None


def _too_few(
    molecule: Molecule, failures: Sequence[Failure], n_found: int, n_needed: int, n_tasks: int
) -> Failure:
    """The failure: worth a retry when the calculations that are would make up the number."""
    if not failures:
        error = QMError("the calculations gave no result; run again", kind="lost", retryable=True)
        return failure_from_exception(error, ligand=molecule.name, stage="qm")
    again = [failure for failure in failures if failure.retryable]
    retryable = n_found + len(again) >= n_needed
    # The failure that speaks is of the sort that decides.
    last = again[-1] if retryable else next((f for f in reversed(failures) if not f.retryable), failures[-1])
    said = last.message.replace(last.ligand, molecule.name)
    message = f"only {n_found} of {n_tasks} QM calculations succeeded; the last failure: {said}"
    return replace(last, ligand=molecule.name, message=message, retryable=retryable)

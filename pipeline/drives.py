"""Torsion drives of a library's fragments, as further references for the fine-tuning.

    ligands -> plan (fragments, each drive once) -> starts -> drives at a cheap level -> single points

Nothing here is kept but the starting geometries: what was computed is in the QM store, and a drive is
replayed from there (`pipeline.qm.torsion_drive`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.campaign import Campaign, each
from pipeline.fragments.drive_plan import Drive, plan_drives
from pipeline.outcome import Failure
from pipeline.parametrize import attempt
from pipeline.qm.bench import QMBench
from pipeline.qm.torsion_drive import DriveTask, Ending, TorsionProfile, replay_drive, run_drives
from pipeline.schema import FloatArray, Ligand, QMRecord, QMSpec, QMTask, Reference
from pipeline.settings import FragmentSettings
from pipeline.topology import build_topology

WINDOW = 20.0
"""kcal/mol above a profile's lowest: points higher up are walls that no simulation meets, and no reference"""
_OPTIMISATIONS_PER_POINT = 2.2
"""of the wavefront; butane, biaryls and anilides took 2.0 to 2.5"""


@dataclass(frozen=True, kw_only=True)
class DriveBench:
    """How drives are made."""

    fragments: FragmentSettings
    spec: QMSpec
    """of the optimisations; the single points are at the level of the other references"""
    spacing: int
    """degree"""
    make_starts: Callable[[Ligand], FloatArray]
    """(n_starts, n_atoms, 3) angstrom"""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedDrive:
    """A drive with its starting geometries."""

    drive: Drive
    task: DriveTask


def prepare_drives(campaign: Campaign, drives: DriveBench, ligands: Sequence[Ligand]) -> list[PlannedDrive]:
    """Plan the drives of these ligands and make their starting geometries, where the ledger lacks them.

    A fragment without a geometry is left out, and said.
    """
    plan = plan_drives(ligands, set(), drives.fragments)
    ledger = campaign.ledger
    lacking = [drive for drive in plan.drives if ledger.geometries(drive.key) is None]
    campaign.watch.begin("fragment conformers", len(lacking))

    def work(drive: Drive) -> FloatArray | Failure:
        return attempt(drive.ligand.name, "conformers", drives.make_starts, drive.ligand)

    for drive, ending, _ in each(campaign, "conformers", lacking, work):
        campaign.watch.advance("fragment conformers")
        if isinstance(ending, Failure):
            campaign.watch.say(f"fragment {drive.ligand.name}: not driven: {ending.message}")
        else:
            ledger.keep_geometries(drive.key, ending)
    planned = []
    for drive in plan.drives:
        starts = ledger.geometries(drive.key)
        if starts is not None:
            planned.append(PlannedDrive(drive=drive, task=_drive_task(drive, starts, drives)))
    return planned


def _drive_task(drive: Drive, starts: FloatArray, drives: DriveBench) -> DriveTask:
    return DriveTask(
        key=drive.key,
        atomic_numbers=build_topology(drive.ligand).atomic_numbers,
        starts=starts,
        total_charge=drive.ligand.total_charge,
        dihedral=drive.dihedral,
        spacing=drives.spacing,
        spec=drives.spec,
    )


def foreseen_tasks(qm: QMBench, planned: Sequence[PlannedDrive]) -> list[QMTask]:
    """Stand-ins for what the drives will compute that the store lacks, for the estimate of the cost."""
    foreseen = []
    for one in planned:
        replay = replay_drive(one.task, qm.find)
        known = replay.ending
        n_points = 360 // one.task.spacing
        if replay.n_missing:
            n_found = known.n_optimisations - known.n_failed if isinstance(known, TorsionProfile) else 0
            n_left = max(replay.n_missing, round(_OPTIMISATIONS_PER_POINT * n_points) - n_found)
            foreseen += [_at_start(one.task, one.task.spec)] * n_left
            foreseen += [_at_start(one.task, qm.spec)] * n_points
        elif isinstance(known, TorsionProfile):
            tasks = {task.key: task for task in single_points(one.task, known, qm.spec)}
            found = qm.find(tasks)
            foreseen += [task for key, task in tasks.items() if key not in found]
    return foreseen


def _at_start(task: DriveTask, spec: QMSpec) -> QMTask:
    return QMTask(
        ligand_key=task.key,
        atomic_numbers=task.atomic_numbers,
        coords=task.starts[0],
        total_charge=task.total_charge,
        spec=spec,
    )


def single_points(task: DriveTask, profile: TorsionProfile, spec: QMSpec) -> list[QMTask]:
    """The calculations at the dear level, one per point of a profile inside the window."""
    return [
        QMTask(
            ligand_key=task.key,
            atomic_numbers=task.atomic_numbers,
            coords=record.coords,
            total_charge=task.total_charge,
            spec=spec,
        )
        for record, energy in zip(profile.records, profile.energies, strict=True)
        if energy <= WINDOW
    ]


def compute_drives(campaign: Campaign, qm: QMBench, planned: Sequence[PlannedDrive]) -> dict[str, Failure]:
    """Run the drives to their ends, then the single points; what failed is said.

    Gives, by key, the drives for which the budget was too small: they can be gone on with.
    """
    unfinished: dict[str, Failure] = {}
    watch = campaign.watch
    watch.begin("torsion drives", sum(360 // one.task.spacing for one in planned))
    reached: set[tuple[str, int]] = set()

    def note_budget(task: QMTask, ending: Ending) -> None:
        if isinstance(ending, Failure) and ending.kind == "budget":
            unfinished[task.ligand_key] = ending

    def compute(tasks: Sequence[QMTask]) -> Mapping[str, Ending]:
        endings: dict[str, Ending] = {}

        def on_result(task: QMTask, ending: Ending) -> None:
            endings[task.key] = ending
            note_budget(task, ending)
            point = (task.ligand_key, round(1e6 * (task.constraints[0].angle or 0.0)))
            if point not in reached:
                reached.add(point)
                watch.advance("torsion drives")

        qm.compute(tasks, on_result)
        return endings

    profiles = run_drives([one.task for one in planned], compute)
    tasks = []
    for one in planned:
        profile = profiles[one.task.key]
        if isinstance(profile, Failure):
            said = profile.message.replace(profile.ligand, one.drive.ligand.name)
            watch.say(f"fragment {one.drive.ligand.name}: the torsion drive failed: {said}")
            continue
        if profile.n_failed:
            watch.say(
                f"fragment {one.drive.ligand.name}: {profile.n_failed} of {profile.n_optimisations} "
                "optimisations of its torsion drive failed"
            )
        tasks += single_points(one.task, profile, qm.spec)
    watch.begin("single points", len(tasks))

    def on_single_point(task: QMTask, ending: Ending) -> None:
        note_budget(task, ending)
        watch.advance("single points")

    if tasks:
        qm.compute(tasks, on_single_point)
    return unfinished


def drive_references(qm: QMBench, planned: Sequence[PlannedDrive]) -> list[Reference]:
    """What the finished drives give to the fine-tuning, one reference per fragment, from the store alone.

    A flagged single point is left out.
    """
    records: dict[str, dict[str, QMRecord]] = {}
    ligands: dict[str, Ligand] = {}
    for one in planned:
        profile = replay_drive(one.task, qm.find).ending
        if not isinstance(profile, TorsionProfile):
            continue
        keys = [task.key for task in single_points(one.task, profile, qm.spec)]
        found = qm.find(keys)
        smiles = one.drive.ligand.mapped_smiles
        ligands[smiles] = one.drive.ligand
        good = {key: found[key] for key in keys if key in found and not found[key].flags}
        records.setdefault(smiles, {}).update(good)
    return [
        Reference(
            ligand=ligands[smiles], topology=build_topology(ligands[smiles]), records=tuple(some.values())
        )
        for smiles, some in records.items()
        if some
    ]


def join_references(own: Sequence[Reference], driven: Sequence[Reference], fewest: int) -> list[Reference]:
    """The ligands' own references in their order, each with the drive points of the same molecule, then those
    of the fragments that are no ligand and have at least `fewest` points.
    """
    of_molecule = {reference.ligand.mapped_smiles: reference for reference in driven}
    joined = []
    for reference in own:
        more = of_molecule.pop(reference.ligand.mapped_smiles, None)
        records = reference.records if more is None else (*reference.records, *more.records)
        joined.append(replace(reference, records=records))
    return joined + [reference for reference in of_molecule.values() if len(reference.records) >= fewest]

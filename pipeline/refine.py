"""Refine: every ligand gets QM references of its own, and the network's readouts are tuned on all of them.

    prepare records -> geometries of each molecule -> QM (cost stated first) -> fine-tune jointly -> deliver

A molecule that stands in the library several times is computed once and delivered to each of its records. The
phases talk only through the ledger and the QM store, so each can run on a part of the library, anywhere.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from pipeline.campaign import (
    Campaign,
    deliver_record,
    each,
    end,
    leased,
    note,
    pose,
    prepare_record,
    settle,
    with_note,
)
from pipeline.drives import (
    PlannedDrive,
    compute_drives,
    drive_references,
    foreseen_tasks,
    join_references,
    prepare_drives,
)
from pipeline.ledger import Ledger
from pipeline.ledger_values import Fit, Prepared
from pipeline.library import Record
from pipeline.outcome import Delivered, Failure
from pipeline.outcomes_table import FIT_COLUMNS, write_csv
from pipeline.parametrize import attempt
from pipeline.references import MIN_REFERENCES, missing_tasks, qm_tasks, reference_of, why_too_few
from pipeline.refine_bench import Bench, LigandFit, Molecule
from pipeline.refine_cost import say_cost
from pipeline.schema import FloatArray, QMRecord, QMTask, Reference


def prepare(campaign: Campaign, numbers: Iterable[int]) -> None:
    """Standardise these records; the refused are settled, the others' ligands go into the ledger."""
    ledger = campaign.ledger
    undone = [number for number in numbers if ledger.prepared(ledger.record(number)[0]) is None]
    campaign.watch.begin("standardise", len(undone))
    with leased(campaign, undone) as (held, mine):
        records = (ledger.record(number) for number in mine)
        for (id_, record), ending, seconds in each(
            held, "standardise", records, lambda numbered: prepare_record(campaign.line, numbered[1])
        ):
            campaign.watch.advance("standardise")
            if isinstance(ending, Failure):
                end(held, (id_, record), ending, "standardise", seconds)
            else:
                note(held, id_, "standardise", ending, seconds)
                ledger.keep_prepared(id_, ending)


def molecules(campaign: Campaign, keys: Collection[str] | None = None) -> list[Molecule]:
    """The distinct molecules whose references can be tuned on (or those with these keys), in input order."""
    ledger = campaign.ledger
    by_key: dict[str, Molecule] = {}
    for number, key in ledger.in_tuning():
        if keys is not None and key not in keys:
            continue
        id_, record = ledger.record(number)
        molecule = by_key.setdefault(key, Molecule(ligand_key=key, prepared=_prepared(ledger, id_)))
        molecule.members.append((id_, record))
    return list(by_key.values())


def _settle_all(campaign: Campaign, molecule: Molecule, failure: Failure) -> None:
    for id_, record in molecule.members:
        settle(campaign, id_, record, with_note(failure, _prepared(campaign.ledger, id_)))


def _prepared(ledger: Ledger, id_: str) -> Prepared:
    prepared = ledger.prepared(id_)
    if prepared is None:
        raise RuntimeError(f"record {id_} was not prepared: this is a bug in parmflow")
    return prepared


def foresee(campaign: Campaign, bench: Bench, some: Sequence[Molecule]) -> None:
    """Settle the molecules that model or level of theory cannot do, before any QM is spent on them."""
    for molecule in some:
        problem: object = attempt(molecule.name, "predict", campaign.line.predict, [molecule.prepared])
        if bench.check is not None and not isinstance(problem, Failure):
            problem = attempt(molecule.name, "qm", bench.check, molecule.prepared.ligand)
        if isinstance(problem, Failure):
            _settle_all(campaign, molecule, problem)


def make_geometries(campaign: Campaign, bench: Bench, some: Sequence[Molecule]) -> None:
    """Make the geometries of the QM calculations, where the ledger lacks them."""
    ledger = campaign.ledger
    lacking = [molecule for molecule in some if ledger.geometries(molecule.ligand_key) is None]
    campaign.watch.begin("conformers", len(lacking))

    def work(molecule: Molecule) -> FloatArray | Failure:
        return attempt(molecule.name, "conformers", bench.make_geometries, molecule.prepared)

    for molecule, ending, seconds in each(campaign, "conformers", lacking, work):
        campaign.watch.advance("conformers")
        note(campaign, molecule.members[0][0], "conformers", ending, seconds)
        if isinstance(ending, Failure):
            _settle_all(campaign, molecule, ending)
        else:
            ledger.keep_geometries(molecule.ligand_key, ending)


def planned_drives(campaign: Campaign, bench: Bench) -> list[PlannedDrive]:
    """The torsion drives of the run, with their starting geometries; none when none are asked for."""
    if bench.drives is None:
        return []
    ligands = [molecule.prepared.canonical for molecule in molecules(campaign)]
    return prepare_drives(campaign, bench.drives, ligands)


def drive_torsions(campaign: Campaign, bench: Bench) -> None:
    """Run the torsion drives of all fragments, each once; who waits for more budget is settled so."""
    some, planned = molecules(campaign), planned_drives(campaign, bench)
    if not planned:
        return
    unfinished = compute_drives(campaign, bench.qm, planned)
    waiting = {
        use.ligand_idx: unfinished[one.drive.key]
        for one in planned
        if one.drive.key in unfinished
        for use in one.drive.uses
    }
    for idx, failure in waiting.items():
        _settle_all(campaign, some[idx], replace(failure, ligand=some[idx].name))


def state_cost_of_relaxing(campaign: Campaign, bench: Bench) -> None:
    """Do as `state_cost` before geometries are made, where making them is QM already."""
    if bench.foresee_relaxed is not None and _without_geometries(campaign):
        state_cost(campaign, bench)


def _without_geometries(campaign: Campaign) -> list[Molecule]:
    return [one for one in molecules(campaign) if campaign.ledger.geometries(one.ligand_key) is None]


def state_cost(campaign: Campaign, bench: Bench) -> None:
    """Say what the QM will cost before it starts; SettingsError when that is more than the budget."""
    if bench.charges is not None:
        campaign.watch.say(
            f"Charges are fitted to potentials at {bench.charges.spec.level} (RESP). The shipped terms were "
            "trained beside the model's own charges; what the fine-tuning makes of them is in fits.csv."
        )
    planned = planned_drives(campaign, bench)
    if planned:
        n_uses = sum(len(one.drive.uses) for one in planned)
        campaign.watch.say(f"{len(planned)} torsion drives on fragments serve {n_uses} bonds.")
    tasks = missing_tasks(campaign, bench, molecules(campaign))
    tasks += foreseen_tasks(bench.qm, planned)
    if bench.foresee_relaxed is not None:
        for molecule in _without_geometries(campaign):
            tasks += bench.foresee_relaxed(molecule.prepared.canonical, molecule.ligand_key)
    say_cost(bench.qm, campaign.watch, tasks, bench.budget_seconds)


def compute_qm(campaign: Campaign, bench: Bench, some: Sequence[Molecule]) -> None:
    """Compute what is missing; a molecule with too few results is settled with a failure of its own."""
    tasks = missing_tasks(campaign, bench, some)
    campaign.watch.begin("qm", len(tasks))
    payer = {molecule.ligand_key: molecule.members[0][0] for molecule in some}
    failures: dict[str, Failure] = {}

    def on_result(task: QMTask, ending: QMRecord | Failure) -> None:
        campaign.watch.advance("qm")
        if isinstance(ending, Failure):
            failures[task.key] = ending
        seconds = 0.0 if isinstance(ending, Failure) else dict(ending.provenance).get("wall_seconds", "0")
        note(campaign, payer[task.ligand_key], "qm", ending, float(seconds))

    if tasks:
        with leased(campaign, (record.number for molecule in some for _, record in molecule.members)):
            bench.qm.compute(tasks, on_result)
    for molecule in some:
        failure = why_too_few(campaign, bench, molecule, failures)
        if failure is not None:
            _settle_all(campaign, molecule, failure)


def tune(campaign: Campaign, bench: Bench) -> None:
    """Fine-tune on all references together; what was tuned on other references is dropped.

    The tuning is joint, so a ligand more or less changes the parameters of all: then all are delivered again.
    """
    ledger = campaign.ledger
    some, own = _own_references(campaign, bench)
    driven = drive_references(bench.qm, planned_drives(campaign, bench))
    references = join_references(own, driven, MIN_REFERENCES)
    digest = _digest(references)
    if not some or digest == ledger.recall("references"):
        return
    campaign.watch.begin("fine-tune", bench.n_steps)
    fits = attempt(
        "all ligands", "fine-tune", bench.fine_tune, references, lambda: campaign.watch.advance("fine-tune")
    )
    ledger.forget_deliveries()
    if isinstance(fits, Failure):
        for molecule in some:
            _settle_all(campaign, molecule, fits)
        return
    kept = {
        molecule.ligand_key: _fit_of(fit, n_qm, len(qm_tasks(campaign, bench, molecule)))
        # The fits after the ligands' own are those of fragments.
        for molecule, fit, n_qm in zip(some, fits, [len(one.records) for one in own], strict=False)
    }
    ledger.replace_fits(digest, kept)


def _own_references(campaign: Campaign, bench: Bench) -> tuple[list[Molecule], list[Reference]]:
    """The molecules with what the store has of them; one to which no charges can be fitted is settled."""
    some, own = [], []
    for molecule in molecules(campaign):
        reference = attempt(molecule.name, "qm", reference_of, campaign, bench, molecule)
        if isinstance(reference, Failure):
            _settle_all(campaign, molecule, reference)
        else:
            some.append(molecule)
            own.append(reference)
    return some, own


def _digest(references: Sequence[Reference]) -> str:
    text = "\n".join(
        " ".join(
            [
                reference.ligand.mapped_smiles,
                *(record.task_key for record in reference.records),
                *(f"{charge:.8f}" for charge in ([] if reference.charges is None else reference.charges)),
            ]
        )
        for reference in references
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _fit_of(fit: LigandFit, n_qm: int, n_points: int) -> Fit:
    return Fit(
        parameters=fit.parameters,
        kept=fit.kept,
        n_qm=n_qm,
        n_qm_failed=n_points - n_qm,
        energy_rmse_before=fit.energy_rmse_before,
        energy_rmse_after=fit.energy_rmse_after,
        force_rmse_before=fit.force_rmse_before,
        force_rmse_after=fit.force_rmse_after,
    )


def deliver_fits(campaign: Campaign, numbers: Iterable[int]) -> None:
    """Write the files of these records from their fits, and settle each."""
    ledger = campaign.ledger
    numbers = list(numbers)
    campaign.watch.begin("deliver", len(numbers))

    def items(mine: Iterable[int]) -> Iterable[tuple[str, Record, Prepared, Fit]]:
        for number in mine:
            id_, record = ledger.record(number)
            prepared = ledger.prepared(id_)
            fit = ledger.fit(prepared.ligand_key) if prepared else None
            if prepared is None or fit is None:
                raise RuntimeError(f"record {number} has no fit: this is a bug in parmflow")
            yield id_, record, prepared, fit

    def work(item: tuple[str, Record, Prepared, Fit]) -> Delivered | Failure:
        id_, _, prepared, fit = item
        coords = pose(campaign.line, prepared)
        if isinstance(coords, Failure):
            return coords
        return deliver_record(campaign, id_, prepared, fit.parameters, coords)

    with leased(campaign, numbers) as (held, mine):
        for (id_, record, _, _), ending, seconds in each(held, "deliver", items(mine), work):
            campaign.watch.advance("deliver")
            end(held, (id_, record), ending, "deliver", seconds)


def write_fits(campaign: Campaign) -> None:
    """Write fits.csv: the errors of every delivered record before and after, and how much QM they rest on."""
    rows = []
    for number in campaign.ledger.numbers(status="ok"):
        id_, record = campaign.ledger.record(number)
        prepared = campaign.ledger.prepared(id_)
        fit = campaign.ledger.fit(prepared.ligand_key) if prepared else None
        if fit is not None:
            values = {"record": number, "name": record.name, "id": id_} | vars(fit)
            rows.append([values[column] for column in FIT_COLUMNS])
    write_csv(campaign.folder / "fits.csv", FIT_COLUMNS, rows)


def plan(campaign: Campaign, bench: Bench) -> None:
    """Walk to where the cost of the QM is known and said; SettingsError where that is above the budget."""
    prepare(campaign, campaign.ledger.numbers(status="undone"))
    foresee(campaign, bench, molecules(campaign))
    state_cost_of_relaxing(campaign, bench)
    make_geometries(campaign, bench, molecules(campaign))
    state_cost(campaign, bench)


def compute(campaign: Campaign, bench: Bench) -> None:
    """Spend what was said."""
    compute_qm(campaign, bench, molecules(campaign))
    drive_torsions(campaign, bench)


def refine(campaign: Campaign, bench: Bench) -> None:
    """Run all phases on the whole library; a run in which every record is settled is left as it is."""
    if campaign.ledger.numbers(status="undone"):
        plan(campaign, bench)
        compute(campaign, bench)
        tune(campaign, bench)
        deliver_fits(campaign, campaign.ledger.numbers(status="undone"))
    write_fits(campaign)

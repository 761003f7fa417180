"""The bench of a refinement with the real doors in place: levels of theory, engines, store, fine-tuner."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from flows.request import Request, server_login, store_place
from models.finetune import LigandFit, fine_tune
from models.predict import Predictor
from pipeline.drives import DriveBench
from pipeline.errors import SettingsError
from pipeline.parametrize import StraightLine
from pipeline.qm.levels import check_molecule, spec_by_name
from pipeline.qm.methods import is_installed
from pipeline.qm.relax import foreseen_by, relax_by
from pipeline.qm.remote import connect
from pipeline.qm.stored import open_qm
from pipeline.refine_bench import Bench, ChargeBench
from pipeline.schema import Ligand, QMSpec, Reference
from pipeline.settings import Settings
from pipeline.topology import build_topology


def spec_of(name: str, program: str = "auto") -> QMSpec:
    """A level of theory that the settings name; SettingsError where its program is not installed."""
    spec = spec_by_name(name, program)
    if not is_installed(spec.program):
        raise SettingsError(f"{spec.program} is not installed; run `parmflow doctor`")
    return spec


def specs_of(settings: Settings) -> list[QMSpec]:
    """The levels at which every ligand is computed, that of the references first."""
    qm = settings.qm
    specs = [spec_by_name(qm.spec, qm.program) if qm.server.address else spec_of(qm.spec, qm.program)]
    if settings.qm.optimise_spec is not None:
        specs.append(spec_of(settings.qm.optimise_spec))
    if settings.charges == "resp":
        specs.append(spec_of("charges"))
    return specs


def drives_of(settings: Settings, line: StraightLine) -> DriveBench | None:
    """How torsion drives are made, where the settings ask for them."""
    if not settings.qm.torsion_drives:
        return None
    spec = spec_of(settings.qm.drive_spec)
    return DriveBench(
        fragments=settings.fragments,
        spec=dataclasses.replace(spec, driver="optimise"),
        spacing=settings.qm.drive_spacing,
        make_starts=line.make_starts,
    )


def charges_of(settings: Settings) -> ChargeBench | None:
    """How charges are fitted, where the settings ask for it."""
    if settings.charges != "resp":
        return None
    return ChargeBench(spec=spec_by_name("charges"), prune_rms=settings.conformers.prune_rms)


@contextlib.contextmanager
def open_bench(request: Request, predictor: Predictor, line: StraightLine, jobs: int) -> Iterator[Bench]:
    """Engines, store and fine-tuner of a request, for so many cores."""
    settings, specs = request.settings, specs_of(request.settings)

    def check(ligand: Ligand) -> None:
        numbers = build_topology(ligand).atomic_numbers
        check_molecule(ligand.name, numbers, ligand.total_charge, specs)

    def tune(references: Sequence[Reference], ring: Callable[[], None]) -> Sequence[LigandFit]:
        return fine_tune(predictor, references, settings.fine_tune, on_step=lambda *_: ring())

    place = store_place(request.store)
    server = connect(settings.qm.server, server_login()) if settings.qm.server.address else None
    with open_qm(place, settings.model_copy(update={"jobs": jobs}), server) as qm:
        relax = relax_by(place, settings, qm.budget)
        yield Bench(
            qm=qm,
            make_geometries=dataclasses.replace(line, relax=relax).make_geometries,
            fine_tune=tune,
            n_steps=settings.fine_tune.steps,
            budget_seconds=settings.qm.budget_seconds if settings.qm.over_budget == "refuse" else None,
            drives=drives_of(settings, line),
            charges=charges_of(settings),
            check=check,
            foresee_relaxed=foreseen_by(settings),
        )

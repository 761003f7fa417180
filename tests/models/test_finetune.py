"""Fine-tuning on QM records made by a force field that is known."""

import dataclasses

import numpy as np
import openmm
import pytest
import torch

from models.charges import ChargeEnsemble, ChargeNetwork
from models.domain import Domain
from models.finetune import fine_tune, is_improvement
from models.network import ValenceEnsemble, ValenceNetwork
from models.predict import Predictor
from models.readouts import CLASS1_NAMES
from models.weights import Model
from pipeline.export.openmm_system import build_system
from pipeline.schema import QMRecord, QMSpec, Reference
from pipeline.settings import FineTuneSettings
from pipeline.topology import build_topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.training_tables import geometries, untrained_model


@pytest.fixture
def model() -> Model:
    return untrained_model()


def references(build_ligand, n_points: int = 8) -> list[Reference]:
    """QM records of a known force field: the model's own parameters with stiffer, longer bonds."""
    truth = Predictor(untrained_model())
    spec = QMSpec(program="test", method="mm", basis=None, dispersion=None)
    found = []
    for smiles in ("CCO", "CC(N)=O"):
        ligand = build_ligand(smiles)
        topology = build_topology(ligand)
        parameters = truth.predict(ligand, topology)
        changed = dataclasses.replace(
            parameters, bond_k=parameters.bond_k * 1.2, bond_length=parameters.bond_length * 1.02
        )
        system = build_system(topology, changed)
        records = tuple(_record(system, coords, spec) for coords in geometries(smiles, n_points))
        found.append(Reference(ligand=ligand, topology=topology, records=records))
    return found


def _record(system, coords: np.ndarray, spec: QMSpec) -> QMRecord:
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(coords / ANGSTROM_PER_NM)
    state = context.getState(energy=True, forces=True)
    per_angstrom = KJ_PER_KCAL * ANGSTROM_PER_NM
    return QMRecord(
        task_key="",
        ligand_key="",
        spec=spec,
        coords=coords,
        energy=state.getPotentialEnergy()._value / KJ_PER_KCAL,
        gradient=-np.array(state.getForces(asNumpy=True)._value) / per_angstrom,
    )


def test_fine_tuning_learns_what_it_is_shown(build_ligand, model):
    """Held-out errors fall to less than half when the truth is within reach of the readouts."""
    settings = FineTuneSettings(steps=200, learning_rate=2e-3, pull=0.0)
    for fit in fine_tune(Predictor(model), references(build_ligand), settings):
        assert fit.kept == "fine-tuned"
        assert fit.force_rmse_after < 0.5 * fit.force_rmse_before
        assert fit.energy_rmse_after < 0.5 * fit.energy_rmse_before
        assert (fit.n_train, fit.n_held_out) == (6, 2)


def test_class2_learns_factors_of_pairs(build_ligand):
    """Truth that differs in the nonbonded pairs alone, by more than the springs could hide."""
    torch.manual_seed(3)
    network = ValenceNetwork(16, 2, form="class2", pairs=True)
    model = dataclasses.replace(untrained_model(), class2=ValenceEnsemble([network]).double().eval())
    predictor = Predictor(model, "class2")
    found = []
    for reference in references(build_ligand, 12):
        parameters = predictor.predict(reference.ligand, reference.topology)
        cross = parameters.cross
        changed = dataclasses.replace(
            cross, pair_repulsion=0.5 * cross.pair_repulsion, pair_dispersion=0.5 * cross.pair_dispersion
        )
        system = build_system(reference.topology, dataclasses.replace(parameters, cross=changed))
        records = tuple(_record(system, one.coords, one.spec) for one in reference.records)
        found.append(dataclasses.replace(reference, records=records))
    settings = FineTuneSettings(steps=200, learning_rate=2e-3, pull=0.0)
    for fit, reference in zip(fine_tune(predictor, found, settings), found, strict=True):
        assert fit.kept == "fine-tuned"
        assert fit.force_rmse_after < 0.5 * fit.force_rmse_before
        shipped = predictor.predict(reference.ligand, reference.topology).cross
        assert np.median(fit.parameters.cross.pair_repulsion / shipped.pair_repulsion) < 0.9


def test_no_steps_keep_the_shipped_parameters(build_ligand, model):
    """A fit that is not better keeps the shipped parameters, number by number."""
    predictor = Predictor(model)
    for reference, fit in zip(
        references(build_ligand),
        fine_tune(predictor, references(build_ligand), FineTuneSettings(steps=0)),
        strict=True,
    ):
        shipped = predictor.predict(reference.ligand, reference.topology)
        assert fit.kept == "shipped"
        assert fit.energy_rmse_after == fit.energy_rmse_before
        for name in (*CLASS1_NAMES, "charge", "sigma", "epsilon"):
            np.testing.assert_allclose(
                getattr(fit.parameters, name), getattr(shipped, name), rtol=0, atol=1e-12
            )


def test_a_tuned_ligand_keeps_every_doubt(build_ligand, model):
    """A model that knows no surroundings and whose charges differ: tuned parameters say what the shipped ones
    say; where the reference brings charges, nothing of charges.
    """
    domain = Domain.of_training([], disagreement_limit=0.5, charge_limit=0.0)
    charges = ChargeEnsemble([*model.charges.members, ChargeNetwork(24, 2).double()])
    predictor = Predictor(dataclasses.replace(model, charges=charges, domain=domain))
    own, brought = references(build_ligand)
    brought = dataclasses.replace(brought, charges=np.zeros(brought.topology.n_atoms))
    fits = fine_tune(predictor, [own, brought], FineTuneSettings(steps=50, learning_rate=2e-3, pull=0.0))
    assert [fit.kept for fit in fits] == ["fine-tuned"] * 2
    shipped = [predictor.predict(one.ligand, one.topology).confidence for one in (own, brought)]
    said = [fit.parameters.confidence for fit in fits]
    assert "were not in the training" in said[0].doubts
    assert "about charges" in said[0].doubts
    assert said[0].doubts == shipped[0].doubts
    np.testing.assert_array_equal(said[0].charge, shipped[0].charge)
    assert "were not in the training" in said[1].doubts
    assert "about charges" not in said[1].doubts
    assert said[1].doubts == shipped[1].without_charges().doubts
    assert not said[1].charge.any()


def test_charges_that_a_reference_brings_take_the_models_place(build_ligand, model):
    """Points made by the shipped terms beside other charges: no error beside those (1e-6 kcal/mol, rounding),
    one beside the model's; they are in the parameters.
    """
    predictor = Predictor(model)
    plain = references(build_ligand)[0]
    shipped = predictor.predict(plain.ligand, plain.topology)
    charges = 1.5 * shipped.charge
    system = build_system(plain.topology, dataclasses.replace(shipped, charge=charges))
    records = tuple(_record(system, record.coords, record.spec) for record in plain.records)
    plain = dataclasses.replace(plain, records=records)
    brought = dataclasses.replace(plain, charges=charges)
    without, beside = fine_tune(predictor, [plain, brought], FineTuneSettings(steps=0))
    assert beside.energy_rmse_before < 1e-6 < 1e-3 < without.energy_rmse_before
    np.testing.assert_array_equal(beside.parameters.charge, charges)
    np.testing.assert_allclose(without.parameters.charge, shipped.charge, rtol=0, atol=1e-12)


def test_a_ligand_that_got_worse_keeps_its_parameters(build_ligand, model):
    """Where the point left out is the shipped model's own, whatever was learnt on the others is worse.

    One point of three is left out, and each takes its turn to be the shipped model's. Energies are its own
    throughout, since the training points set their common offset; the forces tell the points apart.
    """
    predictor, settings = Predictor(model), FineTuneSettings(steps=30, learning_rate=2e-3, pull=0.0)
    truth = references(build_ligand, n_points=3)[0]
    shipped = predictor.predict(truth.ligand, truth.topology)
    system = build_system(truth.topology, shipped)
    own = [_record(system, record.coords, record.spec) for record in truth.records]
    fits = []
    for turn in range(3):
        records = [
            record if i == turn else dataclasses.replace(record, gradient=truth.records[i].gradient)
            for i, record in enumerate(own)
        ]
        fits += fine_tune(predictor, [dataclasses.replace(truth, records=tuple(records))], settings)
    # OpenMM and our energy agree to 1e-5 of forces of some 1000 kcal/mol/angstrom.
    judged_by_its_own = [fit for fit in fits if fit.force_rmse_before < 0.05]
    assert [fit.kept for fit in judged_by_its_own] == ["shipped"]
    (fit,) = judged_by_its_own
    assert fit.force_rmse_after == fit.force_rmse_before
    np.testing.assert_allclose(fit.parameters.bond_k, shipped.bond_k, rtol=1e-12)
    (plain,) = fine_tune(predictor, [truth], settings)
    assert plain.kept == "fine-tuned"


def test_the_pull_holds_the_weights(build_ligand, model):
    """An overwhelming pull leaves the errors nearly where they were."""
    settings = FineTuneSettings(steps=100, learning_rate=1e-4, pull=1e9)
    for fit in fine_tune(Predictor(model), references(build_ligand), settings):
        assert fit.force_rmse_after > 0.95 * fit.force_rmse_before


def test_fine_tuning_leaves_the_shipped_weights_alone(build_ligand, model):
    """The predictor predicts the same before and after a fine-tuning."""
    predictor = Predictor(model)
    reference = references(build_ligand)[0]
    before = predictor.predict(reference.ligand, reference.topology)
    fine_tune(predictor, [reference], FineTuneSettings(steps=20, learning_rate=1e-2))
    after = predictor.predict(reference.ligand, reference.topology)
    np.testing.assert_array_equal(before.bond_k, after.bond_k)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((4.0, 13.5), (1.7, 18.6), False),
        ((4.0, 13.5), (1.7, 13.6), True),
        ((1.0, 5.0), (1.0, 5.0), False),
        ((1.0, 5.0), (1.05, 4.0), True),
        ((1.0, 5.0), (1.2, 1.0), False),
    ],
)
def test_an_improvement_wins_and_loses_nothing(before, after, expected):
    """Energy won at the price of forces, or the other way round, is no improvement; nor is no change."""
    assert is_improvement(before, after) is expected


def test_too_few_points_are_an_error(build_ligand, model):
    """Two points cannot be divided into training and judging."""
    reference = references(build_ligand, n_points=2)[0]
    with pytest.raises(ValueError, match="at least 3"):
        fine_tune(Predictor(model), [reference], FineTuneSettings())

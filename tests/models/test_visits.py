"""Visits: what a model's relaxations of DFT minima meet on a cheap surface, and where they end."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from models.dataset import examples_of
from models.energy import energy_and_gradient
from models.predict import load_predictor
from models.relax import RelaxTask, relax
from models.terms import TorchParameters, indices_from_topology
from models.training.near_minima import anchor_at, stiffness_of_internals
from models.training.visits import LEFT_SOURCE, ON_THE_WAY_OUT, RELAXED_SOURCE, relax_minima, visit
from pipeline.errors import QMError
from pipeline.ligand import to_rdkit
from pipeline.qm.surface import Gfn2Surface

MOLECULES = ("CC(=O)NC", "C[NH2+]CC(=O)[O-]", "OCCc1ccccc1")
SEED = 5


@pytest.fixture(scope="module")
def predictor():
    return load_predictor("default")


@pytest.fixture
def examples(build_ligand):
    """One MMFF94 geometry of each molecule, said to be its DFT minimum."""
    rows = []
    for smiles in MOLECULES:
        ligand = build_ligand(smiles)
        mol = to_rdkit(ligand)
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=2) == 0
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        coords = mol.GetConformer().GetPositions().astype(np.float32)
        rows.append(
            {
                "source": "test",
                "kind": "minima",
                "level": "mmff94",
                "key": smiles,
                "mapped_smiles": ligand.mapped_smiles,
                "charge": ligand.total_charge,
                "n_atoms": len(coords),
                "n_confs": 1,
                "atomic_numbers": [atom.GetAtomicNum() for atom in mol.GetAtoms()],
                "coords": coords.ravel(),
                "energy": np.zeros(1),
                "gradient": np.zeros(coords.size, dtype=np.float32),
                "dihedral": None,
                "grid": None,
            }
        )
    return examples_of(pd.DataFrame(rows))[0]


def test_a_visit_is_the_minimum_and_what_the_model_meets(examples, predictor):
    """GFN2-xTB as cheap level: the first point is the stationary DFT minimum, the third the model's own, with
    the energy and gradient of the corrected surface there; all rows pass through the reader of tables.
    """
    rows = list(visit(examples, predictor, Gfn2Surface, SEED))
    again = list(visit(examples, predictor, Gfn2Surface, SEED))
    assert [row["key"] for row in rows] == [example.key for example in examples]
    read, left_out = examples_of(pd.DataFrame(rows))
    assert left_out == 0
    for example, row, other, seen in zip(examples, rows, again, read, strict=True):
        np.testing.assert_array_equal(row["coords"], other["coords"])
        assert row["kind"] == "near-minimum"
        assert 2 <= row["n_confs"] <= 4
        np.testing.assert_allclose(seen.coords[0], example.coords[0], atol=1e-6)
        assert row["energy"][0] == 0.0
        assert not np.any(seen.gradient[0])
        start = example.coords[0].astype(float)
        parameters = predictor.predict(example.ligand, example.topology)
        task = RelaxTask(topology=example.topology, parameters=parameters, coords=start[None])
        end = relax([task])[0].coords[0]
        surface = Gfn2Surface(np.array(example.topology.atomic_numbers), example.ligand.total_charge)
        indices = indices_from_topology(example.topology)
        stiffness = stiffness_of_internals(TorchParameters.from_mm(parameters))
        anchor = anchor_at(indices, start, stiffness, surface(start))
        energy, gradient, _ = anchor.relative(end, *surface(end))
        nearest = int(np.abs(seen.coords - end).max(axis=(1, 2)).argmin())
        assert row["energy"][nearest] == pytest.approx(energy, abs=2e-3)
        np.testing.assert_allclose(seen.gradient[nearest], gradient, atol=0.05)


def test_a_far_turn_is_left_out(examples, predictor, monkeypatch):
    """With no turn allowed only the minimum itself remains."""
    monkeypatch.setattr("models.training.visits.LARGEST_TURN", 0.0)
    assert [row["n_confs"] for row in visit(examples, predictor, Gfn2Surface, SEED)] == [1, 1, 1]


@pytest.mark.parametrize("pull", [1e4, np.nan])
def test_a_point_with_a_gradient_beyond_reason_is_left_out(examples, predictor, pull):
    """Away from the minimum the cheap level pulls an atom by more than any bond does, or by no number."""

    def cheap(atomic_numbers, total_charge):
        (start,) = (one.coords[0] for one in examples if one.topology.n_atoms == len(atomic_numbers))

        def surface(coords):
            gradient = np.zeros_like(coords)
            gradient[0, 0] = 0.0 if np.allclose(coords, start) else pull
            return 0.0, gradient

        return surface

    assert [row["n_confs"] for row in visit(examples, predictor, cheap, SEED)] == [1, 1, 1]


def test_where_the_cheap_level_fails_there_is_no_row(examples, predictor):
    """The second molecule has no surface: the others are there."""

    def cheap(atomic_numbers, total_charge):
        if len(atomic_numbers) == examples[1].topology.n_atoms:
            raise_scf()
        return lambda coords: (0.0, np.zeros_like(coords))

    def raise_scf():
        raise QMError("no", kind="scf")

    keys = [row["key"] for row in visit(examples, predictor, cheap, SEED)]
    assert keys == [examples[0].key, examples[2].key]


@pytest.fixture
def conformers(examples):
    """Three MMFF94 geometries of phenylethanol, said to be DFT minima of these energies."""
    mol = to_rdkit(examples[2].ligand)
    numbers = rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=4)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    coords = np.array([mol.GetConformer(number).GetPositions() for number in numbers], dtype=np.float32)
    return dataclasses.replace(examples[2], coords=coords, energy=np.array([1.5, 0.0, 4.0]))


def test_minima_end_where_the_model_has_its_own_with_the_energies_they_began_at(conformers, predictor):
    """No force of the model is left at any end, each is near its start, and the QM energies are kept."""
    row = next(iter(relax_minima([conformers], predictor)))
    read = examples_of(pd.DataFrame([row]))[0][0]
    assert read.gradient is None  # the zero gradient of minima is not the model's to learn here
    np.testing.assert_array_equal(read.energy, conformers.energy)
    moved = np.linalg.norm(read.coords - conformers.coords, axis=2)
    assert 0.01 < moved.max() < 1.5
    parameters = TorchParameters.from_mm(predictor.predict(read.ligand, read.topology))
    coords = torch.as_tensor(read.coords).double().permute(1, 0, 2)
    _, gradient = energy_and_gradient(indices_from_topology(read.topology), parameters, coords)
    assert gradient.norm(dim=2).max() < 0.05  # float32 coordinates of stiff bonds


def test_a_conformer_that_falls_into_another_minimum_is_left_out(conformers, predictor, monkeypatch):
    """The first is twisted near the barrier beside its minimum: the other two remain, of one alone none."""
    monkeypatch.setattr("models.training.visits.LARGEST_TURN", 0.6)
    mol = to_rdkit(conformers.ligand)
    Chem.FastFindRings(mol)
    mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
    conf = mol.GetConformer()
    conf.SetPositions(conformers.coords[0].astype(float))
    oxygen, first, second, ring = mol.GetSubstructMatch(Chem.MolFromSmarts("OCCc"))
    rdMolTransforms.SetDihedralDeg(conf, oxygen, first, second, ring, 125.0)
    coords = np.stack([conf.GetPositions().astype(np.float32), *conformers.coords[1:]])
    twisted = dataclasses.replace(conformers, coords=coords)
    row, left = relax_minima([twisted], predictor)
    assert [row["source"], left["source"]] == [RELAXED_SOURCE, LEFT_SOURCE]
    np.testing.assert_array_equal(row["energy"], conformers.energy[1:])
    np.testing.assert_array_equal(left["coords"], coords[0].ravel())
    np.testing.assert_array_equal(left["energy"], conformers.energy[:1])
    alone = dataclasses.replace(twisted, coords=coords[:2], energy=conformers.energy[:2])
    assert [row["source"] for row in relax_minima([alone], predictor)] == [LEFT_SOURCE]
    (read,), _ = examples_of(pd.DataFrame([left]))
    assert read.kind == "minima"
    once, twice = (
        list(visit([read], predictor, Gfn2Surface, SEED, stops)) for stops in ((6,), ON_THE_WAY_OUT)
    )
    assert once[0]["n_confs"] < twice[0]["n_confs"]

"""Scans that a model relaxes for torsion profiles whose geometries are not known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from models.dataset import Profile, examples_of, profiles_of, read_profile_rows
from models.energy import energy_and_gradient
from models.hold import Hold
from models.predict import load_predictor
from models.relax import RelaxTask, relax
from models.terms import TorchParameters, indices_from_topology
from models.training.scans import relax_scans
from pipeline.errors import ParametersError
from pipeline.ligand import to_rdkit
from tests.training_tables import PROFILE_ANGLES as ANGLES
from tests.training_tables import profile_row

SEED = 3


@pytest.fixture(scope="module")
def predictor():
    return load_predictor("default")


def profile_of(row) -> Profile:
    (profile,), left_out = profiles_of(pd.DataFrame([row]))
    assert left_out == 0
    return profile


WAVE = 2.0 + 2.0 * np.cos(3 * np.radians(ANGLES))
"""kcal/mol"""


def test_a_profile_is_read_from_indices_or_from_tags(tmp_path):
    """Either way the atoms are those of the drive; energies are of the lowest, points without one are left
    out; the molecule keeps the handedness of its molblock; unwanted molecules and broken rows are not there.
    """
    row = profile_row("C[C@H](F)OC", "CCOC", np.array([np.nan, *WAVE[1:]]))
    by_index, by_tag = profile_of(row), profile_of({**row, "dihedral_idx": None})
    for profile in (by_index, by_tag):
        mol = to_rdkit(profile.ligand)
        assert [mol.GetAtomWithIdx(i).GetSymbol() for i in profile.dihedral] == list("CCOC")
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles("C[C@H](F)OC")
        np.testing.assert_allclose(profile.energy, WAVE[1:] - WAVE[1:].min(), atol=1e-9)
        np.testing.assert_array_equal(profile.angles, ANGLES[1:])
    bad = [{**row, "molblock": "none"}]
    bad += [{**row, "dihedral_idx": atoms} for atoms in ([0, 3, 1, 2], [0, 1, 3], [0, 1, 3, 99])]
    bad += [{**row, "dihedral_idx": None, "smiles_tagged": tags} for tags in ("CC", "C1", "[CH3:1]C")]
    bad += [{**row, "energy_hartree": np.full(len(ANGLES), np.nan)}]
    pd.DataFrame([row, {**row, "key": "unwanted"}, *bad]).to_parquet(tmp_path / "p.parquet")
    table = read_profile_rows([tmp_path / "p.parquet"], without={"unwanted"})
    profiles, left_out = profiles_of(table)
    assert (len(profiles), left_out) == (1, len(bad))


def test_a_scan_is_the_lowest_that_held_conformers_reach(predictor):
    """Every 30 degrees, the profile's lowest among them; no start of ten others ends lower by 0.05 kcal/mol
    at any angle; the energies are the profile's.
    """
    profile = profile_of(profile_row("CCCO", "CCCO", WAVE))
    (row,) = relax_scans([profile], predictor, SEED)
    (seen,), _ = examples_of(pd.DataFrame([row]))
    assert seen.kind == "relaxed-scan"
    assert seen.gradient is None
    assert len(seen.grid) == 12
    np.testing.assert_allclose(np.diff(seen.grid), 30.0)
    np.testing.assert_allclose(seen.energy, [WAVE[angle == ANGLES][0] for angle in seen.grid], atol=1e-9)
    mol, parameters = to_rdkit(profile.ligand), predictor.predict(profile.ligand, seen.topology)
    indices, torch_parameters = indices_from_topology(seen.topology), TorchParameters.from_mm(parameters)
    coords = torch.as_tensor(seen.coords).double().permute(1, 0, 2)
    ours = energy_and_gradient(indices, torch_parameters, coords)[0].total[0].numpy()
    rdDistGeom.EmbedMultipleConfs(mol, 10, randomSeed=99)
    for angle, energy, end in zip(seen.grid, ours, seen.coords, strict=True):
        held = Chem.Conformer(len(end))
        held.SetPositions(end.astype(float))
        off = rdMolTransforms.GetDihedralDeg(held, *profile.dihedral) - angle
        assert abs((off + 180) % 360 - 180) < 2.0
        for conformer in mol.GetConformers():
            rdMolTransforms.SetDihedralDeg(conformer, *profile.dihedral, float(angle))
        starts = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
        hold = Hold(dihedral=profile.dihedral, angles=np.full(10, np.radians(angle)))
        task = RelaxTask(topology=seen.topology, parameters=parameters, coords=starts, hold=hold)
        assert energy < relax([task])[0].energy.min() + 0.05


def test_what_no_scan_can_stand_for_is_left_out(predictor, monkeypatch):
    """A bond in a ring; a profile of another conformer; too few points; and all, without parameters."""
    profile = profile_of(profile_row("CCCO", "CCCO", WAVE))
    ring = profile_of(profile_row("C1CCCCC1", "CCCC", WAVE))
    strange = dataclasses.replace(profile, energy=10.0 * (np.arange(len(ANGLES)) // 2 % 2))
    few = dataclasses.replace(profile, angles=ANGLES[:8], energy=WAVE[:8])
    rows = list(relax_scans([ring, strange, profile, few], predictor, SEED))
    assert [row["key"] for row in rows] == ["CCCO"]
    (alone,) = relax_scans([profile], predictor, SEED)
    np.testing.assert_array_equal(rows[0]["grid"], alone["grid"])

    def refuse(ligand, topology):
        raise ParametersError("none", kind="vdw")

    monkeypatch.setattr(predictor, "predict", refuse)
    assert list(relax_scans([profile], predictor, SEED)) == []

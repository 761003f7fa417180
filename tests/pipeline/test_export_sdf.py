"""SDF and JSON: the user's molecule, order and name, and every number."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.parameters_json import read_parameters_json, write_parameters_json
from pipeline.export.sdf import write_sdf
from pipeline.ligand import to_rdkit
from pipeline.schema import CLASS1_FIELDS


def _read(text: str) -> Chem.Mol:
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text, removeHs=False)
    mols = list(supplier)
    assert len(mols) == 1
    return mols[0]


def test_sdf_keeps_name_order_and_charges(build_ligand, parametrize_ligand):
    """RDKit finds the title, the elements in the user's order, the formal and the partial charges."""
    order = [3, 0, 2, 1, 4, 5, 6]
    parametrized = parametrize_ligand(build_ligand("CC(=O)[O-]", order))
    named = replace(parametrized, ligand=replace(parametrized.ligand, name="Essigsäure / 1"))
    mol = _read(write_sdf(named))
    assert mol.GetProp("_Name") == "Essigsäure / 1"
    assert [atom.GetSymbol() for atom in mol.GetAtoms()] == ["O", "C", "O", "C", "H", "H", "H"]
    assert Chem.GetFormalCharge(mol) == -1
    assert mol.GetProp("parmflow.model") == "random/1"
    for atom, charge in zip(mol.GetAtoms(), parametrized.parameters.charge, strict=True):
        assert atom.GetDoubleProp("PartialCharge") == pytest.approx(charge, abs=1e-15)  # 16 digits


def test_sdf_of_a_long_ligand_keeps_every_charge(build_ligand, parametrize_ligand):
    """More charges than fit one line of 200 characters are wrapped, and all are read."""
    parametrized = parametrize_ligand(build_ligand("C" * 30))
    text = write_sdf(parametrized)
    assert max(map(len, text.splitlines())) <= 200
    charges = [atom.GetDoubleProp("PartialCharge") for atom in _read(text).GetAtoms()]
    np.testing.assert_allclose(charges, parametrized.parameters.charge, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["two\nlines", "$$$$", "x" * 300, ""])
def test_a_strange_name_stays_one_record(name, build_ligand, parametrize_ligand):
    """Names with line breaks or the record separator leave one readable record of one title line."""
    parametrized = parametrize_ligand(build_ligand("O"))
    mol = _read(write_sdf(replace(parametrized, ligand=replace(parametrized.ligand, name=name))))
    assert mol.GetNumAtoms() == 3
    assert len(mol.GetProp("_Name")) <= 80


def test_no_coordinates_no_sdf(build_ligand, parametrize_ligand):
    """The reason is said."""
    parametrized = replace(parametrize_ligand(build_ligand("O")), coords=None)
    with pytest.raises(ExportError, match="no coordinates"):
        write_sdf(parametrized)


def test_json_gives_back_every_bit(build_ligand, parametrize_ligand):
    """Decimal digits of float64 are exact: what is read equals what was written."""
    parametrized = parametrize_ligand(build_ligand("NS(=O)(=O)c1ccccc1"))
    parameters = read_parameters_json(write_parameters_json(parametrized))
    for name in CLASS1_FIELDS:
        assert np.array_equal(getattr(parameters, name), getattr(parametrized.parameters, name)), name


def test_json_says_whose_numbers_these_are(build_ligand, parametrize_ligand):
    """The mapped SMILES in the file orders the atoms as the rows do, and each unit is named."""
    parametrized = parametrize_ligand(build_ligand("CCO"))
    document = json.loads(write_parameters_json(parametrized))
    mol = to_rdkit(replace(parametrized.ligand, mapped_smiles=document["mapped_smiles"]))
    assert [atom["atomic_number"] for atom in document["atoms"]] == [a.GetAtomicNum() for a in mol.GetAtoms()]
    for bond in document["bonds"]:
        assert mol.GetBondBetweenAtoms(*bond["atoms"]) is not None
    assert document["units"]["bond k"] == "kcal/mol/angstrom^2"

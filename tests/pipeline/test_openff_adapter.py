"""The OpenFF adapter: a clear word where the toolkit is missing, and the same numbers where it is there."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.errors import RefusedLigandError, UsageError, VerificationError
from pipeline.export.offxml import write_constrained_offxml, write_offxml
from pipeline.openff_adapter import ligand_from_openff, parametrize_openff, to_openff_force_field
from pipeline.readback.openff import check_offxml_in_openff, has_openff
from pipeline.schema import Ligand, MMParameters, Topology
from pipeline.settings import LigandRules
from pipeline.verify import build_reference

needs_openff = pytest.mark.skipif(not has_openff(), reason="openff-toolkit comes from conda-forge only")


def test_a_missing_toolkit_is_named(build_ligand, parametrize_ligand, monkeypatch):
    """Without the toolkit the sentence says what to install; nothing else of parmflow needs it."""
    monkeypatch.setitem(sys.modules, "openff.toolkit", None)
    with pytest.raises(UsageError, match="conda install openff-toolkit"):
        to_openff_force_field(parametrize_ligand(build_ligand("O")))


@dataclass(frozen=True)
class _Predictor:
    """Gives the random parameters of `parametrize_ligand`."""

    parametrize: object
    name: str = "random"
    version: str = "1"
    sha256: str = "0" * 64

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        return self.parametrize(ligand, np.zeros((topology.n_atoms, 3))).parameters


@needs_openff
@pytest.mark.parametrize(
    "smiles", ["CC(=O)Nc1ccc(O)cc1", "[NH3+]CC(=O)[O-]", "C12C3C4C1C5C2C3C45", "CC#N", "CSC"]
)
@pytest.mark.parametrize("write", [write_offxml, write_constrained_offxml])
def test_the_toolkit_reads_the_same_force_field(write, smiles, build_ligand, parametrize_ligand, tmp_path):
    """What toolkit and Interchange build of our file weighs as the direct system, by the product's check."""
    reference = build_reference(parametrize_ligand(build_ligand(smiles)))
    path = tmp_path / "ligand.offxml"
    path.write_text(write(reference.parametrized))
    assert len(check_offxml_in_openff(path, reference)) == 1
    path.write_text(write(parametrize_ligand(build_ligand(smiles), reference.geometries[0], seed=1)))
    with pytest.raises(VerificationError):
        check_offxml_in_openff(path, reference)


@needs_openff
@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "OCC[NH3+]"])
def test_a_molecule_of_the_toolkit_keeps_its_atom_order(smiles, parametrize_ligand):
    """The adapter's force field gives each atom of the toolkit's molecule, by index, its own charge."""
    from openff.toolkit import Molecule

    molecule = Molecule.from_smiles(smiles)
    molecule = molecule.remap({index: molecule.n_atoms - 1 - index for index in range(molecule.n_atoms)})
    ligand = ligand_from_openff(molecule, LigandRules())
    wanted = parametrize_ligand(ligand, np.zeros((molecule.n_atoms, 3))).parameters.charge
    force_field = parametrize_openff(molecule, _Predictor(parametrize_ligand))
    charges = force_field.get_partial_charges(molecule).m_as("elementary_charge")
    np.testing.assert_allclose(charges, wanted, rtol=0, atol=1e-9)


@needs_openff
def test_what_we_refuse_is_refused(parametrize_ligand):
    """A metal in a toolkit's molecule: the reason, not a force field."""
    from openff.toolkit import Molecule

    with pytest.raises(RefusedLigandError):
        parametrize_openff(Molecule.from_smiles("[Na+]"), _Predictor(parametrize_ligand))

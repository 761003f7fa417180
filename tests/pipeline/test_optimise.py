"""Optimisations with real engines: published minima, kept constraints, reactions that are noticed."""

import dataclasses
import math
from shutil import which

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.spatial.transform import Rotation

from pipeline.errors import QMError
from pipeline.process.child import Limits
from pipeline.qm.connectivity import changed_bonds
from pipeline.qm.door import run_task
from pipeline.qm.levels import spec_by_name
from pipeline.qm.optimise import dihedral_angle
from pipeline.schema import DihedralConstraint, QMSpec, QMTask

LIMITS = Limits(wall_seconds=280, memory_mb=4096)
FAST = dataclasses.replace(spec_by_name("fast"), driver="optimise")
AM1 = QMSpec(program="mopac", method="am1", basis=None, dispersion=None, driver="optimise")
NEEDS_MOPAC = pytest.mark.skipif(which("mopac") is None, reason="mopac is not installed")


def make_task(smiles: str, spec: QMSpec, constraints: tuple[DihedralConstraint, ...] = ()) -> QMTask:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(mol)
    return QMTask(
        ligand_key=smiles,
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        coords=mol.GetConformer().GetPositions(),
        total_charge=Chem.GetFormalCharge(mol),
        spec=spec,
        constraints=constraints,
    )


@NEEDS_MOPAC
@pytest.mark.parametrize(("smiles", "published"), [("O", -59.2), ("CO", -57.1)])
def test_published_heats_of_formation(smiles: str, published: float) -> None:
    """AM1 of water and methanol (Dewar et al., J. Am. Chem. Soc. 1985, 107, 3902), kcal/mol, one decimal."""
    record = run_task(make_task(smiles, AM1), LIMITS)
    assert record.energy == pytest.approx(published, abs=0.06)
    assert (
        np.abs(np.asarray(record.gradient)).max() < 0.6
    )  # kcal/mol/angstrom; converged to 4.5e-4 hartree/bohr
    assert record.flags == ()


def test_minimum_is_a_minimum() -> None:
    """GFN2-xTB water from a distorted geometry, in a turned frame: no force left, the same energy as upright,
    the molecule where it was, and a Hessian without a negative eigenvalue."""
    task = make_task("O", FAST)
    turn = Rotation.random(random_state=3).as_matrix()
    moved = dataclasses.replace(task, coords=task.coords @ turn.T + [5.0, 0.0, -3.0])
    upright, turned = run_task(task, LIMITS), run_task(moved, LIMITS)
    assert turned.energy == pytest.approx(upright.energy, abs=1e-5)
    np.testing.assert_allclose(turned.coords, upright.coords @ turn.T + [5.0, 0.0, -3.0], atol=1e-4)
    spec = dataclasses.replace(FAST, driver="hessian")
    hessian = run_task(dataclasses.replace(task, coords=upright.coords, spec=spec), LIMITS).hessian
    values = np.linalg.eigvalsh(np.asarray(hessian))
    assert values[0] > -1.0  # kcal/mol/angstrom^2: six zeros, to the error of the differences
    assert values[6] > 100.0


@pytest.mark.parametrize("angle", [None, math.radians(-100)])
def test_constraint_is_kept(angle: float | None) -> None:
    """Hydrogen peroxide with its dihedral frozen or set: that angle to 0.1 degrees, and no other force."""
    task = make_task("OO", FAST, (DihedralConstraint(atoms=(2, 0, 1, 3), angle=angle),))
    record = run_task(task, LIMITS)
    wanted = dihedral_angle(task.coords, (2, 0, 1, 3)) if angle is None else angle
    assert dihedral_angle(record.coords, (2, 0, 1, 3)) == pytest.approx(wanted, abs=math.radians(0.1))
    free = run_task(dataclasses.replace(task, constraints=()), LIMITS)
    assert free.energy < record.energy


def test_proton_transfer_is_flagged() -> None:
    """Zwitterionic glycine has no minimum in vacuum: the proton moves, and the record says so."""
    record = run_task(make_task("[NH3+]CC(=O)[O-]", FAST), LIMITS)
    assert record.flags == ("connectivity",)
    changes = dict(record.provenance)["changed_bonds"]
    assert "broken N1-H" in changes
    assert "formed O" in changes


def test_linear_torsion_is_classed() -> None:
    """A dihedral driven over the linear carbons of propyne is refused as linear, not computed to nonsense."""
    task = make_task("CC#C", FAST, (DihedralConstraint(atoms=(3, 0, 1, 2), angle=1.0),))
    with pytest.raises(QMError, match="CC#C: tblite") as caught:
        run_task(task, LIMITS)
    assert caught.value.kind in ("linear", "geometry")


def test_bonds_by_hand() -> None:
    """Two hydrogens at 0.74 angstrom are bonded, at 1.5 not; a stretch to 0.85 is no reaction."""
    numbers = np.array([1, 1])
    near, stretched, far = (np.array([[0.0, 0, 0], [0, 0, r]]) for r in (0.74, 0.85, 1.5))
    assert changed_bonds(numbers, near, stretched) == ""
    assert changed_bonds(numbers, near, far) == "broken H1-H2"
    assert changed_bonds(numbers, far, near) == "formed H1-H2"


@pytest.mark.parametrize("degrees", [-179.0, -60.0, 0.0, 30.0, 90.0, 180.0])
def test_dihedral_by_hand(degrees: float) -> None:
    """Looking along z, the last atom turned clockwise by an angle from the first (IUPAC's positive sense)."""
    angle = math.radians(degrees)
    coords = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.5], [math.cos(angle), math.sin(angle), 1.5]])
    assert math.degrees(dihedral_angle(coords, (0, 1, 2, 3))) == pytest.approx(degrees, abs=1e-9)

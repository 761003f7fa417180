"""The LEaP route: types, columns and signs of the frcmod, and what its impropers leave."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm.app
import pytest

from pipeline.deliver import deliver
from pipeline.errors import ExportError, VerificationError
from pipeline.export.leap import list_leap_impropers, write_frcmod, write_leap_input, write_mol2
from pipeline.export.leap_types import CODES, assign_leap_types
from pipeline.readback.leap import check_frcmod
from pipeline.schema import MMParameters, Parametrized
from pipeline.verify import build_reference


def _check(parametrized: Parametrized, folder: Path):
    (folder / "ligand.mol2").write_text(write_mol2(parametrized))
    (folder / "ligand.frcmod").write_text(write_frcmod(parametrized))
    (check,) = check_frcmod(folder / "ligand.frcmod", build_reference(parametrized))
    return check


def _section(text: str, name: str) -> list[str]:
    return text.split(f"\n{name}\n")[1].split("\n\n")[0].splitlines()


def _with(parametrized: Parametrized, **values) -> Parametrized:
    parameters: MMParameters = replace(parametrized.parameters, **values)
    return replace(parametrized, parameters=parameters)


def test_no_code_is_a_type_of_an_amber_force_field():
    """OpenMM ships the Amber families as XML: none of their types is ours; GAFF's begin with a letter."""
    folder = Path(openmm.app.__file__).parent / "data"
    amber = {
        kind
        for path in [*folder.glob("amber*/*.xml"), *folder.glob("amber*.xml")]
        for kind in re.findall(r'class="(?:[a-zA-Z0-9.]+-)?([^"]{1,2})"', path.read_text())
    }
    assert {"CT", "2C", "3C", "6C"} <= amber
    assert not amber & set(CODES)
    assert all(code[0].isdigit() and len(code) == 2 for code in CODES)


def test_symmetric_atoms_share_a_type(build_ligand, parametrize_ligand):
    """Benzene: one carbon, one hydrogen; toluene: five kinds of carbon and four of hydrogen."""
    for smiles, n_types in (("c1ccccc1", 2), ("Cc1ccccc1", 9)):
        parametrized = parametrize_ligand(build_ligand(smiles))
        types = assign_leap_types(parametrized.topology, parametrized.parameters)
        assert len(set(types)) == n_types


def test_bonds_that_alternate_round_a_ring_are_told_apart(build_ligand, parametrize_ligand, tmp_path):
    """Every carbon of this benzene sees one long and one short bond, yet each bond gets its own length.

    Types refined by what atoms see would leave one type of carbon, and one bond for all.
    """
    parametrized = parametrize_ligand(build_ligand("c1ccccc1"))
    bonds, ring = parametrized.topology.bonds, parametrized.parameters.bond_length.copy()
    carbons = [row for row, (i, j) in enumerate(bonds.tolist()) if j < 6]
    around = {frozenset((k, (k + 1) % 6)): k % 2 for k in range(6)}
    for row in carbons:
        ring[row] = 1.35 + 0.1 * around[frozenset(bonds[row].tolist())]
    alternating = _with(parametrized, bond_length=ring)
    assert _check(alternating, tmp_path).largest_difference.bond < 1e-6
    lengths = {line.split()[2] for line in _section(write_frcmod(alternating), "BOND")}
    assert {"1.3500000000", "1.4500000000"} <= lengths


def test_the_columns_are_ambers(build_ligand, parametrize_ligand):
    """Water by hand: k without the 1/2, degrees, r_min/2 = 2^(1/6) sigma / 2, masses; and no torsion."""
    water = parametrize_ligand(build_ligand("O"))
    text, parameters = write_frcmod(water), water.parameters
    assert _section(text, "BOND") == [
        f"0a-0b  {parameters.bond_k[0] / 2:.10f} {parameters.bond_length[0]:.10f}"
    ]
    assert _section(text, "ANGLE") == [
        f"0b-0a-0b  {parameters.angle_k[0] / 2:.10f} {np.degrees(parameters.angle_theta[0]):.10f}"
    ]
    oxygen = _section(text, "NONBON")[0].split()
    assert float(oxygen[1]) == pytest.approx(2 ** (1 / 6) * parameters.sigma[0] / 2, abs=1e-9)
    assert float(oxygen[2]) == pytest.approx(parameters.epsilon[0], abs=1e-9)
    assert _section(text, "MASS") == ["0a  15.9990000000", "0b  1.0080000000"]
    assert text.split("\nDIHE\n")[1].startswith("\nIMPROPER")


def test_a_negative_periodicity_says_that_more_follows(build_ligand, parametrize_ligand):
    """The six terms of H-O-O-H: five negative periodicities, the last positive, IDIVF 1, phase 0."""
    lines = _section(write_frcmod(parametrize_ligand(build_ligand("OO"))), "DIHE")
    assert [float(line.split()[4]) for line in lines] == [-1, -2, -3, -4, -5, 6]
    assert all(line.split()[1] == "1" and float(line.split()[3]) == 0 for line in lines)


def test_torsions_over_a_linear_centre_are_zero_but_there(build_ligand, parametrize_ligand):
    """LEaP stops at a torsion without parameters: propionitrile's H-C-C#N and C-C-C#N get one zero line."""
    parametrized = parametrize_ligand(build_ligand("CCC#N"))
    types = assign_leap_types(parametrized.topology, parametrized.parameters)
    over_nitrile = [line for line in _section(write_frcmod(parametrized), "DIHE") if types[3] in line[:11]]
    assert len(over_nitrile) == 2
    assert all(float(line.split()[2]) == 0 for line in over_nitrile)


@pytest.mark.parametrize("height", [0.05, 0.1, 0.2])
def test_the_improper_is_as_stiff_as_the_trefoil(height, build_ligand, parametrize_ligand, tmp_path):
    """Nitrate with nitrogen lifted out of the plane: energy above planar equal but for the fourth order.

    The plane's angle is a = 2h/r; the next order is of relative size a^2 = (2h/r)^2.
    """
    radius = 1.25
    turns = 2 * np.pi / 3 * np.arange(3)
    corners = np.column_stack([radius * np.cos(turns), radius * np.sin(turns), np.zeros(3)])
    coords = np.insert(corners, 1, [0.0, 0.0, height], axis=0)
    nitrate = parametrize_ligand(build_ligand("[O-][N+](=O)[O-]"), coords)
    nitrate = _with(nitrate, improper_k=np.tile([0.4, -2.0], (3, 1)))
    check = _check(nitrate, tmp_path)
    (improper,) = list_leap_impropers(nitrate, assign_leap_types(nitrate.topology, nitrate.parameters))
    assert improper.atoms[2] == 1
    assert (improper.k, improper.phase) == (pytest.approx(1.9), 180.0)
    angle = 2 * height / radius
    energy = check.reports[0].improper
    assert energy == pytest.approx(2 * 1.9 * 3 * angle**2, rel=2 * angle**2)
    assert abs(check.improper_residual[0]) < 2 * angle**2 * energy


def test_wrong_numbers_in_the_frcmod_are_caught(build_ligand, parametrize_ligand, tmp_path):
    """One digit of one bond, one sign of one torsion: not delivered."""
    parametrized = parametrize_ligand(build_ligand("CCO"))
    reference = build_reference(parametrized)
    text = write_frcmod(parametrized)
    (tmp_path / "ligand.mol2").write_text(write_mol2(parametrized))
    path = tmp_path / "ligand.frcmod"
    bond, torsion = _section(text, "BOND")[0], _section(text, "DIHE")[0]
    fields = torsion.split()
    flipped = " ".join([fields[0], fields[1], f"{-float(fields[2]):.10f}", *fields[3:]])
    stretched = bond[:-12] + f"{float(bond.split()[2]) + 0.01:.10f}"
    for old, new, term in ((bond, stretched, "bond"), (torsion, flipped, "proper")):
        path.write_text(text.replace(old, new))
        with pytest.raises(VerificationError, match=f"{term} energy"):
            check_frcmod(path, reference)


def test_the_script_names_every_type_once(build_ligand, parametrize_ligand):
    """LEaP knows elements from addAtomTypes only: each type of the mol2, with its element."""
    parametrized = parametrize_ligand(build_ligand("FC(Cl)=C(Br)I"))
    found = re.findall(r'\{ "(..)" "([A-Z][a-z]?)" "sp[23]?" \}', write_leap_input(parametrized))
    types = assign_leap_types(parametrized.topology, parametrized.parameters)
    assert dict(found) == dict(zip(types, ("F", "C", "Cl", "C", "Br", "I"), strict=True))
    assert len(found) == 6


@pytest.fixture
def too_many_types(build_ligand, parametrize_ligand) -> Parametrized:
    """A chain of 602 atoms, each with a sigma of its own, on a line of points."""
    coords = np.column_stack([2.0 * np.arange(602), np.zeros((602, 2))])
    chain = parametrize_ligand(build_ligand("C" * 200), coords)
    return _with(chain, sigma=np.linspace(2.0, 3.0, 602))


def test_too_many_types_are_refused(too_many_types):
    """602 types do not fit into two characters as we build them: a sentence with both numbers."""
    with pytest.raises(ExportError, match=f"602 atom types .* {len(CODES)} names"):
        write_frcmod(too_many_types)


def test_a_refused_pair_does_not_fail_the_ligand(parametrize_ligand, build_ligand, tmp_path, monkeypatch):
    """Three names are too few for ethanol's types: no pair, the reason, and all other files; water fits."""
    assign_leap_types.cache_clear()
    monkeypatch.setattr("pipeline.export.leap_types.CODES", CODES[:3])
    names = deliver(parametrize_ligand(build_ligand("CCO")), tmp_path / "ethanol", ("amber",))
    assert {"ligand.prmtop", "ligand.inpcrd"} <= set(names)
    assert not {"ligand.mol2", "ligand.frcmod", "ligand.leap"} & set(names)
    left_out = json.loads((tmp_path / "ethanol" / "check.json").read_text())["left_out"]
    assert set(left_out) == {"ligand.mol2", "ligand.frcmod", "ligand.leap"}
    assert all("atom types are needed" in reason for reason in left_out.values())
    assert "ligand.frcmod" in deliver(parametrize_ligand(build_ligand("O")), tmp_path / "water", ("amber",))


def test_check_json_says_what_the_impropers_leave(parametrize_ligand, build_ligand, tmp_path):
    """Three residuals, one per geometry, and the sentence; the proof of the other terms stays strict."""
    deliver(parametrize_ligand(build_ligand("CC(=O)N")), tmp_path / "x", ("amber",))
    check = json.loads((tmp_path / "x" / "check.json").read_text())
    (entry,) = [entry for entry in check["checks"] if entry["file"] == "ligand.frcmod"]
    assert len(entry["improper_residual"]) == len(check["geometries"]) == 3
    assert "three" in entry["note"]
    assert entry["largest_difference"]["improper"] == max(map(abs, entry["improper_residual"]))
    assert max(entry["largest_difference"][term] for term in ("bond", "angle", "proper", "vdw")) < 1e-5

"""Class II terms in the delivered files: equal to the formula where a format holds them, else said."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from pipeline.deliver import CHECK_FILE, deliver
from pipeline.errors import ExportError, ParametersError, SettingsError, VerificationError
from pipeline.export.lammps import write_lammps_data, write_lammps_input
from pipeline.export.library_offxml import write_library_offxml
from pipeline.export.openmm_system import build_system
from pipeline.export.parameters_json import read_parametrized_json, write_parameters_json
from pipeline.readback.energies import compute_forces, compute_report
from pipeline.readback.lammps import check_lammps
from pipeline.readback.lammps_engine import PROGRAM, check_lammps_in_engine
from pipeline.schema import CROSS_ROWS, PAIR_FACTORS, CrossTerms, Parametrized
from pipeline.settings import build_settings
from pipeline.topology import coupled_rows
from pipeline.units import COULOMB_CONSTANT
from pipeline.verify import build_reference, check_parameters, check_system

FORMATS = ("offxml", "amber", "openmm", "gromacs", "lammps")


@pytest.fixture(scope="module")
def build_class2(build_ligand, parametrize_ligand) -> Callable[[str], Parametrized]:
    """SMILES -> a ligand with random couplings of a size that shows in every term."""

    def build(smiles: str) -> Parametrized:
        return _with_couplings(parametrize_ligand(build_ligand(smiles)))

    return build


@pytest.fixture(params=["CC(=O)NC", "CC#N", "O"])
def class2(request, build_class2) -> Parametrized:
    return build_class2(request.param)


def _with_couplings(parametrized: Parametrized) -> Parametrized:
    n_bonds, n_angles, n_propers = (
        len(rows)
        for rows in (parametrized.topology.bonds, parametrized.topology.angles, parametrized.topology.propers)
    )
    shapes = {
        "bond_k3": (n_bonds,),
        "bond_k4": (n_bonds,),
        "angle_k3": (n_angles,),
        "angle_k4": (n_angles,),
        "bond_bond": (n_angles,),
        "bond_angle": (n_angles, 2),
        "bond_torsion": (n_propers, 3),
        "angle_torsion": (n_propers, 2, 3),
        "angle_angle_torsion": (n_propers,),
    }
    generator = np.random.default_rng(7)
    cross = CrossTerms(**{name: 20.0 * generator.normal(size=shape) for name, shape in shapes.items()})
    return replace(parametrized, parameters=replace(parametrized.parameters, cross=cross))


def _angle(u: np.ndarray, v: np.ndarray) -> float:
    return float(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))


def _slow_cross(one: Parametrized, x: np.ndarray) -> float:
    """The formula of CrossTerms, row by row."""
    topology, p, cross = one.topology, one.parameters, one.parameters.cross
    rows = coupled_rows(topology)
    stretch = [np.linalg.norm(x[i] - x[j]) - p.bond_length[n] for n, (i, j) in enumerate(topology.bonds)]
    bend = [
        _angle(x[i] - x[j], x[k] - x[j]) - p.angle_theta[n] for n, (i, j, k) in enumerate(topology.angles)
    ]
    energy = sum(cross.bond_k3[n] * d**3 + cross.bond_k4[n] * d**4 for n, d in enumerate(stretch))
    energy += sum(cross.angle_k3[n] * d**3 + cross.angle_k4[n] * d**4 for n, d in enumerate(bend))
    for n, (first, second) in enumerate(rows.angle_bonds):
        d1, d2 = stretch[first], stretch[second]
        energy += cross.bond_bond[n] * d1 * d2 + bend[n] * (cross.bond_angle[n] @ [d1, d2])
    for n, (i, j, k, m) in enumerate(topology.propers):
        phi = _angle(np.cross(x[j] - x[i], x[k] - x[j]), np.cross(x[k] - x[j], x[m] - x[k]))
        series = np.cos(phi * np.arange(1, 4))
        t1, t2 = (bend[row] for row in rows.proper_angles[n])
        energy += stretch[rows.proper_bond[n]] * (cross.bond_torsion[n] @ series)
        energy += (cross.angle_torsion[n] @ series) @ [t1, t2]
        energy += cross.angle_angle_torsion[n] * t1 * t2 * series[0]
    return float(energy)


def test_the_system_has_the_formulas_energy_and_its_forces(class2):
    """OpenMM against loops, 1e-8 relative; forces against central differences of the whole energy."""
    x = build_reference(class2).geometries[2]
    system = build_system(class2.topology, class2.parameters)
    assert compute_report(system, x).cross == pytest.approx(_slow_cross(class2, x), rel=1e-8)
    step = np.zeros_like(x)
    step[0, 1] = 1e-4
    slope = (compute_report(system, x + step).total - compute_report(system, x - step).total) / 2e-4
    assert -slope == pytest.approx(compute_forces(system, x)[0, 1], rel=1e-4, abs=1e-2)


def test_what_can_hold_it_is_delivered_and_the_rest_says_why(class2, tmp_path):
    """SDF, System XML, LAMMPS and JSON are written and proved; check.json says why the others are not."""
    names = deliver(class2, tmp_path / "x", FORMATS)
    written = {"ligand.sdf", "openmm_system.xml", "ligand.in", "ligand.data", "parameters.json", CHECK_FILE}
    assert set(names) == written
    check = json.loads((tmp_path / "x" / CHECK_FILE).read_text())
    assert {"ligand.offxml", "ligand.prmtop", "ligand.top"} <= check["left_out"].keys()
    assert all("class II" in reason for reason in check["left_out"].values())
    for name, lacking in (("prmtop", "cubic bond"), ("offxml", "cubic bond"), ("top", "quartic bond")):
        assert f"has no {lacking} term" in check["left_out"][f"ligand.{name}"]
    assert "has no bond-bond term" in check["left_out"]["openmm_forcefield.xml"]
    assert check["reference"][1]["cross"] != 0.0
    assert check["largest_difference"]["cross"] < 1e-9


def test_a_system_without_a_coupling_is_refused(class2):
    """The class I part alone, or one constant a per mille off, is another force field."""
    reference = build_reference(class2)
    cross = class2.parameters.cross
    for other in (None, replace(cross, bond_k3=1.001 * cross.bond_k3)):
        wrong = build_system(class2.topology, replace(class2.parameters, cross=other))
        with pytest.raises(VerificationError, match="cross energy"):
            check_system(reference, wrong, file="file", reader="reader")


def test_json_gives_the_couplings_back(class2):
    """Every bit of every row."""
    again = read_parametrized_json(write_parameters_json(class2)).parameters.cross
    for field in fields(CrossTerms):
        assert np.array_equal(getattr(again, field.name), getattr(class2.parameters.cross, field.name))


def _with_pairs(one: Parametrized) -> Parametrized:
    """Factors of the nonbonded pairs beside the couplings, all different."""
    generator = np.random.default_rng(8)
    factors = {name: generator.uniform(0.2, 2.0, len(one.topology.pairs)) for name in PAIR_FACTORS}
    cross = replace(one.parameters.cross, **factors)
    return replace(one, parameters=replace(one.parameters, cross=cross))


def _slow_pairs(one: Parametrized, x: np.ndarray) -> tuple[float, float]:
    """Lennard-Jones and Coulomb by the formula of CrossTerms, pair by pair."""
    p, cross, vdw, coulomb = one.parameters, one.parameters.cross, 0.0, 0.0
    for n, (i, j) in enumerate(one.topology.pairs):
        r = np.linalg.norm(x[i] - x[j])
        sixth = ((p.sigma[i] + p.sigma[j]) / 2 / r) ** 6
        depth = 4 * np.sqrt(p.epsilon[i] * p.epsilon[j])
        vdw += depth * (cross.pair_repulsion[n] * sixth**2 - cross.pair_dispersion[n] * sixth)
        coulomb += cross.pair_coulomb[n] * COULOMB_CONSTANT * p.charge[i] * p.charge[j] / r
    return vdw, coulomb


def test_factors_of_pairs_are_delivered_and_proved(build_class2, tmp_path):
    """System XML and JSON hold them, with the formula's energy; LAMMPS is left out, and it says why."""
    one = _with_pairs(build_class2("CC(=O)NC"))
    names = deliver(one, tmp_path / "x", FORMATS)
    assert set(names) == {"ligand.sdf", "openmm_system.xml", "parameters.json", CHECK_FILE}
    left_out = json.loads((tmp_path / "x" / CHECK_FILE).read_text())["left_out"]
    for name in ("ligand.in", "ligand.data"):
        assert f"{name}: the format has no sigma, epsilon and Coulomb factor of a pair" in left_out[name]
    x = build_reference(one).geometries[2]
    report = compute_report(build_system(one.topology, one.parameters), x)
    assert (report.vdw, report.coulomb) == pytest.approx(_slow_pairs(one, x), rel=1e-6)
    again = read_parametrized_json((tmp_path / "x" / "parameters.json").read_text()).parameters.cross
    document = json.loads((tmp_path / "x" / "parameters.json").read_text())
    assert document["pairs"] == one.topology.pairs.tolist()
    for name in PAIR_FACTORS:
        assert np.array_equal(getattr(again, name), getattr(one.parameters.cross, name))


def test_lammps_files_written_all_the_same_are_refused(build_class2, tmp_path):
    """They have the nonbonded terms of class I, and are found out by them."""
    one = _with_pairs(build_class2("CC(=O)NC"))
    _write_lammps(one, tmp_path)
    with pytest.raises(VerificationError, match=r"(vdw|coulomb) energy"):
        check_lammps(tmp_path / "ligand.in", build_reference(one))


@pytest.mark.parametrize("name", PAIR_FACTORS)
def test_a_system_with_another_factor_is_refused(name, build_class2):
    """One kind of factor a per cent off: another force field."""
    one = _with_pairs(build_class2("CC(=O)NC"))
    factors = 1.01 * getattr(one.parameters.cross, name)
    wrong = replace(one.parameters, cross=replace(one.parameters.cross, **{name: factors}))
    with pytest.raises(VerificationError, match=r"(vdw|coulomb) (energy|force)"):
        check_system(build_reference(one), build_system(one.topology, wrong), file="file", reader="reader")


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, 1e6])
def test_impossible_factors_are_refused(value, build_class2):
    """A repulsion that attracts, or none: the pair is named."""
    one = _with_pairs(build_class2("CC(=O)NC"))
    bad = one.parameters.cross.pair_repulsion.copy()
    bad[3] = value
    parameters = replace(one.parameters, cross=replace(one.parameters.cross, pair_repulsion=bad))
    with pytest.raises(ParametersError, match="pair_repulsion"):
        check_parameters(one.topology, parameters, one.ligand.total_charge)


def test_a_library_of_class_two_has_no_offxml(class2):
    """SMIRNOFF has no couplings: a sentence, not a file without them."""
    with pytest.raises(ExportError, match="class II"):
        write_library_offxml([class2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_impossible_couplings_are_refused(value, class2):
    """Hazard 26 for what class II adds: the term and its atoms are named."""
    bad = class2.parameters.cross.angle_k4.copy()
    bad[-1] = value
    parameters = replace(class2.parameters, cross=replace(class2.parameters.cross, angle_k4=bad))
    with pytest.raises(ParametersError, match="angle_k4"):
        check_parameters(class2.topology, parameters, class2.ligand.total_charge)


def test_formats_asked_for_by_name_that_cannot_hold_it_are_a_settings_error():
    """Amber by name with class2 is refused at once; the default list, and OpenMM, are not."""
    with pytest.raises(SettingsError, match="amber has no cubic bond term"):
        build_settings({"form": "class2", "export": {"formats": ["openmm", "amber"]}})
    assert build_settings({"form": "class2"}).export.formats == build_settings({}).export.formats
    assert build_settings({"form": "class2", "export": {"formats": ["openmm", "lammps"]}}).form == "class2"


def test_lammps_asked_for_by_name_is_refused_if_the_model_gives_factors_of_pairs():
    """Not if there are none, nor among all formats, of which it is left out."""
    by_name = build_settings({"form": "class2", "export": {"formats": ["openmm", "lammps"]}})
    by_name.check_pairs(has_pairs=False)
    build_settings({"form": "class2"}).check_pairs(has_pairs=True)
    with pytest.raises(SettingsError, match="lammps has no sigma, epsilon and Coulomb factor of a pair"):
        by_name.check_pairs(has_pairs=True)


@pytest.mark.skipif(which(PROGRAM) is None, reason=f"{PROGRAM} is not installed")
def test_lammps_itself_computes_every_term(class2, tmp_path):
    """`lmp` from the delivered files: each term, the couplings as one, within the product's tolerance."""
    reference = build_reference(class2)
    _write_lammps(class2, tmp_path)
    (check,) = check_lammps_in_engine(tmp_path / "ligand.in", reference)
    assert check.reports[1].cross == pytest.approx(reference.reports[1].cross, rel=1e-7)


@pytest.mark.parametrize("field", [name for name in CROSS_ROWS if name not in PAIR_FACTORS])
def test_each_coupling_is_read_back_from_lammps(field, build_class2, tmp_path):
    """One kind of coupling a per mille off in the files is found by our reader, and by `lmp`."""
    one = build_class2("CC(=O)NC")
    cross = one.parameters.cross
    other = replace(cross, **{field: 1.001 * getattr(cross, field)})
    _write_lammps(replace(one, parameters=replace(one.parameters, cross=other)), tmp_path)
    checks = [check_lammps] if which(PROGRAM) is None else [check_lammps, check_lammps_in_engine]
    for check in checks:
        with pytest.raises(VerificationError, match="cross"):
            check(tmp_path / "ligand.in", build_reference(one))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class2 0 0 0 0 0 0\n", "class2 1 0 0 0 0 0\n"),
        ("class2 0 0 0 0 0 0 1.", "class2 0 1 0 0 0 0 1."),
        ("class2 0 1.", "class2 7 1."),
        ("skip", "class2 0 90 90"),
    ],
)
def test_unknown_class2_terms_are_not_read_as_ours(old, new, build_class2, tmp_path):
    """A torsion of class2's own, couplings to end bonds, or another style: our reader refuses the file."""
    one = build_class2("CC(=O)NC")
    _write_lammps(one, tmp_path)
    data = (tmp_path / "ligand.data").read_text()
    assert old in data
    (tmp_path / "ligand.data").write_text(data.replace(old, new, 1))
    with pytest.raises(ValueError, match="not understood"):
        check_lammps(tmp_path / "ligand.in", build_reference(one))


def _write_lammps(one: Parametrized, folder: Path) -> None:
    (folder / "ligand.data").write_text(write_lammps_data(one))
    (folder / "ligand.in").write_text(write_lammps_input(one))

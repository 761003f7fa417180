"""What GROMACS and LAMMPS themselves compute from the delivered files: the direct system's energies."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from shutil import which

import numpy as np
import openmm
import pytest

from models.predict import load_predictor
from pipeline.deliver import FILES
from pipeline.errors import VerificationError
from pipeline.export.gromacs import write_gro
from pipeline.export.openmm_system import build_system
from pipeline.process.program import run_program
from pipeline.readback import gromacs_engine, lammps_engine
from pipeline.readback.energies import TERMS
from pipeline.schema import Parametrized
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from pipeline.verify import ENERGY_TOLERANCE, Reference, build_reference

CHECKS = {kind.format: kind.check_in_engine for kind in FILES if kind.check_in_engine}
FILE = {kind.format: kind.name for kind in FILES if kind.check_in_engine}


def _installed(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(which(program) is None, reason=f"{program} is not installed")


needs_gromacs = _installed(gromacs_engine.PROGRAM)
both = pytest.mark.parametrize(
    "form",
    [
        pytest.param("gromacs", marks=needs_gromacs),
        pytest.param("lammps", marks=_installed(lammps_engine.PROGRAM)),
    ],
)


def write_files(folder: Path, parametrized: Parametrized, form: str) -> None:
    folder.mkdir(exist_ok=True)
    for kind in FILES:
        if kind.format == form and (parametrized.coords is not None or not kind.needs_coords):
            (folder / kind.name).write_text(kind.write(parametrized), encoding="utf-8")


@pytest.fixture(scope="module")
def reference(export_smiles, build_ligand, parametrize_ligand) -> Reference:
    return build_reference(parametrize_ligand(build_ligand(export_smiles)))


@both
def test_the_engine_computes_the_same_energies_and_forces(form, reference, tmp_path):
    """Every term at three geometries, and the total forces, within the product's tolerance, checked inside.

    Both programs print all digits of a double, so where a term is small the difference is far smaller still.
    """
    write_files(tmp_path, reference.parametrized, form)
    (check,) = CHECKS[form](tmp_path / FILE[form], reference)
    assert len(check.reports) == len(reference.reports)
    for term in TERMS:
        if all(abs(getattr(report, term)) < 50 for report in reference.reports):
            assert getattr(check.largest_difference, term) < 1e-2 * ENERGY_TOLERANCE


@both
def test_a_permuted_ligand_has_the_same_energies(form, build_ligand, parametrize_ligand, tmp_path):
    """The engine's energies do not know the order of the atoms."""
    original = parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1"))
    order = np.random.default_rng(8).permutation(original.topology.n_atoms)
    permuted = parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1", order), original.coords[order])
    reports = []
    for number, one in enumerate((original, permuted)):
        folder = tmp_path / str(number)
        write_files(folder, one, form)
        (check,) = CHECKS[form](folder / FILE[form], build_reference(one))
        reports.append(check.reports[0])
    assert dataclasses.astuple(reports[1]) == pytest.approx(dataclasses.astuple(reports[0]), rel=1e-7)


NAMES = (
    "../../etc/passwd",
    'it\'s "quoted" `name` $HOME',
    "Привет 水 é",
    "x" * 300,
    "[ atoms ] ; #include <x> \\",
    "two\nlines t= 5.0 &",
    "% & \\",
    "",
)


@both
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_only_a_title(form, name, build_ligand, parametrize_ligand, tmp_path):
    """What the user called the ligand, also in a record's provenance, changes nothing of what is read."""
    ligand = dataclasses.replace(build_ligand("CO"), name=name)
    parametrized = dataclasses.replace(parametrize_ligand(ligand), provenance=(("source", name),))
    write_files(tmp_path, parametrized, form)
    assert CHECKS[form](tmp_path / FILE[form], build_reference(parametrized))


@both
def test_150_atoms_pass(form, build_ligand, parametrize_ligand, tmp_path):
    """Tripalmitin, 155 atoms."""
    smiles = "CCCCCCCCCCCCCCCC(=O)OCC(COC(=O)CCCCCCCCCCCCCCC)OC(=O)CCCCCCCCCCCCCCC"
    parametrized = parametrize_ligand(build_ligand(smiles))
    assert parametrized.topology.n_atoms == 155
    write_files(tmp_path, parametrized, form)
    assert CHECKS[form](tmp_path / FILE[form], build_reference(parametrized))


CORRUPTIONS = {
    "gromacs": ("ligand.itp", r"(\[ bonds \]\n;.*\n +\d+ +\d+ 1 +)(\S+)"),
    "lammps": ("ligand.data", r"(Bond Coeffs # harmonic\n\n1 \S+ )(\S+)"),
}


def _corrupt(path: Path, pattern: str, replace: Callable[[str], str]) -> None:
    text = path.read_text()
    damaged = re.sub(pattern, lambda found: found[1] + replace(found[2]), text, count=1)
    assert damaged != text
    path.write_text(damaged)


@both
@pytest.mark.parametrize("replace", [lambda word: f"{float(word) * 1.01}", lambda _: "nonsense"])
def test_the_engine_refuses_a_wrong_file(form, replace, build_ligand, parametrize_ligand, tmp_path):
    """One bond 1 % longer, or not a number: a VerificationError that names the term or quotes the program."""
    parametrized = parametrize_ligand(build_ligand("CO"))
    write_files(tmp_path, parametrized, form)
    name, pattern = CORRUPTIONS[form]
    _corrupt(tmp_path / name, pattern, replace)
    with pytest.raises(VerificationError, match=f"{FILE[form]}.*(bond energy|ended with status)"):
        CHECKS[form](tmp_path / FILE[form], build_reference(parametrized))


@needs_gromacs
def test_a_topology_without_coordinates_is_run_too(build_ligand, parametrize_ligand, tmp_path):
    """No gro is delivered then; the reference's made-up geometries serve."""
    parametrized = dataclasses.replace(parametrize_ligand(build_ligand("CC(=O)[O-]")), coords=None)
    write_files(tmp_path, parametrized, "gromacs")
    assert not (tmp_path / "ligand.gro").exists()
    assert CHECKS["gromacs"](tmp_path / "ligand.top", build_reference(parametrized))


def _combined_gro(parts: list[Parametrized], shift: float) -> str:
    """One gro of several ligands, `shift` nm apart along x."""
    rows = []
    for number, part in enumerate(parts):
        translation = np.array([number * shift * ANGSTROM_PER_NM, 0.0, 0.0])
        moved = dataclasses.replace(part, coords=part.coords + translation)
        rows += write_gro(moved).splitlines()[2:-1]
    return "\n".join(["two ligands", str(len(rows)), *rows, "60.0 60.0 60.0"]) + "\n"


@needs_gromacs
def test_two_ligands_in_one_gromacs_system_keep_their_energies(build_ligand, parametrize_ligand, tmp_path):
    """Both types files, then both molecules, 25 nm apart with a cutoff of 9 nm: the energies add up.

    The second pair is one molecule with two force fields: the same names of atoms, other types. 1e-4 kJ/mol
    is what eleven decimals of two steep geometries leave.
    """
    smiles = ("CC(=O)[O-]", "Cc1ccncc1")
    first, second = (
        dataclasses.replace(parametrize_ligand(build_ligand(text)), id=f"{number}-ligand")
        for number, text in enumerate(smiles)
    )
    other = dataclasses.replace(parametrize_ligand(build_ligand(smiles[0]), seed=4), id="2-ligand")
    for parts in ([first, second], [first, other]):
        folder = tmp_path / parts[1].id
        folder.mkdir()
        includes = []
        for part in parts:
            write_files(folder / part.id, part, "gromacs")
            includes += [f'#include "{part.id}/ligand_atomtypes.itp"\n']
        includes += [f'#include "{part.id}/ligand.itp"\n' for part in parts]
        rows = "".join(f"{part.id} 1\n" for part in parts)
        (folder / "ligand.top").write_text(
            "[ defaults ]\n1 2 yes 0.5 0.8333333333\n"
            + "".join(includes)
            + f"[ system ]\ntwo\n[ molecules ]\n{rows}"
        )
        for name in ("ligand.gro", "geometries.gro"):
            (folder / name).write_text(_combined_gro(parts, 25.0))
        gromacs_engine.rerun(folder, cutoff=9.0)
        (energy,) = gromacs_engine.read_energies(folder, ["Potential"])
        alone = [build_reference(part).reports[0].total * KJ_PER_KCAL for part in parts]
        assert float(energy[0]) == pytest.approx(sum(alone), abs=1e-4)


MD = """\
integrator = md-vv
dt = 0.00025
nsteps = 1000
cutoff-scheme = Verlet
verlet-buffer-tolerance = -1
rlist = 9
rcoulomb = 9
rvdw = 9
coulombtype = Cut-off
epsilon-rf = 1
coulomb-modifier = None
vdw-modifier = None
DispCorr = no
constraints = none
gen-vel = yes
gen-temp = 300
gen-seed = 7
nstcalcenergy = 10
nstenergy = 10
"""


@needs_gromacs
def test_a_thousand_steps_of_gromacs_conserve_energy(build_ligand, parametrize_ligand, tmp_path):
    """Paracetamol with the shipped network's parameters, NVE, 0.25 fs: no drift, no explosion.

    A symplectic integrator only oscillates, by about (w dt)^2/8 = 0.3 % of the kinetic energy for the
    fastest stretch (3,700 /cm): the means of the first and last quarter must agree to that.
    """
    built = parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1"))
    parameters = load_predictor("default").predict(built.ligand, built.topology)
    parametrized = dataclasses.replace(built, parameters=parameters, coords=_relax(built, parameters))
    write_files(tmp_path, parametrized, "gromacs")
    (tmp_path / "run.mdp").write_text(MD)
    run = "mdrun -s run.tpr -deffnm point -ntmpi 1 -ntomp 1 -nb cpu -pin off"
    prepare = "grompp -f run.mdp -p ligand.top -c ligand.gro -o run.tpr"
    for arguments in (prepare, run):
        run_program([gromacs_engine.PROGRAM, *arguments.split()], tmp_path, seconds=60)
    energies = gromacs_engine.read_energies(tmp_path, ["Kinetic-En.", "Total-Energy"])
    kinetic, total = energies.T
    assert len(total) == 101
    quarter = len(total) // 4
    assert abs(total[-quarter:].mean() - total[:quarter].mean()) < 0.003 * kinetic.mean()
    assert np.ptp(total) < 0.02 * kinetic.mean()


def _relax(built: Parametrized, parameters) -> np.ndarray:
    """A minimum of the force field, so that 300 K stay 150 K, in angstrom."""
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(build_system(built.topology, parameters), integrator, platform)
    context.setPositions(built.coords / ANGSTROM_PER_NM)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    coords: np.ndarray = context.getState(positions=True).getPositions(asNumpy=True)._value * ANGSTROM_PER_NM
    return coords

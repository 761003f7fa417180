"""A check that cannot fail proves nothing: every corrupted file is refused, format by format and term."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.deliver import FILES
from pipeline.errors import VerificationError
from pipeline.readback.files import read_back
from pipeline.schema import Parametrized
from pipeline.verify import Reference, build_reference

Corruption = Callable[[str], str]


def _number(pattern: str, factor: float = 1.01, which: int = 0) -> Corruption:
    """Multiply the number caught by the pattern's second group."""

    def corrupt(text: str) -> str:
        found = list(re.finditer(pattern, text))[which]
        value = f"{float(found.group(2)) * factor:.8E}"
        return text[: found.start(2)] + value.rjust(len(found.group(2))) + text[found.end(2) :]

    return corrupt


def _prmtop(flag: str, factor: float = 1.01) -> Corruption:
    return _number(rf"(%FLAG {flag}\n%FORMAT\(\S+\)\n)( *\S+)", factor)


def _itp(name: str, column: int, factor: float = 1.01, section: int = 0) -> Corruption:
    """Multiply a number in the first row of a directive of an itp file."""

    def corrupt(text: str) -> str:
        head, *tail = re.split(rf"(?<=\[ {name} \]\n)", text)
        rest = tail[section].split("\n")
        words = rest[1].split()
        words[column] = f"{float(words[column]) * factor:.12g}"
        rest[1] = " ".join(words)
        tail[section] = "\n".join(rest)
        return "".join([head, *tail])

    return corrupt


def _charge_swap(pattern: str) -> Corruption:
    """Exchange the first two charges that differ: the sum stays, the energy does not."""

    def corrupt(text: str) -> str:
        first, *rest = list(re.finditer(pattern, text))
        second = next(match for match in rest if match.group(1) != first.group(1))
        return "".join(
            (
                text[: first.start(1)],
                second.group(1),
                text[first.end(1) : second.start(1)],
                first.group(1),
                text[second.end(1) :],
            )
        )

    return corrupt


def _prmtop_charges(text: str) -> str:
    head, tail = text.split("%FLAG CHARGE\n%FORMAT(5E16.8)\n")
    return head + "%FLAG CHARGE\n%FORMAT(5E16.8)\n" + _charge_swap(r"( *\S+E[+-]\d\d)")(tail)


def _signless_dihedrals(text: str) -> str:
    """Let every heavy dihedral count its 1-4 pair: the third and fourth pointers lose their signs."""
    head, tail = text.split("%FLAG DIHEDRALS_WITHOUT_HYDROGEN\n%FORMAT(10I8)\n")
    rows, rest = tail.split("%FLAG", 1)
    return f"{head}%FLAG DIHEDRALS_WITHOUT_HYDROGEN\n%FORMAT(10I8)\n{rows.replace('-', ' ')}%FLAG{rest}"


def _swap_lines(first: str, second: str) -> Corruption:
    def corrupt(text: str) -> str:
        lines = text.splitlines(keepends=True)
        i = next(number for number, line in enumerate(lines) if first in line)
        j = next(number for number, line in enumerate(lines) if second in line)
        lines[i], lines[j] = lines[j], lines[i]
        return "".join(lines)

    return corrupt


CORRUPTIONS = [
    ("ligand.prmtop", _prmtop("BOND_FORCE_CONSTANT"), "bond"),
    ("ligand.prmtop", _prmtop("BOND_EQUIL_VALUE"), "bond"),
    ("ligand.prmtop", _prmtop("ANGLE_FORCE_CONSTANT"), "angle"),
    ("ligand.prmtop", _prmtop("ANGLE_EQUIL_VALUE"), "angle"),
    ("ligand.prmtop", _prmtop("DIHEDRAL_FORCE_CONSTANT", -1.0), "proper"),
    ("ligand.prmtop", _prmtop("DIHEDRAL_PERIODICITY", 2.0), "proper"),
    ("ligand.prmtop", _prmtop("SCEE_SCALE_FACTOR"), "coulomb"),
    ("ligand.prmtop", _prmtop("SCNB_SCALE_FACTOR", 0.5), "vdw"),
    ("ligand.prmtop", _prmtop("LENNARD_JONES_ACOEF"), "CustomNonbondedForce|vdw"),
    ("ligand.prmtop", _prmtop("MASS"), "mass"),
    ("ligand.prmtop", _prmtop("CHARGE"), "sum"),
    ("ligand.prmtop", _prmtop_charges, "coulomb"),
    ("ligand.prmtop", _signless_dihedrals, "cannot be read back"),
    ("ligand.offxml", _number(r'(length=")(\S+)'), "bond"),
    ("ligand.offxml", _number(r'(<Bond [^>]*k=")(\S+)'), "bond"),
    ("ligand.offxml", _number(r'(angle=")(\S+)'), "angle"),
    ("ligand.offxml", _number(r'(<Proper [^>]*k1=")(\S+)', which=1), "proper"),
    ("ligand.offxml", _number(r'(<Improper [^>]*k1=")(\S+)'), "improper"),
    ("ligand.offxml", _number(r'(sigma=")(\S+)'), "sigma"),
    ("ligand.offxml", _number(r'(epsilon=")(\S+)'), "epsilon"),
    ("ligand.offxml", _charge_swap(r'charge1="(\S+)'), "charge"),
    ("openmm_system.xml", _number(r'(<Bond d=")([^"]+)'), "bond"),
    ("openmm_system.xml", _number(r'(<Angle a=")([^"]+)'), "angle"),
    ("openmm_system.xml", _number(r'(<Torsion k=")([^"]+)', -1.0), "proper"),
    ("openmm_system.xml", _number(r'(<Torsion k=")([^"]+)', which=-1), "improper"),
    ("openmm_system.xml", _number(r'(<Particle eps=")([^"]+)'), "vdw"),
    ("openmm_system.xml", _number(r'(<Particle eps="[^"]+" q=")([^"]+)'), "coulomb"),
    ("openmm_system.xml", _number(r'(<Exception eps=")([^"]+)', 0.0, which=-1), "vdw"),
    ("ligand.itp", _itp("bonds", 3), "bond"),
    ("ligand.itp", _itp("bonds", 4), "bond"),
    ("ligand.itp", _itp("angles", 4), "angle"),
    ("ligand.itp", _itp("angles", 5), "angle"),
    ("ligand.itp", _itp("dihedrals", 6, -1.0), "proper"),
    ("ligand.itp", _itp("dihedrals", 7, 2.0), "cannot be read back|proper"),
    ("ligand.itp", _itp("dihedrals", 6, section=1), "improper"),
    ("ligand.itp", _itp("atoms", 7), "mass"),
    ("ligand.itp", _itp("atoms", 6), "sum"),
    ("ligand.itp", _charge_swap(r"LIG \S+ +\d+ +(\S+) "), "coulomb"),
    ("ligand.itp", lambda text: text.replace(" 4 0.0", " 2 0.0"), "CustomTorsionForce|cannot be read back"),
    ("ligand.itp", lambda text: text.replace("[ pairs ]", "[ none ]"), "cannot be read back|vdw|coulomb"),
    ("ligand_atomtypes.itp", _number(r"( A +)(\S+)"), "vdw"),
    ("ligand_atomtypes.itp", _number(r"( A +\S+ +)(\S+)"), "vdw"),
    ("ligand.top", lambda text: text.replace("yes 0.5", "yes 0.4"), "vdw"),
    ("ligand.top", lambda text: text.replace("0.8333333333", "0.8333"), "coulomb"),
    ("ligand.top", lambda text: text.replace("1 2 yes", "1 3 yes"), "Custom|vdw"),
    ("ligand.top", lambda text: text.replace("0123456789 1", "0123456789 2"), "atoms"),
    ("ligand.gro", _number(r"(C1    1 +)(\S+)"), "coordinate|read"),
    ("ligand.data", _number(r"(Bond Coeffs # harmonic\n\n1 )(\S+)"), "bond"),
    ("ligand.data", _number(r"(Bond Coeffs # harmonic\n\n1 \S+ )(\S+)"), "bond"),
    ("ligand.data", _number(r"(Angle Coeffs # harmonic\n\n1 )(\S+)"), "angle"),
    ("ligand.data", _number(r"(Angle Coeffs # harmonic\n\n1 \S+ )(\S+)"), "angle"),
    ("ligand.data", _number(r"(Dihedral Coeffs # harmonic\n\n1 )(\S+)", -1.0), "proper"),
    ("ligand.data", _number(r"(Improper Coeffs # cvff\n\n1 )(\S+)", -1.0), "improper"),
    ("ligand.data", _number(r"(Masses\n\n1 )(\S+)"), "mass"),
    ("ligand.data", _number(r"(lj/cut/coul/cut\n\n1 )(\S+)"), "vdw"),
    ("ligand.data", _number(r"(lj/cut/coul/cut\n\n1 \S+ )(\S+)"), "vdw"),
    ("ligand.data", _charge_swap(r"(?m)^\d+ 1 \d+ (\S+) "), "coulomb"),
    ("ligand.in", lambda text: text.replace("0.8333333333", "0.8333"), "coulomb"),
    ("ligand.in", lambda text: text.replace("lj 0.0 0.0 0.5", "lj 0.0 0.0 0.4"), "vdw"),
    ("ligand.in", lambda text: text.replace("mix arithmetic", "mix geometric"), "cannot be read back"),
    ("ligand.in", lambda text: text.replace("coul/cut 1000.0", "coul/cut 3.0"), "cutoff"),
    ("parameters.json", _number(r'("length": )([\d.]+)'), "bond_length"),
    ("parameters.json", _number(r'("charge": )(-?[\d.]+)'), "charge"),
    ("ligand.inpcrd", lambda text: text.replace(".", ".9", 1)[:-1], "coordinate|read"),
    ("ligand.sdf", _number(r"(PartialCharge>\n)(\S+)"), "charge"),
    ("ligand.sdf", _swap_lines(" C   0", " H   0"), "another molecule|one record"),
    (
        "ligand.sdf",
        lambda text: text.replace("  1  2  1  0", "  1  3  1  0", 1),
        "another molecule|one record",
    ),
]


READ_THROUGH = {
    "ligand.itp": "ligand.top",
    "ligand_atomtypes.itp": "ligand.top",
    "ligand.data": "ligand.in",
}
"""the file whose check names what is wrong in this one"""


@pytest.fixture(scope="module")
def reference(build_ligand, parametrize_ligand):
    return build_reference(parametrize_ligand(build_ligand("CC(=O)NCC=C")))


@pytest.mark.parametrize(
    ("name", "corrupt", "message"), CORRUPTIONS, ids=[f"{c[0]}-{c[2]}-{n}" for n, c in enumerate(CORRUPTIONS)]
)
def test_a_corrupted_file_is_refused(name, corrupt, message, reference, tmp_path):
    """One wrong number in one place of a right file, and the check says no, naming where it shows."""
    kind = next(kind for kind in FILES if kind.name == name)
    text = kind.write(reference.parametrized)
    damaged = corrupt(text)
    assert damaged != text
    _write_all(tmp_path, reference.parametrized, kind.format)
    (tmp_path / name).write_text(damaged)
    reader = f"({re.escape(name)}|{re.escape(READ_THROUGH.get(name, name))})"
    with pytest.raises(VerificationError, match=f"(?s){reader}.*({message})"):
        _read_all(tmp_path, reference, kind.format)


def _read_all(folder: Path, reference: Reference, form: str) -> None:
    """Read the files of one format back, those that are read through another with that other."""
    for kind in FILES:
        if kind.format == form and kind.check:
            read_back(kind.check, folder / kind.name, reference)


def _write_all(folder: Path, parametrized: Parametrized, form: str) -> None:
    for kind in FILES:
        if kind.format == form:
            (folder / kind.name).write_text(kind.write(parametrized))


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.check], ids=lambda kind: kind.name)
def test_the_file_of_another_ligand_is_refused(kind, reference, build_ligand, parametrize_ligand, tmp_path):
    """Another set of parameters of the same molecule is not this ligand's file."""
    other = parametrize_ligand(build_ligand("CC(=O)NCC=C"), seed=5)
    _write_all(tmp_path, other, kind.format)
    with pytest.raises(VerificationError):
        read_back(kind.check, tmp_path / kind.name, reference)


UNREAD = ("ligand.leap",)
"""LEaP's own commands, which no reader here executes"""


@pytest.mark.parametrize(
    "kind", [kind for kind in FILES if kind.name not in UNREAD], ids=lambda kind: kind.name
)
def test_half_a_file_is_refused(kind, reference, tmp_path):
    """A file cut in the middle is never taken for a whole one."""
    _write_all(tmp_path, reference.parametrized, kind.format)
    text = kind.write(reference.parametrized)
    (tmp_path / kind.name).write_text(text[: len(text) // 2])
    with pytest.raises(VerificationError):
        _read_all(tmp_path, reference, kind.format)


def test_stereo_is_part_of_the_molecule(build_ligand, parametrize_ligand, tmp_path):
    """An SDF with mirrored coordinates is the other enantiomer, and refused."""
    parametrized = parametrize_ligand(build_ligand("C[C@H](F)Cl"))
    mirrored = replace(parametrized, coords=parametrized.coords * [1, 1, -1])
    kind = next(kind for kind in FILES if kind.name == "ligand.sdf")
    path = tmp_path / kind.name
    path.write_text(kind.write(mirrored))
    with pytest.raises(VerificationError, match="another molecule"):
        read_back(kind.check, path, build_reference(mirrored))

"""The contract of every exporter: another program reads the same force field from its file."""

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from pipeline.deliver import FILES, FileKind, deliver
from pipeline.readback.energies import TERMS
from pipeline.schema import Parametrized
from pipeline.smirnoff import label, read_smirnoff
from pipeline.verify import ENERGY_TOLERANCE, EnergyCheck, Reference, build_reference

AMBER_FACTOR = Decimal("18.2223")


def write_files(folder: Path, parametrized: Parametrized, form: str | None = None) -> None:
    """Write the files of one format, or all: some are read together."""
    for kind in FILES:
        if form in (None, kind.format):
            (folder / kind.name).write_text(kind.write(parametrized))


@pytest.fixture(scope="module")
def reference(export_smiles, build_ligand, parametrize_ligand) -> Reference:
    return build_reference(parametrize_ligand(build_ligand(export_smiles)))


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.check], ids=lambda kind: kind.name)
def test_another_program_reads_the_same_force_field(kind: FileKind, reference: Reference, tmp_path):
    """Each file read back gives the direct system's energy, term by term, at three geometries.

    The tolerance is the product's own: 1e-3 kJ/mol per term or 5e-6 of it, checked inside; what the check
    reports must lie within it too wherever the term is smaller than 50 kcal/mol.
    """
    write_files(tmp_path, reference.parametrized, kind.format)
    checks = kind.check(tmp_path / kind.name, reference)
    assert checks
    for check in checks:
        assert check.file == kind.name
        if isinstance(check, EnergyCheck):
            for term in TERMS:
                if all(abs(getattr(report, term)) < 50 for report in reference.reports):
                    assert getattr(check.largest_difference, term) <= ENERGY_TOLERANCE


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
def test_writing_is_reproducible(kind: FileKind, build_ligand, parametrize_ligand):
    """The same value gives the same bytes: no clock, no random order."""
    parametrized = parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1"))
    assert kind.write(parametrized) == kind.write(parametrized)


def _prmtop_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    section = text.split("%FLAG CHARGE\n%FORMAT(5E16.8)\n")[1].split("%FLAG")[0]
    return [Decimal(word) / AMBER_FACTOR for word in section.split()]


def _sdf_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    section = text.split("<atom.dprop.PartialCharge>\n")[1].split("\n\n")[0]
    return [Decimal(word) for word in section.split()]


def _openmm_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    return [Decimal(word) for word in re.findall(r'<Particle eps="[^"]*" q="([^"]*)"', text)]


def _itp_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    section = text.split("[ atoms ]\n")[1].split("\n\n")[0]
    return [Decimal(line.split()[6]) for line in section.splitlines()[1:]]


def _lammps_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    section = text.split("Atoms # full\n\n")[1].split("\n\n")[0]
    return [Decimal(line.split()[3]) for line in section.splitlines()]


def _mol2_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    section = text.split("@<TRIPOS>ATOM\n")[1].split("@")[0]
    return [Decimal(line.split()[8]) for line in section.splitlines()]


def _forcefield_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    return [Decimal(word) for word in re.findall(r'<Atom name=[^>]* charge="([^"]*)"', text)]


def _json_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    return [Decimal(word) for word in re.findall(r'"charge": (\S+),', text)]


def _offxml_charges(text: str, parametrized: Parametrized) -> list[Decimal]:
    labelled = label(read_smirnoff(text), parametrized.ligand, parametrized.topology)
    return [Decimal(charge) for charge in labelled.charge.tolist()]


READ_CHARGES = {
    "ligand.prmtop": _prmtop_charges,
    "ligand.sdf": _sdf_charges,
    "openmm_system.xml": _openmm_charges,
    "ligand.offxml": _offxml_charges,
    "openmm_forcefield.xml": _forcefield_charges,
    "ligand.mol2": _mol2_charges,
    "ligand.itp": _itp_charges,
    "ligand.data": _lammps_charges,
    "parameters.json": _json_charges,
}


@pytest.mark.parametrize("name", READ_CHARGES)
def test_printed_charges_sum_to_the_integer(name: str, reference: Reference):
    """The digits in the file, added up in decimal, are the total charge to 1e-9 e."""
    write = next(kind.write for kind in FILES if kind.name == name)
    charges = READ_CHARGES[name](write(reference.parametrized), reference.parametrized)
    assert len(charges) == reference.parametrized.topology.n_atoms
    assert abs(sum(charges, Decimal(0)) - reference.parametrized.ligand.total_charge) < Decimal("1e-9")


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "FC(Cl)=C(Br)I", "C1CC1C#N"])
def test_reordered_atoms_give_a_file_that_is_right_for_the_new_order(
    smiles, build_ligand, parametrize_ligand, tmp_path
):
    """Permuting the input's atoms permutes every output: same energies, all files agree again."""
    original = parametrize_ligand(build_ligand(smiles))
    order = np.random.default_rng(3).permutation(original.topology.n_atoms)
    permuted = parametrize_ligand(build_ligand(smiles, order), original.coords[order])
    before, after = build_reference(original), build_reference(permuted)
    assert after.reports[0].total == pytest.approx(before.reports[0].total, rel=1e-9)  # sums in another order
    write_files(tmp_path, permuted)
    for kind in FILES:
        if kind.check:
            assert kind.check(tmp_path / kind.name, after)


def test_155_atoms_are_delivered_in_every_format(build_ligand, parametrize_ligand, tmp_path):
    """Tripalmitin: every file written, read back and weighed; nothing left out."""
    smiles = "CCCCCCCCCCCCCCCC(=O)OCC(COC(=O)CCCCCCCCCCCCCCC)OC(=O)CCCCCCCCCCCCCCC"
    parametrized = parametrize_ligand(build_ligand(smiles))
    assert parametrized.topology.n_atoms == 155
    formats = {kind.format for kind in FILES}
    names = deliver(parametrized, tmp_path / "tripalmitin", sorted(formats))
    assert {kind.name for kind in FILES} < set(names)
    assert json.loads((tmp_path / "tripalmitin" / "check.json").read_text())["left_out"] == {}

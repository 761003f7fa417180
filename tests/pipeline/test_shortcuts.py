"""With the short cuts the libraries read the same systems, to the last bit, and are themselves afterwards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import parmed
import pytest
from openmm import app, unit

from pipeline.deliver import FILES
from pipeline.readback.forcefield import build_app_topology
from pipeline.readback.gromacs import SingleMoleculeTop
from pipeline.schema import Parametrized
from pipeline.shortcuts import _SHORT, shortcuts

FORMATS = ("amber", "gromacs", "openmm")


def _from_forcefield(folder: Path, parametrized: Parametrized) -> openmm.System:
    topology = build_app_topology(parametrized.topology)
    return app.ForceField(str(folder / "openmm_forcefield.xml")).createSystem(topology)


READERS: dict[str, Callable[[Path, Parametrized], openmm.System]] = {
    "OpenMM top": lambda folder, _: app.GromacsTopFile(str(folder / "ligand.top")).createSystem(),
    "ParmEd top": lambda folder, _: SingleMoleculeTop(str(folder / "ligand.top")).createSystem(),
    "OpenMM prmtop": lambda folder, _: app.AmberPrmtopFile(str(folder / "ligand.prmtop")).createSystem(),
    "ParmEd prmtop": lambda folder, _: parmed.amber.AmberParm(str(folder / "ligand.prmtop")).createSystem(),
    "OpenMM ForceField": _from_forcefield,
}


@pytest.fixture
def parametrized(build_ligand, parametrize_ligand) -> Parametrized:
    return parametrize_ligand(build_ligand("CC1CC1NC(=O)c1ccc[nH]1"))


@pytest.fixture
def folder(parametrized, tmp_path) -> Path:
    for kind in FILES:
        if kind.format in FORMATS:
            (tmp_path / kind.name).write_text(kind.write(parametrized), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_is_the_same(reader, folder, parametrized):
    """The XML of the system holds every digit of every number."""
    plain = READERS[reader](folder, parametrized)
    for _ in range(2):  # the second time with the factors found the first time
        with shortcuts():
            short = READERS[reader](folder, parametrized)
        assert openmm.XmlSerializer.serialize(short) == openmm.XmlSerializer.serialize(plain)


def test_quantities_are_treated_as_the_libraries_do():
    """Units, arrays, keywords and mistakes, which are not cut short, give what they always give."""

    def numbers() -> list[object]:
        force = openmm.HarmonicBondForce()
        force.addBond(0, 1, 1.5 * unit.angstrom, 300.0 * unit.kilocalorie_per_mole / unit.nanometer**2)
        force.addBond(0, particle2=1, length=0.1, k=2)
        metre, array = 2.0 * unit.meter, np.arange(3.0) * unit.angstrom
        return [
            *(force.getBondParameters(row) for row in range(2)),
            metre.value_in_unit(unit.angstrom),
            metre.value_in_unit(unit.meter),
            metre.value_in_unit_system(unit.md_unit_system),
            (3.0 * unit.degree).value_in_unit(unit.radian),
            (unit.meter * 3.0, unit.meter * unit.second, 2 * unit.meter),
            array.value_in_unit(unit.nanometer).tolist(),
            (2 * unit.meter).value_in_unit(unit.nanometer),
            parmed.BondType(5 * unit.kilojoule_per_mole / unit.nanometer**2, 0.1 * unit.nanometer).k,
        ]

    plain = numbers()
    with shortcuts():
        assert [numbers(), numbers()] == [plain, plain]
        with pytest.raises(TypeError):
            (2.0 * unit.meter).value_in_unit(unit.second)
        with pytest.raises(ValueError, match="argument 4"):
            openmm.HarmonicBondForce().addBond(0, 1, "long", 1.0)


def test_the_libraries_are_themselves_afterwards():
    """After the block, also one left by an error, not one function of ours is left."""
    originals = [getattr(owner, name) for owner, name, _ in _SHORT]
    with shortcuts():
        assert all(getattr(owner, name) is short for owner, name, short in _SHORT)
    with pytest.raises(ZeroDivisionError), shortcuts():
        _ = 1 / 0
    assert [getattr(owner, name) for owner, name, _ in _SHORT] == originals

"""A little dynamics from the delivered files: energy is conserved, and alike whichever file it came from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from models.predict import load_predictor
from pipeline.export.amber import write_inpcrd, write_prmtop
from pipeline.export.openmm_forcefield import write_openmm_forcefield
from pipeline.export.openmm_system import write_openmm_system
from pipeline.readback.forcefield import build_app_topology
from pipeline.schema import Parametrized
from pipeline.topology import build_topology

STEP, N_STEPS = 0.25e-3, 20_000
"""ps: 5 ps in all; a quarter of a femtosecond, since Verlet's error goes with the square of the step"""
ALIKE = 10
"""of the hundred energies along the way; in that time printed digits grow to some 1e-6 kcal/mol"""
TEMPERATURE = 300.0
FLEXIBLE = {
    "nonbondedMethod": app.NoCutoff,
    "constraints": None,
    "rigidWater": False,
    "removeCMMotion": False,
}


def _from_prmtop(parametrized: Parametrized, folder: Path) -> tuple[openmm.System, np.ndarray]:
    (folder / "ligand.prmtop").write_text(write_prmtop(parametrized))
    (folder / "ligand.inpcrd").write_text(write_inpcrd(parametrized))
    system = app.AmberPrmtopFile(str(folder / "ligand.prmtop")).createSystem(**FLEXIBLE)
    coords = app.AmberInpcrdFile(str(folder / "ligand.inpcrd")).getPositions(asNumpy=True)
    return system, coords.value_in_unit(unit.nanometer)


def _from_system(parametrized: Parametrized, folder: Path) -> tuple[openmm.System, np.ndarray]:
    return openmm.XmlSerializer.deserialize(write_openmm_system(parametrized)), parametrized.coords / 10


def _from_forcefield(parametrized: Parametrized, folder: Path) -> tuple[openmm.System, np.ndarray]:
    (folder / "a.xml").write_text(write_openmm_forcefield(parametrized))
    force_field = app.ForceField(str(folder / "a.xml"))
    return force_field.createSystem(
        build_app_topology(parametrized.topology), **FLEXIBLE
    ), parametrized.coords / 10


def _context(system: openmm.System, positions: np.ndarray) -> openmm.Context:
    """A simulation in double precision."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(STEP), platform)
    context.setPositions(positions)
    return context


def _minimum(parametrized: Parametrized, folder: Path) -> np.ndarray:
    """Coordinates of a minimum, (n_atoms, 3), angstrom."""
    context = _context(*_from_system(parametrized, folder))
    openmm.LocalEnergyMinimizer.minimize(context, 1e-3)
    return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def _energies(system: openmm.System, positions: np.ndarray) -> np.ndarray:
    """Total energies along 5 ps of NVE, kcal/mol."""
    context = _context(system, positions)
    context.setVelocitiesToTemperature(TEMPERATURE, 11)
    totals = []
    for _ in range(100):
        context.getIntegrator().step(N_STEPS // 100)
        state = context.getState(getEnergy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value / 4.184)
    return np.array(totals)


@pytest.mark.parametrize("smiles", ["CC(=O)NC", "CC#CC#N", "C=C=CCN=[N+]=[N-]"])
def test_dynamics_conserves_energy_alike_from_every_file(smiles, build_ligand, parametrize_ligand, tmp_path):
    """5 ps from prmtop + inpcrd, System XML and ForceField XML with the shipped network's parameters.

    Verlet's energy wavers by less than (omega dt)^2 / 8 of the kinetic energy: 0.3 % for X-H stretches at
    0.25 fs (omega dt = 0.15), some 0.02 kcal/mol here; a force that is not the energy's gradient would drift
    by far more. The three differ by printed digits: for half a picosecond they waver as one, to a twentieth
    of the waver, before chaos makes three trajectories of one energy. Linear centres (hazard 27) must not
    blow up: two of these molecules have them.
    """
    ligand = build_ligand(smiles)
    topology = build_topology(ligand)
    random = parametrize_ligand(ligand)
    parametrized = Parametrized(
        id=random.id,
        ligand=ligand,
        topology=topology,
        parameters=load_predictor("default").predict(ligand, topology),
        coords=random.coords,
    )
    # One minimum for all: where a minimiser stops depends on every printed digit.
    parametrized = replace(parametrized, coords=_minimum(parametrized, tmp_path))
    runs = {
        read.__name__: _energies(*read(parametrized, tmp_path))
        for read in (_from_prmtop, _from_system, _from_forcefield)
    }
    times = np.linspace(0, 1, 100)
    exact = runs["_from_system"]
    for name, totals in runs.items():
        assert np.ptp(totals) < 0.02, name
        assert abs(np.polyfit(times, totals, 1)[0]) < 0.005, name
        assert totals.mean() == pytest.approx(exact.mean(), abs=1e-3), name
        np.testing.assert_allclose(totals[:ALIKE], exact[:ALIKE], rtol=0, atol=5e-5, err_msg=name)

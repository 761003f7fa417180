"""The OpenMM ForceField XML where users load it: beside proteins, other ligands and stereoisomers."""

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app

from pipeline.errors import ExportError
from pipeline.export.openmm_forcefield import write_openmm_forcefield
from pipeline.readback.forcefield import build_app_topology
from pipeline.schema import FloatArray, Parametrized
from pipeline.verify import build_reference, check_system

FLEXIBLE = {
    "nonbondedMethod": app.NoCutoff,
    "constraints": None,
    "rigidWater": False,
    "removeCMMotion": False,
}
FAR = 1e6
"""angstrom; two neutral molecules so far apart attract each other by less than 1e-12 kcal/mol"""


def _write(parametrized: Parametrized, path: Path) -> str:
    path.write_text(write_openmm_forcefield(parametrized), encoding="utf-8")
    return str(path)


def _energy(system: openmm.System, coords: FloatArray) -> float:
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(coords / 10)
    return context.getState(getEnergy=True).getPotentialEnergy()._value / 4.184


def _side_by_side(*parts: tuple[app.Topology, FloatArray]) -> app.Modeller:
    modeller = app.Modeller(app.Topology(), [] * openmm.unit.nanometer)
    for topology, coords in parts:
        modeller.add(topology, coords / 10 * openmm.unit.nanometer)
    return modeller


def test_the_template_works_beside_amber14(build_ligand, parametrize_ligand, tmp_path):
    """Loaded after amber14-all.xml the ligand keeps every term; the files' 1-4 scales differ by 4e-11."""
    reference = build_reference(parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1")))
    path = _write(reference.parametrized, tmp_path / "a.xml")
    for files in (("amber14-all.xml", path), (path, "amber14-all.xml")):
        topology = build_app_topology(reference.parametrized.topology)
        system = app.ForceField(*files).createSystem(topology, **FLEXIBLE)
        check = check_system(reference, system, file="a.xml", reader="OpenMM")
        assert max(astuple(check.largest_difference)) < 1e-6


def _peptide() -> app.Topology:
    """ACE-NME, whose templates amber14-all.xml has."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for name, symbols in (("ACE", "HCHHCO"), ("NME", "NHCHHH")):
        residue = topology.addResidue(name, chain)
        atoms += [
            topology.addAtom(f"{symbol}{number}", app.Element.getBySymbol(symbol), residue)
            for number, symbol in enumerate(symbols)
        ]
    for i, j in ((0, 1), (1, 2), (1, 3), (1, 4), (4, 5), (4, 6), (6, 7), (6, 8), (8, 9), (8, 10), (8, 11)):
        topology.addBond(atoms[i], atoms[j])
    return topology


def test_a_peptide_and_a_ligand_keep_their_energies(build_ligand, parametrize_ligand, tmp_path):
    """Far apart, the energy of both is the sum of amber14's peptide alone and our ligand alone.

    1e-6 kcal/mol: the 1-4 scale of the file that is loaded first holds for all.
    """
    ligand = parametrize_ligand(build_ligand("NS(=O)(=O)c1ccccc1"))
    path = _write(ligand, tmp_path / "a.xml")
    places = np.random.default_rng(4).permutation(np.argwhere(np.ones((3, 2, 2)))) * 1.5
    both = _side_by_side((_peptide(), places), (build_app_topology(ligand.topology), ligand.coords + FAR))
    positions = np.array(both.positions.value_in_unit(openmm.unit.angstrom))
    together = app.ForceField("amber14-all.xml", path).createSystem(both.topology, **FLEXIBLE)
    peptide = app.ForceField("amber14-all.xml").createSystem(_peptide(), **FLEXIBLE)
    alone = _energy(peptide, places) + build_reference(ligand).reports[0].total
    assert _energy(together, positions) == pytest.approx(alone, abs=1e-6, rel=1e-9)


def test_two_ligands_in_one_system_keep_their_energies(build_ligand, parametrize_ligand, tmp_path):
    """Both templates in one ForceField, two copies of one ligand and one of the other, far apart."""
    one = parametrize_ligand(build_ligand("CC(=O)Nc1ccc(O)cc1"))
    other = parametrize_ligand(build_ligand("CCC#N"), seed=5)
    force_field = app.ForceField(_write(one, tmp_path / "1.xml"), _write(other, tmp_path / "2.xml"))
    places = ((one, 0.0), (other, FAR), (one, -FAR))
    modeller = _side_by_side(*((build_app_topology(p.topology), p.coords + shift) for p, shift in places))
    positions = np.array(modeller.positions.value_in_unit(openmm.unit.angstrom))
    system = force_field.createSystem(modeller.topology, **FLEXIBLE)
    single = 2 * build_reference(one).reports[0].total + build_reference(other).reports[0].total
    # A coordinate of 1e6 angstrom has 1e-10 angstrom left of a double: 1e-7 kcal/mol in a stiff bond.
    assert _energy(system, positions) == pytest.approx(single, abs=1e-5)


def test_stereoisomers_are_told_apart_by_name(build_ligand, parametrize_ligand, tmp_path):
    """Elements and bonds fit both templates: OpenMM says so, and takes the one that the user names."""
    ligands = [
        parametrize_ligand(build_ligand(smiles), seed=seed)
        for seed, smiles in enumerate(("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"))
    ]
    paths = [_write(ligand, tmp_path / f"{number}.xml") for number, ligand in enumerate(ligands)]
    force_field = app.ForceField(*paths)
    for ligand in ligands:
        topology = build_app_topology(ligand.topology)
        with pytest.raises(Exception, match="Multiple"):
            force_field.createSystem(topology, **FLEXIBLE)
        name = write_openmm_forcefield(ligand).split('<Residue name="')[1].split('"')[0]
        residue = next(topology.residues())
        system = force_field.createSystem(topology, residueTemplates={residue: name}, **FLEXIBLE)
        assert check_system(build_reference(ligand), system, file="ligand", reader="OpenMM")


def test_an_uneven_trefoil_is_refused(build_ligand, parametrize_ligand):
    """OpenMM's smirnoff ordering gives one k to the three rows of a centre."""
    parametrized = parametrize_ligand(build_ligand("C=O"))
    improper_k = parametrized.parameters.improper_k.copy()
    improper_k[2] += 0.5
    with pytest.raises(ExportError, match="improper rows about atom 1"):
        write_openmm_forcefield(
            replace(parametrized, parameters=replace(parametrized.parameters, improper_k=improper_k))
        )


@pytest.mark.parametrize("name", ["a--b---c", "<&>\"'", "nul\x00bell\x07", "-", "雪"])
def test_any_name_leaves_a_file_that_openmm_reads(name, build_ligand, parametrize_ligand, tmp_path):
    """Names that would end the comment or the element are made harmless."""
    water = parametrize_ligand(build_ligand("O"))
    named = replace(water, ligand=replace(water.ligand, name=name))
    assert app.ForceField(_write(named, tmp_path / "a.xml"))


def test_openmm_adds_the_three_rows_of_each_trefoil(build_ligand, parametrize_ligand, tmp_path):
    """Guanidinium: six terms per proper and two per improper row, three rows per centre, the same energy."""
    reference = build_reference(parametrize_ligand(build_ligand("NC(N)=[NH2+]")))
    force_field = app.ForceField(_write(reference.parametrized, tmp_path / "a.xml"))
    system = force_field.createSystem(build_app_topology(reference.parametrized.topology), **FLEXIBLE)
    n_torsions = sum(
        force.getNumTorsions()
        for force in system.getForces()
        if isinstance(force, openmm.PeriodicTorsionForce)
    )
    topology = reference.parametrized.topology
    assert n_torsions == 6 * len(topology.propers) + 2 * len(topology.impropers)
    check = check_system(reference, system, file="a.xml", reader="OpenMM")
    assert check.largest_difference.improper < 1e-11

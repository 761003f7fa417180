"""What is refused before any program starts, and the levels by name."""

import dataclasses

import numpy as np
import pytest

from pipeline.errors import QMError, SettingsError
from pipeline.qm.levels import (
    check_molecule,
    check_task,
    functions_of_element,
    n_functions,
    spec_by_name,
)
from pipeline.schema import DihedralConstraint, QMSpec, QMTask
from pipeline.settings import build_settings

WATER = QMTask(
    ligand_key="water",
    atomic_numbers=np.array([8, 1, 1]),
    coords=np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]]),
    total_charge=0,
    spec=QMSpec(),
)


FAST = spec_by_name("fast")


def test_specs_by_name() -> None:
    """`auto` is pyscf for DFT and tblite for GFN2-xTB; a program without the level is refused."""
    assert spec_by_name("quality").level == "wb97x-d3bj/def2-tzvpd"
    assert spec_by_name("composite").level == "b97-3c/def2-mtzvp"
    assert spec_by_name("charges", "psi4").level == "hf/6-31g*"
    assert spec_by_name("charges").driver == "esp"
    assert spec_by_name("openff-default").level == "b3lyp-d3bj/dzvp"
    assert spec_by_name("openff-default").program == "pyscf"
    assert spec_by_name("openff-default", "psi4").program == "psi4"
    assert spec_by_name("fast").program == "tblite"
    for name, program in (
        ("best", "auto"),
        ("fast", "psi4"),
        ("quality", "psi4"),
        ("openff-default", "tblite"),
    ):
        with pytest.raises(QMError):
            spec_by_name(name, program)


@pytest.mark.parametrize(
    ("words", "program", "taken", "level"),
    [
        ("gfn1-xtb", "auto", "tblite", "gfn1-xtb"),
        ("AM1", "auto", "mopac", "am1"),
        ("ani2x", "auto", "torchani", "ani2x"),
        ("HF/6-31G*", "auto", "pyscf", "hf/6-31g*"),
        ("b3lyp-d3bj/def2-svp", "psi4", "psi4", "b3lyp-d3bj/def2-svp"),
        ("b97-3c", "auto", "pyscf", "b97-3c/def2-mtzvp"),
        ("MP2/cc-pVDZ", "nwchem", "nwchem", "MP2/cc-pVDZ"),
    ],
)
def test_levels_in_words(words: str, program: str, taken: str, level: str) -> None:
    """What `doctor` lists can be asked for; a program that QCEngine alone knows hears its own words."""
    spec = spec_by_name(words, program)
    assert (spec.program, spec.level, spec.driver) == (taken, level, "gradient")


@pytest.mark.parametrize(
    ("words", "program", "says"),
    [
        ("b3lyp-d3bj", "auto", "b3lyp needs a basis"),
        ("gfn1-xtb/dzvp", "auto", "gfn1-xtb needs no basis"),
        ("hf/dzvq", "auto", "dzvq is not a known basis"),
        ("wb97x/def2-svp", "auto", "with the dispersion d3bj only"),
        ("mp2/cc-pvdz", "auto", "unknown QM level 'mp2/cc-pvdz'; known are openff-default"),
        ("gfn1-xtb", "psi4", "psi4 does not compute gfn1-xtb; take program tblite"),
        ("mmff94", "rdkit", "unknown program 'rdkit'"),
        ("hf/dzvp", "gaussian", "unknown program 'gaussian'"),
    ],
)
def test_words_that_are_no_level(words: str, program: str, says: str) -> None:
    """Refused where the settings are read, with what there is."""
    with pytest.raises(QMError, match=says):
        spec_by_name(words, program)
    with pytest.raises(SettingsError, match=f"qm.spec: .*{says}"):
        build_settings({"qm": {"spec": words, "program": program}})


@pytest.mark.parametrize(
    ("numbers", "charge", "level", "says"),
    [
        ([53, 6, 1, 1, 1], 0, "hf/6-31g*", "6-31g. has no functions for element 53; take another level"),
        ([35, 6, 1, 1, 1], 0, "ani2x", "ani2x has no parameters for element 35"),
        ([7, 1, 1, 1, 1], 1, "ani2x", r"for neutral molecules, not for a charge of \+1"),
    ],
)
def test_a_molecule_is_refused_by_name(numbers: list[int], charge: int, level: str, says: str) -> None:
    """A level that lacks an element or charges says so before there is a geometry; others take it."""
    check_molecule("mine", np.array(numbers), charge, [FAST, spec_by_name("openff-default")])
    with pytest.raises(QMError, match=f"mine: .*{says}") as caught:
        check_molecule("mine", np.array(numbers), charge, [FAST, spec_by_name(level)])
    assert caught.value.kind == "input"


def test_functions_are_counted() -> None:
    """DZVP, counted by hand: H 2s; C 3s 2p 1d (spherical): 2 and 14; water 18; Br and I exist."""
    assert functions_of_element("dzvp", 1) == 2
    assert functions_of_element("dzvp", 6) == 3 + 2 * 3 + 5
    assert n_functions(WATER) == 14 + 2 * 2
    assert functions_of_element("dzvp", 53) > functions_of_element("dzvp", 35) > 14


def test_iodine_has_a_stand_in_for_potentials_alone() -> None:
    """HI with its potential: def2-SVP's 4s 4p 2d on iodine, 6-31G*'s 2s on hydrogen; no gradient."""
    task = QMTask(
        ligand_key="HI",
        atomic_numbers=np.array([53, 1]),
        coords=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.61]]),
        total_charge=0,
        spec=spec_by_name("charges"),
    )
    check_task(task)
    assert n_functions(task) == 4 + 4 * 3 + 2 * 5 + 2
    with pytest.raises(QMError, match="no functions for element 53"):
        check_task(dataclasses.replace(task, spec=spec_by_name("hf/6-31g*")))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"total_charge": 1}, "input", "9 electrons cannot all be paired"),
        ({"total_charge": 10}, "input", "leaves no electron"),
        ({"spec": QMSpec(method="b97-9")}, "input", "is not set up for 'b97-9'"),
        ({"spec": QMSpec(program="gaussian")}, "input", "unknown program 'gaussian'"),
        ({"spec": QMSpec(basis="dzvq")}, "input", "dzvq is not a known basis"),
        ({"spec": QMSpec(basis=None)}, "input", "b3lyp needs a basis"),
        ({"spec": QMSpec(dispersion="d9")}, "input", "dispersion 'd9' cannot be added"),
        ({"spec": QMSpec(driver="scan")}, "input", "unknown driver 'scan'"),
        ({"spec": QMSpec(method="wb97x", dispersion=None)}, "input", "with the dispersion d3bj only"),
        ({"spec": QMSpec(method="b97-3c", dispersion=None)}, "input", "with the basis def2-mtzvp only"),
        ({"spec": QMSpec(program="psi4", method="wb97x")}, "input", "psi4 is not set up for 'wb97x'; it has"),
        ({"spec": dataclasses.replace(FAST, driver="esp")}, "input", "tblite has no esp; it has energy"),
        ({"constraints": (DihedralConstraint(atoms=(0, 1, 2, 3)),)}, "input", "belong to an optimisation"),
        (
            {
                "constraints": (DihedralConstraint(atoms=(0, 1, 2, 3)),),
                "spec": dataclasses.replace(FAST, driver="optimise"),
            },
            "input",
            "not four different atoms of a molecule of 3",
        ),
        (
            {"spec": dataclasses.replace(FAST, program="mopac", method="am1"), "atomic_numbers": [26, 1, 1]},
            "input",
            "am1 has no parameters for element 26",
        ),
        ({"spec": QMSpec(keywords=(("grid", 9),))}, "input", "unknown keyword 'grid'"),
        ({"atomic_numbers": np.array([86, 1, 1])}, "input", "dzvp has no functions for element 86"),
        ({"coords": np.full((3, 3), np.nan)}, "input", "not finite"),
        ({"coords": WATER.coords * 0.3}, "geometry", r"atoms 1 and 2 are only 0.2\d\d angstrom apart"),
    ],
)
def test_refusals(change: dict, kind: str, words: str) -> None:
    """What cannot succeed is refused before anything runs, with a message that says what is wrong."""
    with pytest.raises(QMError, match=words) as caught:
        check_task(dataclasses.replace(WATER, **change))
    assert caught.value.kind == kind
    assert not caught.value.retryable


def test_missing_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not on the path is refused with the way to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(QMError, match="psi4 is not installed: install") as caught:
        check_task(dataclasses.replace(WATER, spec=QMSpec(program="psi4")))
    assert caught.value.kind == "engine"

"""The SMIRNOFF reader: what a file says, in internal units, and what it refuses."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ParametersError
from pipeline.smirnoff import quantities as q
from pipeline.smirnoff import read_smirnoff
from pipeline.smirnoff.reader import MAX_BYTES, MAX_ELEMENTS

EXACT = 1e-15
"""Relative: one or two roundings of float64."""

SECTIONS = """
<Author>A. Chemist</Author><Date>2024-09-11</Date>
<Bonds version="0.4" potential="harmonic" fractional_bondorder_method="AM1-Wiberg">
  <Bond smirks="[#6X4:1]-[#1:2]" id="b1" length="1.09 * angstrom ** 1"
        k="740.0 * kilocalorie_per_mole ** 1 * angstrom ** -2"/>
</Bonds>
<Angles version="0.3" potential="harmonic">
  <Angle smirks="[*:1]~[#6X4:2]-[*:3]" angle="109.5*degree" k="100*kilojoule_per_mole/radian**2" id="a1"/>
</Angles>
<ProperTorsions version="0.4" potential="k*(1+cos(periodicity*theta-phase))" default_idivf="auto">
  <Proper smirks="[*:1]-[#6X4:2]-[#6X4:3]-[*:4]" id="t1"
      periodicity1="3" phase1="0.0 * degree" k1="1.4 * kilocalories_per_mole" idivf1="9"
      periodicity2="2" phase2="180.0 * degree" k2="-0.25 * mole ** -1 * kilocalorie ** 1"/>
</ProperTorsions>
<ImproperTorsions version="0.3">
  <Improper smirks="[*:1]~[#6X3:2](~[*:3])~[*:4]" periodicity1="2" phase1="3.141592653589793 * radian"
      k1="10.5 * kilocalorie_per_mole" idivf1="1.0" id="i1"/>
</ImproperTorsions>
<vdW version="0.4" potential="Lennard-Jones-12-6" combining_rules="Lorentz-Berthelot" scale14="0.5">
  <Atom smirks="[#6:1]" id="n1" rmin_half="1.908 * angstrom" epsilon="0.1094*kilocalories_per_mole"/>
  <Atom smirks="[#1:1]" id="n2" sigma="0.25*nanometer" epsilon="0.06276*kilojoules_per_mole"/>
</vdW>
<Electrostatics version="0.4" scale14="0.8333333333"/>
<LibraryCharges version="0.3">
  <LibraryCharge smirks="[#1:1]-[#8X2H2+0:2]-[#1:3]" name="TIP3P" charge1="0.417*elementary_charge"
      charge2="-0.834*elementary_charge" charge3="0.417*elementary_charge"/>
</LibraryCharges>
<Constraints version="0.3"><Constraint smirks="[#1:1]-[*:2]" id="c1"/></Constraints>
<ToolkitAM1BCC version="0.3"/>
"""


def offxml(sections: str) -> str:
    return f'<SMIRNOFF version="0.3" aromaticity_model="OEAroModel_MDL">{sections}</SMIRNOFF>'


def test_every_section_arrives_in_internal_units() -> None:
    """Each value of a small file is the one converted by hand."""
    force_field = read_smirnoff(offxml(SECTIONS))
    (bond,), (angle,) = force_field.bonds, force_field.angles
    (proper,), (improper,) = force_field.propers, force_field.impropers
    carbon, hydrogen = force_field.vdw
    assert (bond.id, bond.length, bond.k) == ("b1", 1.09, 740.0)
    assert angle.angle == pytest.approx(109.5 * math.pi / 180, rel=EXACT)
    assert angle.k == pytest.approx(100 / 4.184, rel=EXACT)
    assert [(t.periodicity, t.k, t.idivf) for t in proper.terms] == [(3, 1.4, 9.0), (2, -0.25, None)]
    assert [t.phase for t in proper.terms] == pytest.approx([0.0, math.pi], rel=EXACT)
    assert [(t.periodicity, t.phase, t.k, t.idivf) for t in improper.terms] == [(2, math.pi, 10.5, 1.0)]
    # sigma is where the potential is zero, r_min = 2 rmin_half where it is lowest: r_min^6 = 2 sigma^6
    assert 2 * carbon.sigma**6 == pytest.approx((2 * 1.908) ** 6, rel=1e-14)
    assert hydrogen.sigma == pytest.approx(2.5, rel=EXACT)
    assert hydrogen.epsilon == pytest.approx(0.015, rel=EXACT)
    assert force_field.library_charges[0].charges == (0.417, -0.834, 0.417)
    assert force_field.constraints[0].distance is None
    assert (force_field.vdw_scale14, force_field.coulomb_scale14) == (0.5, 0.8333333333)
    assert (force_field.charge_model, force_field.author) == ("ToolkitAM1BCC", "A. Chemist")


def test_a_file_reads_as_its_text(tmp_path: Path) -> None:
    """The same words give the same numbers from a file with an encoding declaration."""
    path = tmp_path / "tiny.offxml"
    path.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + offxml(SECTIONS), encoding="utf-8")
    from_file, from_text = read_smirnoff(path), read_smirnoff(offxml(SECTIONS))
    assert [v.sigma for v in from_file.vdw] == [v.sigma for v in from_text.vdw]
    assert from_file.propers[0].terms == from_text.propers[0].terms


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("1.09 * angstrom", q.LENGTH, 1.09),
        ("0.109*nanometers", q.LENGTH, 1.09),
        ("109 * picometer", q.LENGTH, 1.09),
        ("620.0*kilocalories_per_mole/angstrom**2", q.BOND_FORCE_CONSTANT, 620.0),
        ("620.0 * angstrom**-2 * mole**-1 * kilocalorie", q.BOND_FORCE_CONSTANT, 620.0),
        ("259408.0*kilojoule/mole/nanometer**2", q.BOND_FORCE_CONSTANT, 620.0),
        ("-1e-1 * elementary_charge ** 1", q.CHARGE, -0.1),
        (".5*radians", q.ANGLE, 0.5),
        ("180.*degrees", q.ANGLE, math.pi),
        ("100*kilocalorie_per_mole/degree**2", q.ANGLE_FORCE_CONSTANT, 100 * (180 / math.pi) ** 2),
    ],
)
def test_units_convert_as_by_hand(text: str, dimension: q.Dimension, expected: float) -> None:
    """The spellings of a quantity found in the wild mean what a chemist reads."""
    assert q.parse_quantity(text, dimension) == pytest.approx(expected, rel=4 * EXACT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.09",
        "angstrom",
        "1.09 angstrom",
        "1.09 * parsec",
        "1.09 * angstrom ** 2",
        "1.09 * angstrom ** 0.5",
        "1.09 * angstrom ** 99999999",
        "1.09 * radian",
        "1.09 * * angstrom",
        "1.09 * angstrom *",
        "1e999 * angstrom",
        "nan * angstrom",
        "1.09 * angstrom; import os",
        "__import__('os') * angstrom",
        "(1.09) * angstrom",
        "1" * 300 + " * angstrom",
    ],
)
def test_what_is_not_a_length_is_refused(text: str) -> None:
    """A quantity without units, of another dimension, or that is a program, is an error and never a guess."""
    with pytest.raises(ParametersError) as error:
        q.parse_quantity(text, q.LENGTH)
    assert error.value.kind == "force-field-file"


@given(st.floats(-1e6, 1e6), st.sampled_from(sorted(q.UNITS)), st.integers(1, 3))
def test_dividing_by_a_unit_undoes_multiplying(value: float, unit: str, power: int) -> None:
    """A number times a unit over the same unit is the number again."""
    text = f"{value!r} * {unit} ** {power} / {unit} ** {power}"
    # each of the two conversions by factor**power rounds once or twice
    assert q.parse_quantity(text, q.DIMENSIONLESS) == pytest.approx(value, rel=1e-14)


BOND = '<Bond smirks="[#6:1]-[#1:2]" length="1.0*angstrom" k="1.0*kilocalorie_per_mole/angstrom**2"/>'
TORSION = 'smirks="[*:1]~[*:2]~[*:3]~[*:4]" periodicity1="3" phase1="0*degree" k1="1*kilocalorie_per_mole"'


def bonds(element: str) -> str:
    return f'<Bonds version="0.3">{element}</Bonds>'


def propers(attributes: str) -> str:
    return f'<ProperTorsions version="0.3"><Proper {attributes}/></ProperTorsions>'


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (bonds(BOND) * 2, "two Bonds"),
        (bonds(BOND).replace('"0.3"', '"0.9"'), "version '0.9'"),
        (bonds(BOND).replace("<Bonds", '<Bonds potential="Morse"'), "Morse"),
        (bonds(BOND.replace("Bond", "Bnod")), "Bnod"),
        (bonds(BOND.replace("length=", "lenght=")), "length"),
        (bonds(BOND.replace("/>", ' parameterize="k"/>')), "parameterize"),
        (bonds(BOND.replace("k=", "k_bondorder1=")), "missing k"),
        (bonds(BOND.replace("/>", ' k_bondorder1="1"/>')), "bond-order"),
        (bonds(BOND.replace("[#6:1]-[#1:2]", "[#6:1]-[#1:3]")), "tags"),
        (bonds(BOND.replace("[#6:1]-[#1:2]", "[#6:1]-[#1:1]")), "tags"),
        (bonds(BOND.replace("[#6:1]-[#1:2]", "[#6:1]-[#1:2]-[*:3]")), "tags"),
        (bonds(BOND.replace("[#6:1]-[#1:2]", "[#6:1-[#1:2]")), "SMARTS"),
        (propers(TORSION + ' periodicity3="1" phase3="0*degree" k3="1*kilocalorie_per_mole"'), "consecutive"),
        (propers(TORSION.replace('"3"', '"3.5"')), "periodicity"),
        (propers(TORSION + ' idivf1="0"'), "positive"),
        (propers(TORSION + ' idivf1="many"'), "number"),
        (propers(TORSION + ' k1_bondorder1="1"'), "bond-order"),
        ("<VirtualSites/>", "VirtualSites"),
        ("<GBSA/>", "GBSA"),
        ('<vdW version="0.3" combining_rules="geometric"/>', "geometric"),
        ('<vdW version="0.3" scale13="0.5"/>', "scale13"),
        ('<Electrostatics version="0.4" scale14="nan"/>', "finite"),
    ],
)
def test_what_would_change_the_energy_is_refused(sections: str, says: str) -> None:
    """A file that asks for something we would leave out, or that is misspelt, is refused by name."""
    with pytest.raises(ParametersError, match=re.escape(says)) as error:
        read_smirnoff(offxml(sections))
    assert error.value.kind == "force-field-file"


def test_another_aromaticity_model_or_version_is_refused() -> None:
    """Patterns mean something else under another aromaticity model, values under another version."""
    for wrong in (
        offxml("").replace("_MDL", "_MMFF"),
        offxml("").replace("0.3", "1.0"),
        "<ForceField/>",
        "openff-2.2.1.offxml",
    ):
        with pytest.raises(ParametersError):
            read_smirnoff(wrong)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message names the file that is not there."""
    with pytest.raises(ParametersError, match="nowhere"):
        read_smirnoff(tmp_path / "nowhere.offxml")


def _billion_laughs() -> str:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE s [<!ENTITY l0 "lol">{entities}]>' + offxml("<Author>&l9;</Author>")


def _external_entity(path: Path) -> str:
    return f'<!DOCTYPE s [<!ENTITY x SYSTEM "{path.as_uri()}">]>' + offxml("<Author>&x;</Author>")


def test_entities_and_document_types_are_refused(tmp_path: Path) -> None:
    """Bombs and references to other files are stopped at the document type, before anything is expanded."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret", encoding="utf-8")
    quadratic = f'<!DOCTYPE s [<!ENTITY a "{"a" * 50_000}">]>' + offxml(f"<Author>{'&a;' * 50_000}</Author>")
    for text in (_billion_laughs(), _external_entity(secret), quadratic, "<!DOCTYPE s>" + offxml("")):
        with pytest.raises(ParametersError, match="entity") as error:
            read_smirnoff(text)
        assert "the secret" not in str(error.value)


def test_files_beyond_the_bounds_are_refused(tmp_path: Path) -> None:
    """Too deep, too many elements, too many bytes: an error each, as text and as a file."""
    deep = "<a>" * 50_000 + "</a>" * 50_000
    for text, says in (
        (offxml(deep), "nested"),
        (offxml("<Author/>" * (MAX_ELEMENTS + 1)), "elements"),
        (offxml(" " * MAX_BYTES), "bytes"),
    ):
        path = tmp_path / "big.offxml"
        path.write_text(text, encoding="utf-8")
        for source in (text, path):
            with pytest.raises(ParametersError, match=says):
                read_smirnoff(source)


@pytest.mark.parametrize("encoding", ["foo", "utf-7", "utf-16", "big5", "rot13", "idna", "punycode"])
def test_strange_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    """A declared encoding that the bytes do not have, or that nobody knows, is our error, not Python's."""
    path = tmp_path / "strange.offxml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{offxml("")}'.encode())
    with pytest.raises(ParametersError):
        read_smirnoff(path)


@given(st.text(alphabet=st.characters(exclude_categories=["Nd"]), max_size=60))
def test_any_text_without_digits_is_refused_as_a_quantity(text: str) -> None:
    """Whatever is written there, without a number it is refused with our error and nothing else."""
    with pytest.raises(ParametersError):
        q.parse_quantity(text, q.LENGTH)


@given(st.text(max_size=100))
def test_any_text_is_refused_as_a_file(text: str) -> None:
    """Text that is not a force field is refused with our error and nothing else."""
    with pytest.raises(ParametersError):
        read_smirnoff(text)

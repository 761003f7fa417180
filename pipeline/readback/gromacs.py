"""Read GROMACS files back with programs that did not write them: OpenMM's reader and ParmEd."""

from decimal import Decimal
from pathlib import Path
from typing import Self

import numpy as np
import openmm
import parmed
from openmm import app

from pipeline.errors import VerificationError
from pipeline.export.gromacs import COORDINATE_DECIMALS, MOLECULE_FILE
from pipeline.readback.files import (
    CHARGE_SUM_TOLERANCE,
    FLEXIBLE,
    Check,
    ContentCheck,
    build_parmed_system,
)
from pipeline.schema import FloatArray
from pipeline.units import ANGSTROM_PER_NM
from pipeline.verify import Reference, check_system

_CHARGE_COLUMN = 6
_GRO_FRAME_LINES = 3
"""title, number of atoms, box"""
_ROUNDING = 0.6
"""of the last printed digit"""


class SingleMoleculeTop(parmed.gromacs.GromacsTopologyFile):
    """ParmEd's topology reader without its copies: a molecule it has read is the system, not its pattern.

    ParmEd copies every molecule deeply, twice, to be able to repeat it, which takes half of the time.
    """

    def __iadd__(self, molecule: parmed.Structure) -> Self:
        """Take over the lists of the first molecule."""
        if self.atoms:
            combined: Self = super().__iadd__(molecule)
            return combined
        for name, value in vars(molecule).items():
            if isinstance(value, list):
                setattr(self, name, value)
        return self


def check_top(path: Path, reference: Reference) -> list[Check]:
    """Build the system from the topology and the files it includes with OpenMM's reader and with ParmEd's."""
    _check_printed_charges(path.with_name(MOLECULE_FILE), reference.parametrized.ligand.total_charge)
    by_openmm = app.GromacsTopFile(str(path)).createSystem(**FLEXIBLE)
    by_parmed = build_parmed_system(SingleMoleculeTop(str(path)))
    return [
        check_system(reference, by_openmm, file=path.name, reader=f"OpenMM {openmm.__version__}"),
        check_system(reference, by_parmed, file=path.name, reader=f"ParmEd {parmed.__version__}"),
    ]


def check_gro(path: Path, reference: Reference) -> list[Check]:
    """Compare the coordinates and atoms that OpenMM's and ParmEd's readers find."""
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    if n_lines != reference.parametrized.topology.n_atoms + _GRO_FRAME_LINES:
        raise VerificationError(f"{path.name}: {n_lines} lines do not belong to this ligand")
    by_openmm = app.GromacsGroFile(str(path)).getPositions(asNumpy=True)._value * ANGSTROM_PER_NM
    # The bonds that ParmEd would guess from distances take ten times as long, and nobody looks at them.
    by_parmed = parmed.gromacs.GromacsGroFile.parse(str(path), skip_bonds=True).coordinates
    return [
        _compare_coords(path.name, f"OpenMM {openmm.__version__}", by_openmm, reference),
        _compare_coords(path.name, f"ParmEd {parmed.__version__}", by_parmed, reference),
    ]


def _check_printed_charges(path: Path, total_charge: int) -> None:
    """Add the digits of the charges up in decimal."""
    section = path.read_text(encoding="utf-8").split("[ atoms ]\n")[1].split("[")[0]
    rows = [line.split() for line in section.splitlines() if line and not line.startswith(";")]
    excess = sum((Decimal(row[_CHARGE_COLUMN]) for row in rows), Decimal(0)) - total_charge
    if not abs(excess) <= CHARGE_SUM_TOLERANCE:
        raise VerificationError(
            f"{path.name}: the printed charges sum to {total_charge + excess}, expected {total_charge:+d}"
        )


def _compare_coords(file: str, reader: str, coords: FloatArray, reference: Reference) -> ContentCheck:
    expected = reference.parametrized.coords
    if expected is None or coords.shape != expected.shape:
        raise VerificationError(f"{file} read by {reader}: {len(coords)} atoms do not belong to this ligand")
    difference = float(np.abs(coords - expected).max())
    if not difference <= _ROUNDING * ANGSTROM_PER_NM * 10.0**-COORDINATE_DECIMALS:
        raise VerificationError(f"{file} read by {reader}: a coordinate differs by {difference:.1e} angstrom")
    return ContentCheck(
        file=file, reader=reader, compared="coordinates, angstrom", largest_difference=difference
    )

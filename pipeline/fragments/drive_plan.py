"""Which torsion drives a library needs, each once: shared between ligands, and with what a store holds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.fragments.cut import CAP, Fragment, build_fragments
from pipeline.fragments.rotors import Dihedral
from pipeline.ligand import ligand_key
from pipeline.schema import IntArray, Ligand
from pipeline.settings import FragmentSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """One bond of one ligand whose torsions a drive serves."""

    ligand_idx: int
    """place of the ligand in the library given to `plan_drives`"""
    dihedral: Dihedral
    """the driven dihedral, in the ligand's atoms"""
    parent_atoms: IntArray
    """(n_atoms of the drive's ligand,): the ligand's atom of each; -1 for those of caps"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drive:
    """One torsion drive and everything it serves."""

    key: str
    """`drive_key`: the name of its result in a store"""
    ligand: Ligand
    """the fragment, in canonical order"""
    dihedral: Dihedral
    uses: tuple[Use, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class DrivePlan:
    """The drives of a library, in the order of the first ligand that needs each."""

    drives: tuple[Drive, ...]
    """to be run"""
    known: tuple[Drive, ...]
    """already in the store; their terms map back in the same way"""
    n_ligands: int

    @property
    def n_bonds(self) -> int:
        """Drives without sharing: the bonds to drive, over all ligands."""
        return sum(len(drive.uses) for drive in (*self.drives, *self.known))

    @property
    def n_drives(self) -> int:
        """Drives with sharing: those to be run."""
        return len(self.drives)


def drive_key(fragment: Fragment, row: int = 0) -> str:
    """Name a drive of a fragment: the molecule's key and the atoms of the canonical dihedral."""
    atoms = "-".join(str(idx) for idx in fragment.dihedrals[row])
    return f"{_remembered_key(fragment.ligand)}:{atoms}"


@lru_cache(maxsize=4096)
def _remembered_key(ligand: Ligand) -> str:
    """`ligand_key`, which costs milliseconds: a series asks for the same few fragments over and over."""
    return ligand_key(ligand)


def plan_drives(ligands: Sequence[Ligand], known: Collection[str], settings: FragmentSettings) -> DrivePlan:
    """Plan the torsion drives of a library, each fragment and bond once.

    `known` holds the `drive_key` of each drive whose result a store already has.
    """
    first: dict[str, tuple[Ligand, Dihedral]] = {}
    uses: dict[str, list[Use]] = {}
    for ligand_idx, ligand in enumerate(ligands):
        for fragment in build_fragments(ligand, settings):
            for row, dihedral in enumerate(fragment.dihedrals):
                key = drive_key(fragment, row)
                first.setdefault(key, (fragment.ligand, _as_dihedral(dihedral)))
                use = Use(
                    ligand_idx=ligand_idx,
                    dihedral=_as_dihedral(fragment.parent_atoms[dihedral]),
                    parent_atoms=fragment.parent_atoms,
                )
                uses.setdefault(key, []).append(use)
    drives = [
        Drive(key=key, ligand=ligand, dihedral=dihedral, uses=tuple(uses[key]))
        for key, (ligand, dihedral) in first.items()
    ]
    return DrivePlan(
        drives=tuple(drive for drive in drives if drive.key not in known),
        known=tuple(drive for drive in drives if drive.key in known),
        n_ligands=len(ligands),
    )


def map_dihedral_to_parents(drive: Drive, dihedral: Sequence[int]) -> tuple[tuple[int, Dihedral], ...]:
    """Trace a dihedral of a drive's molecule to the ligands it serves, as (place of the ligand, its atoms).

    Ligands in which one of the atoms belongs to a cap are left out; about the driven bond there are none.
    """
    found = []
    for use in drive.uses:
        atoms = use.parent_atoms[np.asarray(dihedral, dtype=np.int64)]
        if CAP not in atoms:
            found.append((use.ligand_idx, _as_dihedral(atoms)))
    return tuple(found)


def _as_dihedral(atoms: IntArray) -> Dihedral:
    i, j, k, m = (int(idx) for idx in atoms)
    return i, j, k, m

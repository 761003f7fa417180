"""Hueckel's pi electrons: bond orders and populations that know of far atoms and of no drawing.

Which atoms take part, and with how many electrons, is read from elements and degrees. Of the drawn resonance
form only the sum of formal charges over a whole conjugated system is used, which is the same for all forms,
save where two charges at once are drawn just outside; what is predicted has one canonical drawing anyway.

    H_ii = -h_i,  H_ij = -k_ij  (units of |beta|),   P = 2 sum_m f_m c_m c_m^T

The orbitals are filled by Fermi's distribution, so that P is a smooth function of H: where two orbitals have
the same energy, equivalent atoms are still alike. Parameters: Van-Catledge, J. Org. Chem. 1980, 45, 4801; for
a bond of two hetero atoms the product of their two bonds to carbon.
"""

from collections.abc import Sequence

import numpy as np
from rdkit import Chem
from scipy.optimize import brentq
from scipy.special import expit

from pipeline.atoms import atoms_of, bonds_of
from pipeline.schema import FloatArray

UNSATURATED_DEGREE = {6: 3, 7: 2, 8: 1, 16: 1}
"""At most this many neighbours: the atom must take part in a pi bond (or carry the charge of one)."""
LONE_PAIR_DEGREE = {7: 3, 8: 2, 16: 2}
"""With this many neighbours the atom can lend a lone pair to a conjugated system."""
PULL_OF_ONE = {6: 0.0, 7: 0.51, 8: 0.97, 16: 0.46}
"""h of an atom that brings one electron"""
PULL_OF_PAIR = {7: 1.37, 8: 2.09, 16: 1.11}
"""h of an atom that brings a lone pair"""
BOND_OF_ONE = {6: 1.0, 7: 1.02, 8: 1.06, 16: 0.81}
"""k of a bond of such an atom to carbon"""
BOND_OF_PAIR = {7: 0.89, 8: 0.66, 16: 0.69}
_SMEARING = 0.1
"""|beta|"""


def brings_one(atom: Chem.Atom) -> bool:
    """Whether it must take part in a pi bond, by its element and its number of neighbours."""
    return bool(atom.GetDegree() <= UNSATURATED_DEGREE.get(atom.GetAtomicNum(), -1))


def lends_pair(atom: Chem.Atom) -> bool:
    """Whether it has a lone pair for a conjugated system, by the same."""
    return bool(atom.GetDegree() == LONE_PAIR_DEGREE.get(atom.GetAtomicNum(), -1))


def pi_electrons(mol: Chem.Mol) -> tuple[FloatArray, FloatArray]:
    """Electrons (n_atoms,) that each atom has beyond those it brings, and bond orders (n_bonds,).

    `mol` has explicit hydrogens. Both are zero outside conjugated systems, which have at least two atoms.
    """
    excess, order = np.zeros(mol.GetNumAtoms()), np.zeros(mol.GetNumBonds())
    atoms = atoms_of(mol)
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds_of(mol)]
    ones, lenders = [brings_one(atom) for atom in atoms], [lends_pair(atom) for atom in atoms]
    pi_bonds = [
        number
        for number, (i, j) in enumerate(ends)
        if (ones[i] and (ones[j] or lenders[j])) or (ones[j] and lenders[i])
    ]
    for members, bonds in _systems([ends[number] for number in pi_bonds]):
        numbers = [pi_bonds[number] for number in bonds]
        row = {atom: position for position, atom in enumerate(members)}
        rows = [(row[i], row[j]) for i, j in (ends[number] for number in numbers)]
        hamiltonian, brought = _hamiltonian(
            [(atoms[index].GetAtomicNum(), ones[index]) for index in members], rows
        )
        charge = sum(atoms[index].GetFormalCharge() for index in members)
        density = _density(hamiltonian, _closed_shell(round(brought.sum()) - charge, len(members)))
        excess[members] = density.diagonal() - brought
        order[numbers] = [density[pair] for pair in rows]
    return excess, order


def _hamiltonian(
    kinds: Sequence[tuple[int, bool]], bonds: Sequence[tuple[int, int]]
) -> tuple[FloatArray, FloatArray]:
    """Build H (n, n) and what is brought (n,) from each atom's element and whether it brings just one."""
    pull, k = zip(
        *(
            (PULL_OF_ONE[z], BOND_OF_ONE[z]) if one else (PULL_OF_PAIR[z], BOND_OF_PAIR[z])
            for z, one in kinds
        ),
        strict=True,
    )
    hamiltonian = -np.diag(pull)
    for i, j in bonds:
        hamiltonian[i, j] = hamiltonian[j, i] = -k[i] * k[j]
    return hamiltonian, np.array([1.0 if one else 2.0 for _, one in kinds])


def _closed_shell(n_electrons: int, n_orbitals: int) -> int:
    """Next even number: an odd one is left where the drawing puts a charge just outside, as on sulfonyl O."""
    return min(max(n_electrons + n_electrons % 2, 0), 2 * n_orbitals)


def _systems(bonds: list[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
    """Connected parts: their atoms, and the numbers of their bonds."""
    part: dict[int, set[int]] = {}
    for i, j in bonds:
        joined = part.get(i, {i}) | part.get(j, {j})
        for atom in joined:
            part[atom] = joined
    parts = {id(members): sorted(members) for members in part.values()}
    numbers: dict[int, list[int]] = {key: [] for key in parts}
    for number, (i, _) in enumerate(bonds):
        numbers[id(part[i])].append(number)
    return [(parts[key], numbers[key]) for key in parts]


def _density(hamiltonian: FloatArray, n_electrons: int) -> FloatArray:
    """(n, n): twice the sum over orbitals, filled by Fermi's distribution with that many electrons."""
    energies, orbitals = np.linalg.eigh(hamiltonian)
    n_pairs = n_electrons // 2

    def filling(level: float) -> FloatArray:
        full: FloatArray = expit((level - energies) / _SMEARING)
        return full

    if n_pairs in (0, len(energies)):
        filled = np.full(len(energies), float(n_pairs > 0))
    else:
        ends = energies[0] - 1.0, energies[-1] + 1.0
        filled = filling(brentq(lambda level: filling(level).sum() - n_pairs, *ends))
    density: FloatArray = 2.0 * (orbitals * filled) @ orbitals.T
    return density

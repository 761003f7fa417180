"""Hueckel's pi electrons: bond orders and populations that know of far atoms and of no drawing.

Which atoms take part, and with how many electrons, is read from elements and degrees. Of the drawn resonance
form only the sum of formal charges over a whole conjugated system is used, which is the same for all forms.

    H_ii = -h_i,  H_ij = -k_ij  (units of |beta|),   P = 2 sum_m f_m c_m c_m^T

The orbitals are filled by Fermi's distribution, so that P is a smooth function of H: where two orbitals have
the same energy, equivalent atoms are still alike. Parameters: Van-Catledge, J. Org. Chem. 1980, 45, 4801; for
a bond of two hetero atoms the product of their two bonds to carbon.
"""

import numpy as np
from rdkit import Chem

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


def pi_electrons(mol: Chem.Mol) -> tuple[FloatArray, FloatArray]:
    """Electrons (n_atoms,) that each atom has beyond those it brings, and bond orders (n_bonds,).

    `mol` has explicit hydrogens. Both are zero outside conjugated systems, which have at least two atoms.
    """
    excess, order = np.zeros(mol.GetNumAtoms()), np.zeros(mol.GetNumBonds())
    atoms = atoms_of(mol)
    numbers = [atom.GetAtomicNum() for atom in atoms]
    degrees = [atom.GetDegree() for atom in atoms]
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds_of(mol)]
    brings_one = [d <= UNSATURATED_DEGREE.get(z, -1) for z, d in zip(numbers, degrees, strict=True)]
    lends = [d == LONE_PAIR_DEGREE.get(z, -1) for z, d in zip(numbers, degrees, strict=True)]
    pi_bonds = [
        number
        for number, (i, j) in enumerate(ends)
        if (brings_one[i] and (brings_one[j] or lends[j])) or (brings_one[j] and lends[i])
    ]
    for members, bonds in _systems([ends[number] for number in pi_bonds]):
        row = {atom: position for position, atom in enumerate(members)}
        hamiltonian = np.zeros((len(members), len(members)))
        brought = np.empty(len(members))
        k = {}
        for atom, position in row.items():
            z = numbers[atom]
            pull, k[atom] = (
                (PULL_OF_ONE[z], BOND_OF_ONE[z]) if brings_one[atom] else (PULL_OF_PAIR[z], BOND_OF_PAIR[z])
            )
            hamiltonian[position, position] = -pull
            brought[position] = 1.0 if brings_one[atom] else 2.0
        for number in bonds:
            i, j = ends[pi_bonds[number]]
            hamiltonian[row[i], row[j]] = hamiltonian[row[j], row[i]] = -k[i] * k[j]
        charge = sum(atoms[atom].GetFormalCharge() for atom in members)
        density = _density(hamiltonian, _closed_shell(round(brought.sum()) - charge, len(members)))
        excess[members] = density.diagonal() - brought
        for number in bonds:
            i, j = ends[pi_bonds[number]]
            order[pi_bonds[number]] = density[row[i], row[j]]
    return excess, order


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
    if n_pairs in (0, len(energies)):
        filling = np.full(len(energies), float(n_pairs > 0))
    else:
        low, high = energies[0] - 1.0, energies[-1] + 1.0
        for _ in range(40):
            level = 0.5 * (low + high)
            filling = 1.0 / (1.0 + np.exp((energies - level) / _SMEARING))
            low, high = (level, high) if filling.sum() < n_pairs else (low, level)
    density: FloatArray = 2.0 * (orbitals * filling) @ orbitals.T
    return density

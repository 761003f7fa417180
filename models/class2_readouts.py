"""From atom embeddings to class II terms, each bounded so that the energy stays positive definite near rest.

    bond    k/2 d^2 (1 - a d + 7/12 a^2 d^2)      the quartic expansion of a Morse curve, a > 0 (MM3, MMFF94)
    angle   k/2 d^2 (1 + c d + e d^2),  e >= 3/8 c^2: convex everywhere
    couplings of x and y: |k_xy| < share sqrt(k_x k_y), so that no pair of springs together turns soft
    pairs of atoms: sigma, epsilon and charge product differ from class I's by bounded factors

Ends are read as in models.readouts: what belongs to both ends is a symmetric function of the two readings,
what belongs to one end sees that end's reading as well, so that reversal swaps the two numbers.
"""

import torch
from torch import Tensor, nn

from models.terms import SCALE_14_COULOMB, SCALE_14_VDW, MMIndices, TorchCross
from pipeline.schema import FAR_APART, N_CROSS_PERIODICITIES

MORSE_SCALE = 1.5
"""1/angstrom: bonds start from softplus of this"""
CUBIC_ANGLE = 1.0
"""1/radian: bound of c"""
QUARTIC_ANGLE = 0.5
"""1/radian^2: scale of e beyond its lower bound"""
COUPLING = 0.3
"""of the geometric mean of two stiffnesses: bound of a coupling"""
TORSION_COUPLING = 5.0
"""kcal/mol per angstrom or radian: scale of what a dihedral does to a bond or an angle"""
PAIR_WIDTH = 64
CLASS1_FACTORS = (1.0, 1.0, 1.0)
"""of Coulomb, r^-12 and r^-6 terms"""
CLASS1_FACTORS_14 = (SCALE_14_COULOMB, SCALE_14_VDW, SCALE_14_VDW)
PAIR_REACH = (0.7, 0.25, 1.5)
"""natural logarithms: how far the Coulomb energy, sigma and epsilon of a pair may be from class I's"""
PAIR_REACH_14 = (1.5, 0.25, 1.5)
"""the same of 1-4 pairs"""


class EndsReadout(nn.Module):
    """Paths read from both ends -> numbers of the path and numbers of each end."""

    def __init__(self, width: int, n_path: int, n_end: int) -> None:
        super().__init__()
        self.n_end = n_end
        self.end = nn.Linear(width, width)
        self.inner = nn.Linear(width, width, bias=False)
        self.path_head = _zero_head(2 * width, n_path)
        self.end_head = _zero_head(3 * width, n_end) if n_end else None

    def forward(
        self, embedding: Tensor, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(end, inner) atoms of either side -> (n_paths, n_path) and (n_paths, 2, n_end)."""
        ends, inners = self.end(embedding), self.inner(embedding)
        one = nn.functional.silu(ends.index_select(0, first[0]) + inners.index_select(0, first[1]))
        other = nn.functional.silu(ends.index_select(0, last[0]) + inners.index_select(0, last[1]))
        both = torch.cat([one + other, one * other], dim=1)
        path = self.path_head(both)
        if self.end_head is None:
            return path, path.new_zeros(len(path), 2, 0)
        by_end = [self.end_head(torch.cat([both, reading], dim=1)) for reading in (one, other)]
        return path, torch.stack(by_end, dim=1)


def _zero_head(n_in: int, n_out: int) -> nn.Sequential:
    """Two layers whose output starts at zero: class II starts from class I."""
    last = nn.Linear(n_in // 2, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, n_in // 2), nn.SiLU(), last)


class PairReadout(nn.Module):
    """Two atoms and the bonds between them -> factors of their Coulomb, r^-12 and r^-6 terms."""

    class1: Tensor
    reach: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.atom = nn.Linear(width, PAIR_WIDTH)
        self.apart = nn.Embedding(FAR_APART + 1, PAIR_WIDTH)
        self.head = _zero_head(2 * PAIR_WIDTH, 3)
        kinds = {"class1": (CLASS1_FACTORS, CLASS1_FACTORS_14), "reach": (PAIR_REACH, PAIR_REACH_14)}
        for name, rows in kinds.items():
            self.register_buffer(name, torch.tensor(rows, dtype=torch.float64), persistent=False)

    def forward(self, embedding: Tensor, pairs: Tensor, bonds: Tensor) -> Tensor:
        """embedding (n_atoms, width), pairs (n_pairs, 2), bonds between (n_pairs,) -> (n_pairs, 3)."""
        atoms = self.atom(embedding)
        one, other = (atoms.index_select(0, end) for end in pairs.unbind(1))
        met = nn.functional.silu(one + other + self.apart(bonds))
        raw = torch.tanh(self.head(torch.cat([met, one * other], dim=1)))
        is_14 = (bonds == 3).long()
        class1, reach = (kinds.to(raw.dtype).index_select(0, is_14) for kinds in (self.class1, self.reach))
        coulomb, sigma, depth = torch.exp(reach * raw).unbind(1)
        sixth = sigma**6
        return class1 * torch.stack([coulomb, depth * sixth * sixth, depth * sixth], dim=1)


class Class2Readouts(nn.Module):
    """All class II terms of a batch from its atom embeddings and its class I parameters.

    `pairs`: with factors of the nonbonded pairs, which must be in the indices then.
    """

    def __init__(self, width: int, *, pairs: bool = False) -> None:
        super().__init__()
        self.pair = PairReadout(width) if pairs else None
        self.bond = EndsReadout(width, 1, 0)
        self.angle = EndsReadout(width, 3, 1)
        self.proper = EndsReadout(width, N_CROSS_PERIODICITIES + 1, N_CROSS_PERIODICITIES)

    def forward(self, embedding: Tensor, indices: MMIndices, bond_k: Tensor, angle_k: Tensor) -> TorchCross:
        """embedding (n_atoms, width) and class I stiffness -> terms beside the rows of `indices`."""
        i, j = indices.bonds.unbind(1)
        (morse, _) = self.bond(embedding, (i, j), (j, i))
        i, j, k = indices.angles.unbind(1)
        of_angle, of_angle_ends = self.angle(embedding, (i, j), (k, j))
        i, j, k, m = indices.propers.unbind(1)
        of_proper, of_proper_ends = self.proper(embedding, (i, j), (m, k))
        steepness = MORSE_SCALE * nn.functional.softplus(morse[:, 0] - 1.0)
        cubic = CUBIC_ANGLE * torch.tanh(of_angle[:, 0])
        quartic = 0.375 * cubic**2 + QUARTIC_ANGLE * nn.functional.softplus(of_angle[:, 1] - 3.0)
        sides = bond_k.index_select(0, indices.angle_bonds.reshape(-1)).reshape(-1, 2)
        ends = angle_k.index_select(0, indices.proper_angles.reshape(-1)).reshape(-1, 2)
        between_bonds = COUPLING * (sides[:, 0] * sides[:, 1]).sqrt()
        with_angle = COUPLING * (sides * angle_k[:, None]).sqrt()
        between_angles = COUPLING * (ends[:, 0] * ends[:, 1]).sqrt()
        if self.pair is None:
            factors = embedding.new_zeros(0, 3)
        else:
            factors = self.pair(embedding, indices.pairs, indices.pair_bonds)
        return TorchCross(
            bond_k3=-bond_k / 2 * steepness,
            bond_k4=bond_k / 2 * 7 / 12 * steepness**2,
            angle_k3=angle_k / 2 * cubic,
            angle_k4=angle_k / 2 * quartic,
            bond_bond=between_bonds * torch.tanh(of_angle[:, 2]),
            bond_angle=with_angle * torch.tanh(of_angle_ends[..., 0]),
            bond_torsion=TORSION_COUPLING * of_proper[:, :N_CROSS_PERIODICITIES],
            angle_torsion=TORSION_COUPLING * of_proper_ends,
            angle_angle_torsion=between_angles * torch.tanh(of_proper[:, N_CROSS_PERIODICITIES]),
            pair_coulomb=factors[:, 0],
            pair_repulsion=factors[:, 1],
            pair_dispersion=factors[:, 2],
        )

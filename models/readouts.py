"""From atom embeddings to valence parameters; each readout is symmetric in the ways the term is.

A path i-j of atoms is read in both directions and the two readings are combined by sum and product, which
are the same number to the last bit when the path is reversed (Janossy pooling over the two orders, as in
espaloma, Wang et al., Chem. Sci. 2022, 13, 12016).

Bonds and angles are linear mixtures of two harmonic terms with fixed anchors a1 < a2 (Takaba et al., Chem.
Sci. 2024, 15, 12861):  k = k1 + k2,  x0 = (k1 a1 + k2 a2) / k.  Written with a weight w = k2 / k in (0, 1),
both k1 and k2 stay positive and x0 stays between the anchors.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.class2_readouts import Class2Readouts
from models.features import ELEMENTS
from models.terms import MMIndices, TorchCross, TorchParameters
from pipeline.schema import N_IMPROPER_PERIODICITIES, N_PROPER_PERIODICITIES
from pipeline.settings import Form

COVALENT_RADIUS = {
    1: 0.31,
    6: 0.74,
    7: 0.70,
    8: 0.66,
    9: 0.57,
    15: 1.07,
    16: 1.05,
    17: 1.02,
    35: 1.20,
    53: 1.39,
}
"""angstrom (Cordero et al., Dalton Trans. 2008, 2832); only the scale of the bond anchors rests on it."""
BOND_ANCHORS = (0.7, 1.3)
"""multiples of the sum of covalent radii"""
ANGLE_ANCHORS = (math.pi / 4, math.pi)
"""radian"""
BOND_K_SCALE = 700.0
"""kcal/mol/angstrom^2, the order of a C-C bond"""
ANGLE_K_SCALE = 120.0
"""kcal/mol/radian^2"""
PROPER_K_SCALE = 0.5
"""kcal/mol"""
IMPROPER_K_SCALE = 1.0
"""kcal/mol"""
SOFTPLUS_ONE = math.log(math.e - 1.0)
"""softplus of this is one"""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValenceParameters:
    """Bonds, angles, propers and impropers of a batch, rows beside MMIndices; units as in MMParameters."""

    bond_k: Tensor
    bond_length: Tensor
    angle_k: Tensor
    angle_theta: Tensor
    proper_k: Tensor
    improper_k: Tensor
    cross: TorchCross | None = None
    """class II terms; None in class I"""

    def with_nonbonded(self, charge: Tensor, sigma: Tensor, epsilon: Tensor) -> TorchParameters:
        """Add the nonbonded parameters, each (n_atoms,)."""
        return TorchParameters(**vars(self), charge=charge, sigma=sigma, epsilon=epsilon)


CLASS1_NAMES = ("bond_k", "bond_length", "angle_k", "angle_theta", "proper_k", "improper_k")
"""The fields of ValenceParameters that class I has."""


def _head(width: int, n_out: int) -> nn.Sequential:
    """Two layers whose output starts near zero, so that training starts from the scales above."""
    last = nn.Linear(width, n_out)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), last)


class PathReadout(nn.Module):
    """Embeddings of the two ends and their inner neighbours -> numbers, invariant to reversal.

    Each end is read as silu(A h_end + B h_inner); the two readings meet in a sum and a product.
    """

    def __init__(self, width: int, n_out: int) -> None:
        super().__init__()
        self.end = nn.Linear(width, width)
        self.inner = nn.Linear(width, width, bias=False)
        self.head = _head(width, n_out)

    def forward(self, embedding: Tensor, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]) -> Tensor:
        """Read paths given as (end, inner) atom indices of either side; returns (n_paths, n_out)."""
        ends, inners = self.end(embedding), self.inner(embedding)
        one = nn.functional.silu(ends.index_select(0, first[0]) + inners.index_select(0, first[1]))
        other = nn.functional.silu(ends.index_select(0, last[0]) + inners.index_select(0, last[1]))
        return self.head(torch.cat([one + other, one * other], dim=1))


class CentreReadout(nn.Module):
    """A centre and its three neighbours -> numbers, invariant to the order of the neighbours."""

    def __init__(self, width: int, n_out: int) -> None:
        super().__init__()
        self.end = nn.Linear(width, width)
        self.inner = nn.Linear(width, width, bias=False)
        self.head = _head(width, n_out)

    def forward(self, embedding: Tensor, centre: Tensor, neighbours: Tensor) -> Tensor:
        """centre (n_centres,), neighbours (n_centres, 3) -> (n_centres, n_out)."""
        ends, inners = self.end(embedding), self.inner(embedding)
        readings = nn.functional.silu(ends[neighbours] + inners.index_select(0, centre).unsqueeze(1))
        return self.head(torch.cat([readings.sum(dim=1), readings.square().sum(dim=1)], dim=1))


class ValenceReadouts(nn.Module):
    """All valence terms from one set of atom embeddings."""

    radius: Tensor

    def __init__(self, width: int, form: Form = "class1", *, pairs: bool = False) -> None:
        super().__init__()
        self.bond = PathReadout(width, 2)
        self.angle = PathReadout(width, 2)
        self.proper = PathReadout(width, N_PROPER_PERIODICITIES)
        self.improper = CentreReadout(width, N_IMPROPER_PERIODICITIES)
        self.class2 = Class2Readouts(width, pairs=pairs) if form == "class2" else None
        radii = torch.tensor([COVALENT_RADIUS[number] for number in ELEMENTS])
        self.register_buffer("radius", radii, persistent=False)

    def forward(self, embedding: Tensor, atom_features: Tensor, indices: MMIndices) -> ValenceParameters:
        """embedding (n_atoms, width), atom_features (n_atoms, N_ATOM_FEATURES) -> parameters of all terms."""
        bond_k, bond_length = self._bonds(embedding, atom_features, indices.bonds)
        angle_k, angle_theta = self._angles(embedding, indices.angles)
        centres = indices.impropers[::3]
        neighbours = centres[:, [0, 2, 3]]
        improper_k = IMPROPER_K_SCALE * self.improper(embedding, centres[:, 1], neighbours)
        return ValenceParameters(
            bond_k=bond_k,
            bond_length=bond_length,
            angle_k=angle_k,
            angle_theta=angle_theta,
            proper_k=self.propers(embedding, indices),
            improper_k=improper_k.repeat_interleave(3, dim=0),
            cross=None if self.class2 is None else self.class2(embedding, indices, bond_k, angle_k),
        )

    def propers(self, embedding: Tensor, indices: MMIndices) -> Tensor:
        """embedding (n_atoms, width) -> proper_k (n_propers, n_periodicities) alone."""
        i, j, k, m = indices.propers.unbind(1)
        return PROPER_K_SCALE * self.proper(embedding, (i, j), (m, k))

    def _bonds(self, embedding: Tensor, atom_features: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor]:
        i, j = bonds.unbind(1)
        radius = atom_features[:, : len(ELEMENTS)] @ self.radius.to(atom_features.dtype)
        sum_of_radii = radius.index_select(0, i) + radius.index_select(0, j)
        stiffness, weight = self.bond(embedding, (i, j), (j, i)).unbind(1)
        return _mix(stiffness, weight, BOND_K_SCALE, BOND_ANCHORS, sum_of_radii)

    def _angles(self, embedding: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        i, j, k = angles.unbind(1)
        stiffness, weight = self.angle(embedding, (i, j), (k, j)).unbind(1)
        return _mix(stiffness, weight, ANGLE_K_SCALE, ANGLE_ANCHORS, torch.ones_like(stiffness))


def _mix(
    stiffness: Tensor, weight: Tensor, k_scale: float, anchors: tuple[float, float], unit: Tensor
) -> tuple[Tensor, Tensor]:
    """Linear mixture of two harmonic terms: total force constant and equilibrium value."""
    k = k_scale * nn.functional.softplus(stiffness + SOFTPLUS_ONE)
    k_high = k * torch.sigmoid(weight)
    low, high = anchors
    return k, unit * ((k - k_high) * low + k_high * high) / k

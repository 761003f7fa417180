"""How sure the model is of a ligand: how far its networks disagree, and whether training saw such atoms.

The members of an ensemble were trained alike from other seeds: where the data do not decide, they differ.
About torsions the networks of every form are asked, whichever form is predicted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from rdkit.Chem import rdMolDescriptors
from torch import Tensor

from models.features import ELEMENTS, MAX_DEGREE, N_ATOM_FEATURES, MolecularGraph
from models.readouts import ValenceParameters
from pipeline.errors import SettingsError
from pipeline.ligand import to_rdkit
from pipeline.schema import Confidence, FloatArray, Ligand, Topology

_DECIMALS = 8
"""places after the point of every spread: sums in another order change those behind"""
RARE = 2
"""an environment that fewer training molecules have counts as unknown"""
MOSTLY = 0.5
"""an environment seats a charge when more than this share of the training molecules with it carry one"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """Disagreement of the members, row by row beside the topology, kcal/mol."""

    bond: FloatArray
    """(n_bonds,): energy that the scatter of the rest length costs, k/2 var(l)"""
    angle: FloatArray
    """(n_angles,): k/2 var(theta0)"""
    proper: FloatArray
    """(n_propers,): standard deviation of the cosine series over a full turn"""
    improper: FloatArray
    """(n_impropers,): the same"""
    charge: FloatArray
    """(n_atoms,): standard deviation of the charge, elementary charges"""
    total: float
    """One number for the ligand, kcal/mol: see `_disagreement`"""

    @property
    def total_charge(self) -> float:
        """One number for the ligand's charges, elementary charges: root of the mean variance."""
        return float(np.sqrt((self.charge**2).mean()))


def spread_of(
    members: Sequence[ValenceParameters],
    charges: Tensor,
    ligand: Ligand,
    topology: Topology,
    *,
    others: Sequence[Tensor] = (),
) -> Spread:
    """Compare the members' parameters of one ligand, and their charges (n_members, n_atoms); zero for one.

    `others`: proper_k by the networks of the other forms, each (n_propers, n); they count in the total alone.
    """

    def scatter(k: str, rest: str) -> FloatArray:
        stiffness = torch.stack([getattr(member, k) for member in members])
        values = torch.stack([getattr(member, rest) for member in members])
        return _numpy(stiffness.mean(0) / 2 * _variance(values))

    def series(name: str) -> FloatArray:
        # The mean square of sum_n d_n cos n phi over a turn is sum_n d_n^2 / 2.
        stacked = torch.stack([getattr(member, name) for member in members])
        return _numpy((_variance(stacked).sum(1) / 2).sqrt())

    return Spread(
        bond=scatter("bond_k", "bond_length"),
        angle=scatter("angle_k", "angle_theta"),
        proper=series("proper_k"),
        improper=series("improper_k"),
        charge=_numpy(_variance(charges).sqrt()),
        total=_disagreement(
            torch.stack([*(member.proper_k for member in members), *others]), ligand, topology
        ),
    )


def _disagreement(proper_k: Tensor, ligand: Ligand, topology: Topology) -> float:
    """Root mean square, over networks and turns, of what they disagree by about all bonds together, kcal/mol,
    from proper_k (n_networks, n_propers, n); times the root of one more than the number of rotatable bonds.

    The series about one bond turn together: they are added before they are squared. With every rotor there
    are more conformers to be wrong about. Of the scalars that need no conformer this one follows errors best:
    Spearman's rho with the mean |ddE| of 862 dev molecules, by either form of `fourth 0.1`, is 0.44 and 0.45
    over the networks of both forms, 0.37 and 0.33 over those of the form alone.
    """
    deviation = proper_k - proper_k.mean(0)
    about = np.sort(topology.propers[:, 1:3], axis=1)
    owner = torch.as_tensor(np.unique(about, axis=0, return_inverse=True)[1].reshape(-1))
    n_bonds = int(owner.max()) + 1 if len(owner) else 0
    by_bond = deviation.new_zeros(len(deviation), n_bonds, deviation.shape[2]).index_add(1, owner, deviation)
    # The mean square of sum_n d_n cos n phi over a turn is sum_n d_n^2 / 2.
    variance = float(by_bond.square().sum((1, 2)).mean()) / 2
    n_rotors = rdMolDescriptors.CalcNumRotatableBonds(to_rdkit(ligand))
    return round(float(np.sqrt(variance * (1 + n_rotors))), _DECIMALS)


def _variance(values: Tensor) -> Tensor:
    """Over the members, dimension 0; of one member zero."""
    return (values - values.mean(0)).square().mean(0)


def _numpy(values: Tensor) -> FloatArray:
    return np.round(values.detach().double().numpy(), _DECIMALS)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the training saw, and what disagreement is usual; kept beside the weights."""

    environments: frozenset[str]
    disagreement_limit: float
    """kcal/mol, of the networks of all forms together"""
    charge_limit: float
    """elementary charges"""
    positive_seats: frozenset[str]
    """environments that seat a positive charge outside ammonium groups"""
    negative_seats: frozenset[str]
    """the same of negative charges"""

    @classmethod
    def of_training(
        cls, graphs: Iterable[MolecularGraph], *, disagreement_limit: float, charge_limit: float
    ) -> Self:
        """Count in how many molecules each environment occurs, and in how many of either charge."""
        counts: dict[int, Counter[str]] = {sign: Counter() for sign in (-1, 0, 1)}
        for graph in graphs:
            counts[charge_sign(graph)].update(set(environments(graph)))
        total = counts[-1] + counts[0] + counts[1]

        def seats(sign: int) -> frozenset[str]:
            return frozenset(n for n, c in counts[sign].items() if c >= RARE and c > MOSTLY * total[n])

        return cls(
            environments=frozenset(name for name, count in total.items() if count >= RARE),
            disagreement_limit=disagreement_limit,
            charge_limit=charge_limit,
            positive_seats=seats(1),
            negative_seats=seats(-1),
        )

    def assess(self, graph: MolecularGraph, spread: Spread, *, n_blurred: int = 0) -> Confidence:
        """Judge one ligand: its atoms' surroundings, the disagreement about it, and its `n_blurred` double
        bonds that came out as long as single ones (`models.alternation`).
        """
        names = environments(graph)
        unseen = tuple(i for i, name in enumerate(names) if name not in self.environments)
        doubts, charge_doubts = [], []
        if n_blurred:
            bonds = "1 double bond is" if n_blurred == 1 else f"{n_blurred} double bonds are"
            doubts.append(
                f"{bonds} about as long as the single bonds beside, and too easily twisted: the networks do "
                "not see the ends of the conjugated chain"
            )
        sign = charge_sign(graph)
        seats = self.positive_seats if sign > 0 else self.negative_seats
        if sign and seats.isdisjoint(names):
            kind = "positive" if sign > 0 else "negative"
            charge_doubts.append(
                f"no surroundings that seat a {kind} charge in the training, but such a charge"
            )
        if spread.total > self.disagreement_limit:
            doubts.append(
                f"the networks disagree by {spread.total:.2f} kcal/mol, summed over torsions "
                f"(usual: below {self.disagreement_limit:.2f})"
            )
        if spread.total_charge > self.charge_limit:
            charge_doubts.append(
                f"the networks disagree by {spread.total_charge:.3f} e about charges "
                f"(usual: below {self.charge_limit:.3f})"
            )
        return Confidence(
            uncertainty=spread.total,
            limit=self.disagreement_limit,
            unseen=unseen,
            doubt="; ".join(doubts),
            charge_doubt="; ".join(charge_doubts),
            bond=spread.bond,
            angle=spread.angle,
            proper=spread.proper,
            improper=spread.improper,
            charge=spread.charge,
        )

    def to_json(self) -> str:
        """Serialise, sorted."""
        value = {
            "environments": sorted(self.environments),
            "disagreement_limit": self.disagreement_limit,
            "charge_limit": self.charge_limit,
            "positive_seats": sorted(self.positive_seats),
            "negative_seats": sorted(self.negative_seats),
        }
        return json.dumps(value, indent=0) + "\n"


def read_domain(path: Path) -> Domain:
    """Read a domain file; SettingsError when it is none, or one of rules that are no longer ours."""
    try:
        value = json.loads(path.read_text())
        return Domain(
            environments=frozenset(map(str, value["environments"])),
            disagreement_limit=float(value["disagreement_limit"]),
            charge_limit=float(value["charge_limit"]),
            positive_seats=frozenset(map(str, value["positive_seats"])),
            negative_seats=frozenset(map(str, value["negative_seats"])),
        )
    except KeyError as error:
        raise SettingsError(
            f"{path}: no {error}: of an older version; `python -m models.recompute_domain` writes it anew"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"{path}: not a domain file: {error}") from error


def charge_sign(graph: MolecularGraph) -> int:
    """Sign of the charge that is left when every nitrogen with four neighbours has taken its +1.

    Such a charge is spread over a conjugated system whose resonance forms the network does not see. Where no
    training molecule shows it a place for it, all members spread it alike, and wrongly.
    """
    n_ammonium = sum(_kind(row)[:2] == (7, 4) for row in graph.atom_features.tolist())
    return int(np.sign(graph.total_charge - n_ammonium))


def environments(graph: MolecularGraph) -> list[str]:
    """One word per atom: element, degree, hydrogens, conjugated ring, unsaturation; and its neighbours'."""
    own = [_kind(row) for row in graph.atom_features.tolist()]
    neighbours: list[list[str]] = [[] for _ in own]
    for i, j in graph.edges.tolist():
        element, degree, _, in_ring, unsaturated = own[j]
        neighbours[i].append(f"{element}.{degree}{in_ring}{unsaturated}")
    return [
        ".".join(map(str, kind[:3])) + kind[3] + kind[4] + "(" + ",".join(sorted(around)) + ")"
        for kind, around in zip(own, neighbours, strict=True)
    ]


def _kind(features: list[float]) -> tuple[int, int, int, str, str]:
    """Element, degree, hydrogens, `r` in a conjugated ring, `u` unsaturated: from a row of features."""
    n_elements = len(ELEMENTS)
    element = ELEMENTS[features.index(1.0, 0, n_elements)]
    degree = features.index(1.0, n_elements) - n_elements
    n_hydrogens = round(4 * features[n_elements + MAX_DEGREE + 1])
    conjugated, unsaturated = features[N_ATOM_FEATURES - 2 : N_ATOM_FEATURES]
    return element, degree, n_hydrogens, "r" if conjugated else "", "u" if unsaturated else ""

"""Atom types of one ligand, as few as Lennard-Jones needs, and a prefix that no other ligand has."""

import dataclasses
import hashlib
from dataclasses import dataclass

from rdkit import Chem

from pipeline.schema import CLASS1_FIELDS, MMParameters, Parametrized, Topology

_HASH_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class AtomType:
    """One Lennard-Jones type of one element."""

    atomic_number: int
    sigma: float
    """angstrom"""
    epsilon: float
    """kcal/mol"""

    @property
    def symbol(self) -> str:
        """Symbol of the element."""
        return str(Chem.GetPeriodicTable().GetElementSymbol(self.atomic_number))

    @property
    def mass(self) -> float:
        """Mean atomic weight, dalton."""
        return float(Chem.GetPeriodicTable().GetAtomicWeight(self.atomic_number))


def list_atom_types(topology: Topology, parameters: MMParameters) -> tuple[list[AtomType], list[int]]:
    """List the distinct types in the order of their first atom, and every atom's 0-based type."""
    rows = zip(
        topology.atomic_numbers.tolist(), parameters.sigma.tolist(), parameters.epsilon.tolist(), strict=True
    )
    of_atom = [AtomType(atomic_number=number, sigma=sigma, epsilon=eps) for number, sigma, eps in rows]
    index = {kind: position for position, kind in enumerate(dict.fromkeys(of_atom))}
    return list(index), [index[kind] for kind in of_atom]


def hash_prefix(parametrized: Parametrized) -> str:
    """Prefix of all type names: `L` and eight hex digits of a hash over the id and every parameter.

    It starts with a letter, as GROMACS demands, and differs between two ligands and between two force fields
    of one ligand, so that any of them fit into one system.
    """
    digest = hashlib.sha256(parametrized.id.encode())
    for name in CLASS1_FIELDS:
        digest.update(getattr(parametrized.parameters, name).tobytes())
    if parametrized.parameters.cross is not None:
        for field in dataclasses.fields(parametrized.parameters.cross):
            digest.update(getattr(parametrized.parameters.cross, field.name).tobytes())
    return f"L{digest.hexdigest()[:_HASH_LENGTH]}"

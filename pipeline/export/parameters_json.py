"""JSON: every parameter with its unit, for programs that read none of the other formats."""

import json
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.export.naming import build_atom_names
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.schema import (
    CONVENTIONS_VERSION,
    Confidence,
    CrossTerms,
    FloatArray,
    Ligand,
    MMParameters,
    Parametrized,
)
from pipeline.topology import build_topology

_UNITS = {
    "length": "angstrom",
    "angle": "radian",
    "energy": "kcal/mol",
    "charge": "elementary charge",
    "bond k": "kcal/mol/angstrom^2",
    "angle k": "kcal/mol/radian^2",
}
_ENERGY = {
    "bonds": "k/2 (r - length)^2",
    "angles": "k/2 (angle - theta)^2",
    "propers": "sum over n = 1, 2, ... of k[n-1] (1 + cos(n phi)), phi(i, j, k, l) as listed",
    "impropers": "as propers, phi as listed: centre first, three rows per centre",
    "vdw": f"12-6 Lennard-Jones, Lorentz-Berthelot, 1-2 and 1-3 excluded, 1-4 scaled by {VDW_14_SCALE}",
    "coulomb": f"1-2 and 1-3 excluded, 1-4 scaled by {COULOMB_14_SCALE}",
}
_CROSS = (
    "rows of bonds, angles, propers as listed, r and theta less what they are at rest: bond_k3 r^3 + bond_k4 "
    "r^4; angle_k3, angle_k4 alike; bond_bond r1 r2; bond_angle[e] theta r_e; bond_torsion[n-1] r_jk cos(n "
    "phi); angle_torsion[e][n-1] theta_e cos(n phi); angle_angle_torsion theta_1 theta_2 cos(phi); units: "
    "kcal/mol over angstrom and radian"
)
_PAIRS = (
    "rows of pairs as listed, in place of vdw and coulomb and their 1-4 factors: pair_coulomb times the "
    "Coulomb energy, pair_repulsion times the term in r^-12, pair_dispersion times that in r^-6"
)


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_parameters_json(parametrized: Parametrized) -> str:
    """Write atoms and interactions with 0-based indices in the user's atom order."""
    topology, parameters, ligand = parametrized.topology, parametrized.parameters, parametrized.ligand
    atom_columns = {
        "name": build_atom_names(topology),
        "atomic_number": topology.atomic_numbers.tolist(),
        "charge": parameters.charge.tolist(),
        "sigma": parameters.sigma.tolist(),
        "epsilon": parameters.epsilon.tolist(),
    }
    document = {
        "conventions": CONVENTIONS_VERSION,
        "id": parametrized.id,
        "name": ligand.name,
        "mapped_smiles": ligand.mapped_smiles,
        "total_charge": ligand.total_charge,
        "provenance": dict(parametrized.provenance),
        "units": _UNITS,
        "energy": _ENERGY,
        "atoms": _rows(atom_columns),
        "bonds": _rows({"atoms": topology.bonds, "k": parameters.bond_k, "length": parameters.bond_length}),
        "angles": _rows({"atoms": topology.angles, "k": parameters.angle_k, "theta": parameters.angle_theta}),
        "propers": _rows({"atoms": topology.propers, "k": parameters.proper_k}),
        "impropers": _rows({"atoms": topology.improper_dihedrals, "k": parameters.improper_k}),
        "pairs_14": topology.pairs_14.tolist(),
        "confidence": _confidence(parameters.confidence),
    }
    if parameters.cross is not None:
        document["energy"] = _ENERGY | {"cross": _CROSS}
        document["cross"] = {
            field.name: getattr(parameters.cross, field.name).tolist() for field in fields(parameters.cross)
        }
        if parameters.cross.has_pairs:
            document["energy"] = document["energy"] | {"pairs": _PAIRS}
            document["pairs"] = topology.pairs.tolist()
    lines = [f" {_dump(key)}: {_block(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _block(value: object) -> str:
    """A list has one line per row."""
    if not isinstance(value, list):
        return _dump(value)
    return "[\n  " + ",\n  ".join(map(_dump, value)) + "\n ]" if value else "[]"


def _confidence(confidence: Confidence | None) -> dict[str, Any] | None:
    """How sure the model is, row by row beside interactions and atoms; null where nobody knows."""
    if confidence is None:
        return None
    rows = {
        f"{term}s": getattr(confidence, term).tolist()
        for term in ("bond", "angle", "proper", "improper", "charge")
    }
    return {
        "uncertainty": confidence.uncertainty,
        "limit": confidence.limit,
        "doubt": confidence.doubts,
        **rows,
    }


def read_parametrized_json(text: str) -> Parametrized:
    """Read the ligand with its force field back; the coordinates are in the other files."""
    document = json.loads(text)
    ligand = Ligand(
        name=document["name"],
        mapped_smiles=document["mapped_smiles"],
        total_charge=document["total_charge"],
    )
    return Parametrized(
        id=document["id"],
        ligand=ligand,
        topology=build_topology(ligand),
        parameters=read_parameters_json(text),
        coords=None,
        provenance=tuple(document["provenance"].items()),
    )


def read_parameters_json(text: str) -> MMParameters:
    """Read the parameters back, row by row in the file's order."""
    document = json.loads(text)

    def column(section: str, field: str) -> FloatArray:
        return np.array([row[field] for row in document[section]], dtype=np.float64)

    return MMParameters(
        bond_k=column("bonds", "k"),
        bond_length=column("bonds", "length"),
        angle_k=column("angles", "k"),
        angle_theta=column("angles", "theta"),
        proper_k=column("propers", "k"),
        improper_k=column("impropers", "k"),
        charge=column("atoms", "charge"),
        sigma=column("atoms", "sigma"),
        epsilon=column("atoms", "epsilon"),
        cross=CrossTerms(**document["cross"]) if "cross" in document else None,
    )


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn columns into one record per row."""
    plain = [value.tolist() if isinstance(value, np.ndarray) else value for value in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]

"""For users of the OpenFF toolkit: `openff.toolkit.Molecule` in, `openff.toolkit.ForceField` out.

The toolkit is not on PyPI and nothing else here needs it; it is imported when a function is called.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.export.offxml import write_constrained_offxml, write_offxml
from pipeline.library import Record
from pipeline.ligand import canonical_ligand, canonical_order, standardise
from pipeline.names import record_id
from pipeline.parametrize import Predictor
from pipeline.schema import Ligand, Parametrized
from pipeline.settings import LigandRules
from pipeline.topology import build_topology, restore_order
from pipeline.verify import check_parameters

if TYPE_CHECKING:
    from openff.toolkit import ForceField, Molecule


def parametrize_openff(
    molecule: "Molecule", predictor: Predictor, *, rules: LigandRules | None = None, constraints: bool = False
) -> "ForceField":
    """Predict a molecule's force field; in it every term of this molecule finds its own parameters.

    The molecule's atom order, and so everything that the toolkit says by index, is kept. Raises
    RefusedLigandError for a molecule outside `rules`, ParametersError for parameters out of their range,
    UsageError where the toolkit is not installed.
    """
    ligand = ligand_from_openff(molecule, rules or LigandRules())
    canonical = canonical_ligand(ligand)
    topology = build_topology(canonical)
    parameters = predictor.predict(canonical, topology)
    check_parameters(topology, parameters, ligand.total_charge)
    topology, parameters = restore_order(topology, parameters, np.array(canonical_order(ligand)))
    parametrized = Parametrized(
        id=record_id(ligand.name, ligand.mapped_smiles, 0),
        ligand=ligand,
        topology=topology,
        parameters=parameters,
        coords=None,
        provenance=(("model", f"{predictor.name}/{predictor.version}"), ("model_sha256", predictor.sha256)),
    )
    return to_openff_force_field(parametrized, constraints=constraints)


def ligand_from_openff(molecule: "Molecule", rules: LigandRules) -> Ligand:
    """Take a toolkit's molecule, atom order kept; RefusedLigandError says why it is outside the rules."""
    _toolkit()
    name = molecule.name or molecule.hill_formula
    mapped_smiles = molecule.to_smiles(mapped=True)
    record = Record(
        number=1, name=name, form="smiles", text=molecule.to_smiles(mapped=False), source="openff.toolkit"
    )
    checked = standardise(record, rules).ligand
    return Ligand(name=name, mapped_smiles=mapped_smiles, total_charge=checked.total_charge)


def to_openff_force_field(parametrized: Parametrized, *, constraints: bool = False) -> "ForceField":
    """Read our OFFXML of a ligand with the toolkit."""
    write = write_constrained_offxml if constraints else write_offxml
    force_field: ForceField = _toolkit().ForceField(write(parametrized))
    return force_field


def _toolkit() -> Any:
    try:
        import openff.toolkit
    except ImportError as error:
        message = "openff-toolkit is not installed; it comes from conda-forge: `conda install openff-toolkit`"
        raise UsageError(message) from error
    return openff.toolkit

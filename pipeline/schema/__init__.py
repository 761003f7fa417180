"""The values that flow through parmflow: frozen, keyword-only, numpy inside, shape and unit beside each.

Internal units everywhere: angstrom, kcal/mol, radian, elementary charge.
"""

from pipeline.schema.arrays import (
    FloatArray,
    IntArray,
)
from pipeline.schema.force_field import (
    CLASS1_FIELDS,
    CONVENTIONS_VERSION,
    CROSS_ROWS,
    N_CROSS_PERIODICITIES,
    N_IMPROPER_PERIODICITIES,
    N_PROPER_PERIODICITIES,
    PAIR_FACTORS,
    Confidence,
    CrossTerms,
    EnergyReport,
    MMParameters,
    PairsOrNone,
    Parametrized,
)
from pipeline.schema.ligand import (
    FAR_APART,
    Conformers,
    Ligand,
    Topology,
    pairs_apart,
)
from pipeline.schema.qm import (
    DihedralConstraint,
    QMRecord,
    QMSpec,
    QMTask,
    Reference,
)

__all__ = (
    "CLASS1_FIELDS",
    "CONVENTIONS_VERSION",
    "CROSS_ROWS",
    "FAR_APART",
    "N_CROSS_PERIODICITIES",
    "N_IMPROPER_PERIODICITIES",
    "N_PROPER_PERIODICITIES",
    "PAIR_FACTORS",
    "Confidence",
    "Conformers",
    "CrossTerms",
    "DihedralConstraint",
    "EnergyReport",
    "FloatArray",
    "IntArray",
    "Ligand",
    "MMParameters",
    "PairsOrNone",
    "Parametrized",
    "QMRecord",
    "QMSpec",
    "QMTask",
    "Reference",
    "Topology",
    "pairs_apart",
)

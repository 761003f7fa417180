"""SMIRNOFF force fields: read an OFFXML file, and assign its parameters to a ligand.

Written from the specification (openforcefield/standards, docs/standards/smirnoff.md), independent of our
exporter, so that a written file can be proved by reading it back.
"""

from pipeline.smirnoff.force_field import SmirnoffForceField
from pipeline.smirnoff.labeller import label
from pipeline.smirnoff.reader import read_smirnoff

__all__ = ["SmirnoffForceField", "label", "read_smirnoff"]

"""The file door: one writer per format, each from the same Ligand, Topology and MMParameters."""

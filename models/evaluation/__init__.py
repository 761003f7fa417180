"""How good a force field is: single points, relaxed geometries, conformer energies, beside baselines."""

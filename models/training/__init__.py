"""How networks are trained: charges, a prior, QM, rounds of visits; models.train leads through it."""

"""The picture of a refine shows what fits.csv says."""

import numpy as np
import pandas as pd
import pytest

from flows.fits_plot import draw_fits, write_fits_plot


def table(n: int) -> pd.DataFrame:
    generator = np.random.default_rng(2)
    columns = [f"{q}_rmse_{when}" for q in ("energy", "force") for when in ("before", "after")]
    return pd.DataFrame(generator.uniform(0.1, 5.0, size=(n, 4)), columns=columns).assign(
        name=[f"ligand $x_{i}$ with a name that is much too long" for i in range(n)]
    )


@pytest.mark.parametrize("n", [1, 6, 300])
def test_every_ligand_is_drawn_where_its_error_is(n):
    """The dots of the delivered parameters stand at the errors of the table, few ligands or many."""
    fits = table(n)
    figure = draw_fits(fits)
    for axes, quantity in zip(figure.axes, ("energy", "force"), strict=True):
        drawn = np.asarray(axes.collections[-1].get_offsets())
        column = 0 if n <= 40 else 1
        np.testing.assert_allclose(drawn[:, column], fits[f"{quantity}_rmse_after"])


def test_nothing_is_drawn_without_fits(tmp_path):
    """A folder without fits.csv gets no picture; one with it gets a PNG."""
    write_fits_plot(tmp_path)
    assert not (tmp_path / "fits.png").exists()
    table(3).to_csv(tmp_path / "fits.csv")
    write_fits_plot(tmp_path)
    assert (tmp_path / "fits.png").read_bytes().startswith(b"\x89PNG")

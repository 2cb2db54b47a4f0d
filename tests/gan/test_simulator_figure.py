import pandas as pd
import pytest
from PIL import Image

from gan.simulator import SimulatorConfig, measure_masks, plot_distributions
from tests.gan import simulator_slices


@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(0, 0)])
def test_training_and_simulated_masks_are_drawn_whatever_their_number(tmp_path, rows):
    masks = simulator_slices.draw_masks()[0][rows]
    parts = [measure_masks(masks, 1.0, source, SimulatorConfig()) for source in ("training", "simulated")]
    table = pd.concat(parts)
    plot_distributions(table, tmp_path / "distributions.png")
    with Image.open(tmp_path / "distributions.png") as picture:
        assert picture.size == (880, 400)
    assert [file.name for file in tmp_path.iterdir()] == ["distributions.png"]

"""What a version in MLflow's model registry says of its model."""

import pandas as pd
import pytest

from engine.champions import describe_version
from runtime.model_card import ModelCard

SCORES = pd.DataFrame(
    {
        "seed": [0, 0, 1],
        "rule": "positive",
        "metric": "dice",
        "tissue": "cavity",
        "case_id": ["A", "B", "A"],
        "value": [0.8, 0.9, 0.1],
    }
)
CARD = ModelCard(network="halsr_net", source="emidec", fold=2, intended_use="Research.")


def test_it_names_the_model_and_its_own_seed_s_scores():
    text = describe_version(CARD, SCORES, 0)
    assert "| network | halsr_net |" in text
    assert "| cavity | 0.850 | 2 |" in text
    assert "started from" not in text


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"source": "acdc", "profile": "quick", "fold": 0, "weights": "x"}, "source acdc, profile quick, fold 0"),
        ({"weights": "x"}, "a model whose card names no source"),
    ],
)
def test_it_names_the_model_whose_weights_it_started_from(start, said):
    assert f"| started from | {said} |" in describe_version(CARD.completed(started_from=[start]), SCORES, 0)

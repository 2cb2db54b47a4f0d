"""The Dice, and that no other module computes one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score

from imaging.dice import dice, dice_terms
from segmentation.scoring.overlap import Counts

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline")
SOFT = {"segmentation/training/losses.py", "segmentation/localiser/networks.py"}  # differentiable, on probabilities
COUNTED = {"tp", "overlap", "overlaps", "hits", "intersection"}


def test_it_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 50, 50)) < 0.3
    expected = float(binary_f1_score(torch.from_numpy(prediction), torch.from_numpy(reference)))
    found = dice((reference & prediction).sum(), reference.sum(), prediction.sum())
    assert float(found) == pytest.approx(expected, abs=1e-7)


def test_by_hand():
    assert dice(3, 4, 5) == 6 / 9
    assert dice(0, 4, 0) == 0
    assert dice(0, 0, 4) == 0
    assert dice(0, 0, 0) == 1
    assert dice(0, 0, 0, empty=0.0) == 0
    assert dice([3, 0, 0], [4, 1, 0], [5, 1, 0]).tolist() == [6 / 9, 0, 1]
    assert Counts(tp=3, fp=2, fn=1).dice() == 6 / 9


def test_sums_of_its_terms_pool_patients():
    table = pd.DataFrame({"shared": [3, 0], "reference": [4, 1], "prediction": [5, 2]})
    numerator, denominator = dice_terms(table["shared"], table["reference"], table["prediction"])
    assert numerator.sum() / denominator.sum() == dice(3, 5, 7)


def test_no_other_module_computes_one():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in SOFT | {"imaging/dice.py"}
        for line in _own_dice(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "def f(tp, fp, fn):\n    return 2 * tp / (2 * tp + fp + fn)",
        "def dice(a, b):\n    return 2 * (a & b).sum() / (a.sum() + b.sum())",
        "sums.assign(numerator=2.0 * sums.tp)",
    ],
)
def test_the_search_finds_one(source):
    assert list(_own_dice(source))


def _own_dice(source: str) -> Iterator[int]:
    """Give the lines where twice the shared pixels are taken, or anything is doubled in a function of the Dice."""
    tree = ast.parse(source)
    of_dice = {
        inner
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and re.search(r"(?<![a-z])dice(?![a-z])", ast.unparse(function).lower())
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = (node.left, node.right)
            if any(isinstance(side, ast.Constant) and side.value == 2 for side in sides):
                names = {getattr(side, "id", getattr(side, "attr", "")) for side in sides}
                if node in of_dice or names & COUNTED:
                    yield node.lineno

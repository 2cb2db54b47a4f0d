"""Where the ventricle is: the first stage of HALSR-Net, whose published regression is one of the heads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, beats, check_spec
from assets.parts.inputs import open_split, open_studies, split_file, studies_file
from assets.parts.training_run import as_outcome, train_in_own_process
from common.tables import write_csv
from engine.forge import Forge, require_fold
from engine.outcome import Fact, Outcome, number

if TYPE_CHECKING:
    from engine.settings import Settings


@dg.asset(
    deps=["patient_split"],
    partitions_def=FOLDS,
    group_name="data",
    kinds={"pytorch"},
    owners=OWNERS,
    code_version="2",
    pool="gpu",
    check_specs=[
        check_spec("finite_losses", asset="lv_localiser", blocking=True),
        check_spec("beats_fixed_box", asset="lv_localiser"),
    ],
    description="Finds the left ventricle's bounding box; validation and test slices are cut around it.",
)
def lv_localiser(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Train on the fold's training patients and box every study."""

    def build(folder: Path) -> Outcome:
        return _train(context, forge, folder)

    return forge.materialise(context, build, _made_with(forge.settings()))


def _made_with(settings: "Settings") -> dict[str, Any]:
    """Return what decides the result; the region, in which slices are counted, where it has not the default's size."""
    region = settings.region.size_px
    usual = region == type(settings.region)().size_px
    return settings.localiser.model_dump(mode="json") | ({} if usual else {"region_px": region})


def _train(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Outcome:
    fold, settings = require_fold(context), forge.settings()
    inputs = {
        "studies": studies_file(forge),
        "patient_split": split_file(forge),
    }
    tags = {"stage": "localiser", "network": "lv_localiser", "training_set": "studies"}
    result = train_in_own_process(
        context, forge, folder, "lv_localiser", inputs, settings.localiser, settings.split_seed, tags
    )
    boxes = _box_every_study(forge, folder, fold)
    outcome = as_outcome(folder, result)
    others = boxes[boxes["part"] != "train"]
    test = boxes[boxes["part"] == "test"]
    check = beats(
        "beats_fixed_box",
        others["iou"].mean(),
        others["fixed_box_iou"].mean(),
        "Mean IoU of the predicted box against a central box of mean size, validation and test patients.",
    )
    inside = 1 - test["slices_outside"].sum() / max(1, test["slices"].sum())
    facts = {
        "test/box_iou": number(test["iou"].mean()),
        "test/slices_wholly_inside_region": number(inside),
        "test/centre_error_mm": number(test["centre_error_mm"].mean()),
        "test/fixed_box_iou": number(test["fixed_box_iou"].mean()),
        **outcome.facts,
        "boxes": Fact.table(others),
    }
    return Outcome(facts, (*outcome.checks, check), outcome.run_id)


def _box_every_study(forge: Forge, folder: Path, fold: int) -> pd.DataFrame:
    from engine.worker.accelerator import borrowed
    from segmentation.localiser.box_prediction import box_scores, load_localiser

    settings = forge.settings()
    archive = open_studies(forge)
    split = open_split(forge, fold)
    with borrowed(settings.device, settings.precision, forge.accelerator_lock(), settings.deterministic) as compute:
        boxes = box_scores(load_localiser(folder, compute), archive, split, settings.region.size_px)
    write_csv(boxes, folder / "boxes.csv")
    return boxes

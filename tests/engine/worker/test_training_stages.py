"""What each training refuses to be fed with, whatever ran before it."""

import pandas as pd
import pytest

from common.errors import InputError
from common.files import write_json
from engine.worker.process import STAGES
from engine.worker.task import TrainingTask
from imaging.slices.store import ROW_COLUMNS, SliceStoreWriter
from imaging.studies.split import FoldSplit, write_splits
from runtime.compute import choose_compute
from runtime.report import silent
from tests.segmentation.toy_slices import draw_slices, write_toy_store


def write_training_set(path, case_ids):
    images, masks = draw_slices(len(case_ids), 32)
    rows = pd.DataFrame({"case_id": case_ids, "frame": "", "donor_ids": "", "slice_index": 0, "replica": 0})
    rows = rows.assign(origin="augmented", group="infarct", part="train")[list(ROW_COLUMNS)]
    with SliceStoreWriter(path, write_toy_store(path.with_name("toy.h5")).attributes) as writer:
        writer.append(images, masks, rows)


# Pix2Pix's training slices also lend their shades to the slices that it draws: see `gan.generation.shades`.
@pytest.mark.parametrize("stage", ["pix2pix", "segmenter"])
@pytest.mark.parametrize("leaking", ["V", "T"])
def test_slices_of_patients_who_are_not_trained_on_are_refused(tmp_path, stage, leaking):
    write_training_set(tmp_path / "training.h5", ["A", "B", leaking])
    write_splits(tmp_path / "split.json", [FoldSplit(0, ("A", "B"), ("V",), ("T",))])
    inputs = {"training_set": str(tmp_path / "training.h5"), "patient_split": str(tmp_path / "split.json")}
    inputs["real_slices"] = inputs["training_set"]
    task = TrainingTask(stage, str(tmp_path), inputs, {}, 0, 0, "cpu", "fp32", {}, {}, "")
    with pytest.raises(InputError, match=rf"training.h5: leakage in fold 0: {leaking} \("):
        STAGES[stage](task, choose_compute("cpu", "fp32"), silent)


def test_a_start_from_a_model_that_has_seen_test_patients_is_refused(tmp_path):
    write_training_set(tmp_path / "training.h5", ["A", "B"])
    write_splits(tmp_path / "split.json", [FoldSplit(0, ("A", "B"), ("V",), ("T",))])
    inputs = {"training_set": str(tmp_path / "training.h5"), "patient_split": str(tmp_path / "split.json")}
    inputs["real_slices"] = inputs["training_set"]
    write_json(tmp_path / "start" / "model_card.json", {"source": "emidec", "patients": ["A", "T"]})
    (tmp_path / "start" / "weights.safetensors").write_bytes(b"")
    config, card = {"start_from": str(tmp_path / "start")}, {"source": "emidec"}
    task = TrainingTask("segmenter", str(tmp_path), inputs, config, 0, 0, "cpu", "fp32", card, {}, "")
    with pytest.raises(InputError, match="start: was trained on T, whom this fold tests"):
        STAGES["segmenter"](task, choose_compute("cpu", "fp32"), silent)

"""A stage that is killed between any two of its writes is finished by the next call, which trains nothing again."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from engine.outcome import Outcome
from engine.record import file_digests, produce, read_record
from engine.worker import process as train_process
from engine.worker.process import run_task
from engine.worker.task import TrainingTask
from gan.training.config import Pix2PixConfig
from imaging.labels import EMIDEC_LABELS
from imaging.slices.store import ROW_COLUMNS, SliceStoreWriter
from imaging.studies.archive_writer import write_studies
from imaging.studies.split import FoldSplit, write_splits
from segmentation.training.config import TrainConfig
from tests.segmentation.localiser_studies import SMALL, study
from tests.segmentation.toy_slices import draw_slices, write_toy_store

PATIENTS = [f"P{number:02d}" for number in range(6)]
SPLIT = FoldSplit(0, tuple(PATIENTS[:4]), (PATIENTS[4],), (PATIENTS[5],))
NETWORK = {"widths": (4, 8), "bottleneck": 8, "dropout": (0.0,)}
CONFIGS = {
    "lv_localiser": SMALL.model_copy(update={"steps": 2, "validate_every": 1, "batch": 2}),
    "pix2pix": Pix2PixConfig(
        widths=(8, 16),
        full_resolution_width=8,
        discriminator_widths=(8, 16),
        batch=2,
        steps=2,
        validate_every=1,
        hole_margin_px=2,
        validation_slices=2,
    ),
    "segmenter": TrainConfig.model_validate(
        {"network": NETWORK, "steps": 2, "batch": 2, "validate_every": 1, "crop_px": None}
    ),
}
VOLATILE = {"history.csv", "training_result.json"}  # hold speeds and the run


class Killed(BaseException):
    """Stands for the end of the process."""


class NoTracker:
    """Tracks nothing."""

    run_id = None

    @classmethod
    def of(cls, _):
        return cls()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def nothing(self, *_, **__): ...

    dataset = progress = final = artifact = model = nothing


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Six patients' studies, slices and split."""
    folder = tmp_path_factory.mktemp("inputs")
    write_studies(folder / "studies.h5", [study(index) for index in range(6)], EMIDEC_LABELS, "made")
    write_splits(folder / "split.json", [SPLIT])
    for name, patients in (("training_set", PATIENTS[:4]), ("real_slices", PATIENTS)):
        images, masks = draw_slices(2 * len(patients), 32)
        rows = pd.DataFrame(
            {"case_id": [case for case in patients for _ in range(2)], "slice_index": [0, 1] * len(patients)}
        )
        rows = rows.assign(frame="", donor_ids="", replica=0, origin="real", group="infarct")
        rows = rows.assign(part=rows["case_id"].map(SPLIT.part_of))[list(ROW_COLUMNS)]
        toy = write_toy_store(folder / f"toy_{name}.h5")
        with SliceStoreWriter(folder / f"{name}.h5", toy.attributes) as writer:
            writer.append(images, masks, rows)
    paths = {name: str(folder / f"{name}.h5") for name in ("training_set", "real_slices", "studies")}
    return {**paths, "patient_split": str(folder / "split.json")}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(train_process, "Tracker", NoTracker)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stage_of(name, inputs):
    """Return what fills the folder of an asset that trains: its model, or the utility model of the quality's."""
    stage = "segmenter" if name == "utility" else name

    def build(folder):
        model = folder / "utility_model" if name == "utility" else folder
        model.mkdir(exist_ok=True)
        given = {key: path for key, path in inputs.items() if (key == "studies") != (stage != "lv_localiser")}
        given["patient_split"] = inputs["patient_split"]
        card = {"source": "made", "fold": 0, "seed": 3, "parents": {"studies": "v"}, "network": NAMES[stage]}
        config = CONFIGS[stage].model_dump(mode="json")
        run_task(
            TrainingTask(stage, str(model), given, config, 0, 3, "cpu", "fp32", card, {"name": "x", "dataset": "x"}, "")
        )
        shutil.move(_written(folder / "boxes.tmp"), folder / "boxes.csv")  # what the asset makes of the model
        return Outcome({})

    return build


NAMES = {"lv_localiser": "lv_localiser", "pix2pix": "pix2pix", "segmenter": "attention_res_unet"}


def _written(path):
    path.write_text("boxes")
    return path


class Watch:
    """Counts what is put in place, kills before one of these, and knows after which the training was over."""

    def __init__(self, kill_before=None):
        self.events, self.kill_before, self.steps, self.over_after = [], kill_before, 0, 0

    def note(self, what):
        if len(self.events) == self.kill_before:
            raise Killed
        self.events.append(str(what))
        if Path(what).name == "last.pt":
            self.over_after = len(self.events)


@contextmanager
def watched(kill_before=None):
    watch = Watch(kill_before)
    hook = register_optimizer_step_post_hook(lambda *_: setattr(watch, "steps", watch.steps + 1))
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "replace"), (Path, "rename"), (shutil, "rmtree"), (shutil, "move")):
            patch.setattr(owner, name, _noted(getattr(owner, name), watch, name))
        try:
            yield watch
        finally:
            hook.remove()


def _noted(function, watch, name):
    def noted(*arguments, **options):
        what = arguments[0] if name == "rmtree" else arguments[1]
        if name != "rmtree" or Path(what).exists():
            watch.note(what)
        return function(*arguments, **options)

    return noted


@pytest.mark.parametrize("name", ["lv_localiser", "pix2pix", "segmenter", "utility"])
def test_a_kill_between_any_two_writes_after_the_training_makes_nobody_train_again(name, inputs, tmp_path):
    build = stage_of(name, inputs)
    with watched() as undisturbed:
        produce(tmp_path / "whole" / "asset", "asset", "key", build)
    assert undisturbed.steps >= 2
    whole = file_digests(tmp_path / "whole" / "asset")
    points = range(undisturbed.over_after, len(undisturbed.events))
    assert len(points) >= 6, undisturbed.events
    for point in points:
        place = tmp_path / f"killed_{point}" / "asset"
        with watched(kill_before=point) as first, pytest.raises(Killed):
            produce(place, "asset", "key", build)
        with watched() as second:
            produce(place, "asset", "key", build)
        where = f"killed before {undisturbed.events[point]}"
        assert (first.steps, second.steps) == (undisturbed.steps, 0), where
        found = file_digests(place)
        assert found.keys() == whole.keys(), where
        assert not {path for path in whole if found[path] != whole[path]} - _volatile(whole), where
        assert (
            read_record(place, "asset").data_version == read_record(tmp_path / "whole" / "asset", "asset").data_version
        )
        assert not list(place.parent.rglob("last.pt")), where


def _volatile(names):
    return {name for name in names if Path(name).name in VOLATILE}


@pytest.mark.parametrize("name", ["lv_localiser", "pix2pix", "segmenter"])
def test_a_whole_model_folder_without_a_checkpoint_is_not_trained_again(name, inputs, tmp_path):
    build = stage_of(name, inputs)
    build(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint")
    before = file_digests(tmp_path)
    with watched() as second:
        build(tmp_path)
    assert second.steps == 0
    assert file_digests(tmp_path) == before


def test_a_model_of_another_seed_is_not_taken_for_this_one(inputs, tmp_path):
    folder = tmp_path / "model"
    build = stage_of("segmenter", inputs)
    folder.mkdir()
    build(folder)
    shutil.rmtree(folder / "checkpoint")
    card = (folder / "model_card.json").read_text()
    (folder / "model_card.json").write_text(card.replace('"seed": 3', '"seed": 4'))
    with watched() as again:
        build(folder)
    assert again.steps == 2

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from common.errors import InputError
from common.seeds import derive_seed
from imaging.augmentation import varied as augmented
from imaging.augmentation.recipe import AugmentConfig, augment_slice, build_recipe
from imaging.augmentation.varied import write_augmented_slices, write_varied_slices
from imaging.slices.balance import BalanceConfig, slice_categories
from imaging.slices.store import SliceStore
from tests.imaging import small_stores as slices

COUNT = 150  # three blocks
CONFIG = AugmentConfig(shift_px=2)
PATIENTS = np.repeat(["N1", "P1", "P2", "T1"], 5)
CONTENT = (
    ["no_infarct"] * 5 + ["infarct"] * 4 + ["no_reflow"] + ["no_reflow"] * 2 + ["no_infarct"] * 3 + ["infarct"] * 5
)
TRAIN = np.flatnonzero(PATIENTS != "T1")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "slices.h5"
    masks = [slices.ring(content) for content in CONTENT]
    return slices.write(path, masks, case_id=PATIENTS, slice_index=np.tile(np.arange(5), 4))


def write(path, real, processes=1, count=COUNT, seed=3, train=TRAIN):
    write_augmented_slices(path, real, train, count, CONFIG, BalanceConfig(), seed, processes, "1")
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory, real):
    return SliceStore.open(write(tmp_path_factory.mktemp("augmented") / "slices.h5", real))


@pytest.fixture
def task(real):
    return augmented._Task(real, np.resize(TRAIN, COUNT), CONFIG, 3)


def test_two_processes_write_the_bytes_of_one(tmp_path, real, written):
    assert write(tmp_path / "slices.h5", real, processes=2).read_bytes() == written.path.read_bytes()


def test_another_seed_writes_other_slices(tmp_path, real, written):
    assert SliceStore.open(write(tmp_path / "slices.h5", real, seed=4)).digest != written.digest


def test_a_longer_store_begins_with_valid_slices_of_its_own(tmp_path, real):
    assert len(SliceStore.open(write(tmp_path / "slices.h5", real, count=65))) == 65


def test_rows_name_their_patient_and_nothing_but_training_patients(written, real):
    rows = written.rows
    assert len(rows) == COUNT
    assert set(rows["case_id"]) == {"N1", "P1", "P2"}
    assert set(rows["origin"]) == {"augmented"}
    assert set(rows["donor_ids"]) == {""}


def test_replicas_count_up_for_each_source_slice(written):
    for _, variants in written.rows.groupby(["case_id", "slice_index"]):
        assert variants["replica"].tolist() == list(range(len(variants)))


def test_content_is_balanced(written):
    categories = slice_categories(written.masks(), written.label_set)
    shares = {name: float((categories == name).mean()) for name in ("no_infarct", "infarct", "no_reflow")}
    assert shares == pytest.approx({"no_infarct": 0.5, "infarct": 0.04, "no_reflow": 0.46}, abs=0.02)


def test_each_slice_is_a_variant_of_the_slice_its_row_names(written, real):
    place = 130
    row = written.rows.iloc[place]
    source = np.flatnonzero((row["case_id"] == PATIENTS) & (real.rows["slice_index"] == row["slice_index"]))
    image, mask = augment_slice(
        build_recipe(CONFIG),
        real.images(source)[0],
        real.masks(source)[0],
        derive_seed(3, "augmented slices: vary", place),
    )
    np.testing.assert_array_equal(written.images([place])[0], image.astype(np.float16))
    np.testing.assert_array_equal(written.masks([place])[0], mask)


def test_attributes_tell_how_it_was_made(written, real):
    attributes = written.attributes
    assert attributes.parent_digests == {"real": real.digest}
    assert attributes.source_digest == real.attributes.source_digest
    assert attributes.parameters["augment"]["rotation_deg"] == CONFIG.rotation_deg
    assert attributes.parameters["balance"]["no_reflow_share"] == 0.46


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 0}, "asked for 0 slices"), ({"processes": 0}, "in 0 processes"), ({"train": TRAIN[:0]}, "from 0")],
)
def test_senseless_requests_are_refused(tmp_path, real, change, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "slices.h5", real, **change)


def test_varied_slices_keep_their_rows_and_show_something_else(tmp_path, real):
    write_varied_slices(tmp_path / "one.h5", real, CONFIG, 3, 1, "1")
    write_varied_slices(tmp_path / "two.h5", real, CONFIG, 3, 2, "1")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    varied = SliceStore.open(tmp_path / "one.h5")
    pd.testing.assert_frame_equal(varied.rows, real.rows)
    assert varied.attributes.parent_digests == {"slices": real.digest}
    for row in range(len(real)):
        assert not np.array_equal(varied.images(row), real.images(row))
        assert set(np.unique(varied.masks(row))) <= set(np.unique(real.masks(row)))


def test_no_process_varies_nothing(tmp_path, real):
    with pytest.raises(InputError, match=r"vary 20 slices in 0 processes; each must be at least 1"):
        write_varied_slices(tmp_path / "slices.h5", real, CONFIG, 3, 0, "1")


def test_workers_end_when_nobody_reads_any_more(task):
    blocks = augmented._make_blocks(task, 2)
    next(blocks)
    assert len(multiprocessing.active_children()) == 2
    blocks.close()
    assert multiprocessing.active_children() == []


def test_a_failing_worker_is_one_clear_line(real):
    beyond = augmented._Task(real, np.full(COUNT, 999), CONFIG, 3)
    with pytest.raises(InputError, match="an augmentation process failed: IndexError"):
        list(augmented._make_blocks(beyond, 2))


def test_a_killed_worker_is_one_clear_line(task):
    blocks = augmented._make_blocks(task, 2)
    next(blocks)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"ended without a word.*use fewer processes"):
        list(blocks)


def test_workers_do_not_outlive_a_killed_parent(tmp_path, real):
    code = f"""
from pathlib import Path
import numpy as np
from imaging.augmentation.recipe import AugmentConfig
from imaging.augmentation.varied import write_augmented_slices, write_varied_slices
from imaging.slices.balance import BalanceConfig
from imaging.slices.store import SliceStore
if __name__ == "__main__":
    real = SliceStore.open(Path({str(real.path)!r}))
    train = np.arange(len(real))
    path = Path({str(tmp_path)!r}) / "slices.h5"
    write_augmented_slices(path, real, train, 10**6, AugmentConfig(), BalanceConfig(), 0, 2, "1")
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)])
    partial = tmp_path / ".slices.h5.partial"
    wait_until(lambda: partial.exists() and partial.stat().st_size > 500_000)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    parent.kill()
    parent.wait()
    wait_until(lambda: not psutil.wait_procs(children, timeout=0)[1])
    assert not (tmp_path / "slices.h5").exists()


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)

import numpy as np
import pytest

from common.errors import InputError
from gan.simulator import (
    STRATEGIES,
    WARPED_ANATOMY,
    SimulatorConfig,
    compare_distributions,
    summarise_distributions,
    write_lesion_masks,
)
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.slices.balance import BalanceConfig, slice_categories
from imaging.slices.store import SliceStore
from tests.gan.simulator_slices import draw_masks, write_store

COUNT = 100


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    masks, patients = draw_masks()
    return write_store(tmp_path_factory.mktemp("simulator") / "slices.h5", masks, patients)


@pytest.fixture(scope="module")
def train_index(real):
    return np.flatnonzero(real.rows["case_id"] != "P005")


def write(path, real, train_index, processes=1, seed=0, count=COUNT):
    return write_lesion_masks(path, real, train_index, count, SimulatorConfig(), BalanceConfig(), seed, processes, "1")


@pytest.fixture(scope="module")
def written(real, train_index, tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "slices.h5"
    statistics = write(path, real, train_index)
    return SliceStore.open(path), statistics


def test_the_classes_are_balanced(written):
    categories = slice_categories(written[0].masks(), EMIDEC_LABELS).tolist()
    assert categories.count("no_infarct") == 50
    assert categories.count("infarct") == 4
    assert categories.count("no_reflow") == 46


def test_the_context_is_the_recipients_slice_around_the_hole(written, real):
    store = written[0]
    images, holes = store.images(), store.extra("hole")
    for position, row in store.rows.iterrows():
        same = (real.rows["case_id"] == row["case_id"]) & (real.rows["slice_index"] == row["slice_index"])
        source = int(np.flatnonzero(same)[0])
        outside = holes[position] == 0
        np.testing.assert_array_equal(images[position][outside], real.images([source])[0][outside])
        assert not images[position][~outside].any()
        assert not (real.masks([source])[0][outside] > 0).any()
        assert not (store.masks([position])[0][outside] > 0).any()


def test_every_lender_is_recorded_and_a_training_patient(written):
    rows = written[0].rows
    for _, row in rows.iterrows():
        donors = row["donor_ids"].split(";")
        assert row["case_id"] in donors
        assert "P005" not in donors
    assert (rows["origin"] == "synthetic").all()
    assert any(";" in donors for donors in rows["donor_ids"])


def test_groups_follow_the_content(written):
    store = written[0]
    expected = {"no_infarct": "normal", "infarct": "infarct", "no_reflow": "no_reflow"}
    categories = slice_categories(store.masks(), EMIDEC_LABELS)
    assert store.rows["group"].tolist() == [expected[name] for name in categories]


def test_statistics_count_every_mask(written):
    statistics = written[1]
    assert statistics["masks"].sum() == COUNT
    assert set(statistics["strategy"]) == {*STRATEGIES, WARPED_ANATOMY}
    assert statistics["accepted_share"].between(0, 1).all()


def test_two_processes_write_the_same_bytes(written, real, train_index, tmp_path):
    write(tmp_path / "slices.h5", real, train_index, processes=2)
    assert (tmp_path / "slices.h5").read_bytes() == written[0].path.read_bytes()


def test_another_seed_gives_other_masks(written, real, train_index, tmp_path):
    write(tmp_path / "slices.h5", real, train_index, seed=1, count=10)
    other = SliceStore.open(tmp_path / "slices.h5")
    assert (other.masks() != written[0].masks(range(10))).any()


def test_a_workers_error_reaches_the_caller(real, train_index, tmp_path):
    config = SimulatorConfig(infarct_limits=(0.0, 0.001))
    with pytest.raises(InputError, match="mask could be simulated"):
        write_lesion_masks(tmp_path / "slices.h5", real, train_index, 130, config, BalanceConfig(), 0, 2, "1")
    assert not list(tmp_path.iterdir())


def test_cine_studies_give_masks_without_infarct(tmp_path):
    masks, patients = draw_masks(4, lesions=False)
    real = write_store(tmp_path / "real.h5", masks, patients, CINE_LABELS)
    write(tmp_path / "slices.h5", real, np.arange(len(real)), count=12)
    store = SliceStore.open(tmp_path / "slices.h5")
    assert store.masks().max() == 2
    assert (store.rows["group"] == "normal").all()


@pytest.mark.parametrize(("count", "processes", "rows"), [(0, 1, 3), (5, 0, 3), (5, 1, 0)])
def test_bad_numbers_are_named(real, tmp_path, count, processes, rows):
    with pytest.raises(InputError, match="each must be at least 1"):
        write(tmp_path / "slices.h5", real, np.arange(rows), processes, count=count)


def test_distributions_are_tidy_and_within_the_limits(written, real, train_index):
    table = compare_distributions(real, train_index, written[0], SimulatorConfig())
    assert set(table["source"]) == {"training", "simulated"}
    simulated = table[table["source"] == "simulated"]
    assert simulated["within_limits"].all()
    shares = simulated.loc[simulated["measure"] == "infarct_share", "value"]
    assert len(shares) == 50
    assert shares.between(0.1, 0.5).all()
    assert np.isfinite(table["value"]).all()


def test_equal_distributions_are_zero_apart(real, train_index):
    table = compare_distributions(real, train_index, real, SimulatorConfig())
    training = table[table["source"] == "training"]
    both = np.concatenate([training.to_numpy(), training.assign(source="simulated").to_numpy()])
    summary = summarise_distributions(type(table)(both, columns=table.columns).astype(table.dtypes.to_dict()))
    assert (summary["distance"].dropna() == 0).all()


def test_a_foreign_table_is_refused():
    import pandas as pd

    with pytest.raises(InputError, match="use what compare_distributions returns"):
        summarise_distributions(pd.DataFrame({"value": [1.0]}))

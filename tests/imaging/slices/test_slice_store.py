import dataclasses
import multiprocessing
import pickle
import resource
import signal
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from imaging.slices.store import ROW_COLUMNS, SliceStore, SliceStoreWriter
from tests.imaging.small_stores import ATTRIBUTES, SIZE, images, ring, rows

COUNT = 75  # more than two chunks, the last one partly filled
IMAGES = images(COUNT)
MASKS = np.random.default_rng(1).integers(0, 5, (COUNT, SIZE, SIZE), dtype=np.uint8)
HOLES = (MASKS > 0).astype(np.uint8)


def write(path, batches=(COUNT,), attributes=ATTRIBUTES):
    with SliceStoreWriter(path, attributes, ("hole",)) as writer:
        start = 0
        for size in batches:
            part = slice(start, start + size)
            writer.append(IMAGES[part], MASKS[part], rows(size, "Fälle 1", start), hole=HOLES[part])
            start += size
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("store") / "slices.h5")


@pytest.fixture(scope="module")
def store(path):
    with SliceStore.open(path) as opened:
        yield opened


def left_behind(folder):
    return [entry.name for entry in folder.iterdir()]


def test_what_was_written_is_read(store):
    assert len(store) == COUNT
    assert store.images().dtype == np.float16
    np.testing.assert_array_equal(store.images(), IMAGES)
    np.testing.assert_array_equal(store.masks(), MASKS)
    np.testing.assert_array_equal(store.extra("hole"), HOLES)
    assert store.extras == ("hole",)
    assert store.attributes == ATTRIBUTES
    assert store.label_set.name == "emidec"
    assert tuple(store.rows.columns) == ROW_COLUMNS
    assert store.rows["slice_index"].tolist() == list(range(COUNT))
    assert set(store.rows["case_id"]) == {"Fälle 1"}


@given(index=st.lists(st.integers(-COUNT, COUNT - 1), max_size=120))
@settings(max_examples=60, deadline=None)
def test_any_index_reads_as_numpy_would(path, index):
    store = SliceStore.open(path, verify=False)
    index = np.array(index, dtype=int)
    np.testing.assert_array_equal(store.images(index), IMAGES[index])
    np.testing.assert_array_equal(store.masks(index), MASKS[index])


def test_slices_and_flags_are_indices_too(store):
    np.testing.assert_array_equal(store.masks(slice(30, 70, 3)), MASKS[30:70:3])
    flags = np.arange(COUNT) % 7 == 0
    np.testing.assert_array_equal(store.extra("hole", flags), HOLES[flags])
    with pytest.raises(IndexError):
        store.images([COUNT])


@given(cuts=st.sets(st.integers(1, COUNT - 1), max_size=6))
@settings(max_examples=15, deadline=None)
def test_the_digest_does_not_depend_on_batches(tmp_path_factory, store, cuts):
    other = tmp_path_factory.mktemp("batches") / "slices.h5"
    write(other, np.diff([0, *sorted(cuts), COUNT]).tolist())
    assert SliceStore.open(other).digest == store.digest


def test_the_same_batches_give_the_same_bytes(tmp_path, path):
    assert write(tmp_path / "slices.h5").read_bytes() == path.read_bytes()


def test_digest_covers_every_part(tmp_path, store):
    changed = dataclasses.replace(ATTRIBUTES, code_version="2")
    assert SliceStore.open(write(tmp_path / "a.h5", attributes=changed)).digest != store.digest
    picture = IMAGES.copy()
    picture[40, 3, 3] = 0.0 if picture[40, 3, 3] else 1.0
    with SliceStoreWriter(tmp_path / "b.h5", ATTRIBUTES, ("hole",)) as writer:
        writer.append(picture, MASKS, rows(COUNT, "Fälle 1"), hole=HOLES)
    assert SliceStore.open(tmp_path / "b.h5").digest != store.digest
    with SliceStoreWriter(tmp_path / "c.h5", ATTRIBUTES, ("hole",)) as writer:
        writer.append(IMAGES, MASKS, rows(COUNT, "Fälle 1", group="normal"), hole=HOLES)
    assert SliceStore.open(tmp_path / "c.h5").digest != store.digest


def write_and_fail(path, error):
    with SliceStoreWriter(path, ATTRIBUTES) as writer:
        writer.append(IMAGES, MASKS, rows(COUNT))
        raise error


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / "slices.h5", ZeroDivisionError())
    assert left_behind(tmp_path) == []


def test_an_exception_leaves_the_earlier_store(tmp_path, path):
    kept = tmp_path / "slices.h5"
    kept.write_bytes(path.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(kept, KeyboardInterrupt())
    assert kept.read_bytes() == path.read_bytes()
    assert left_behind(tmp_path) == ["slices.h5"]


def test_nothing_stands_under_the_final_name_while_writing(tmp_path):
    with SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES) as writer:
        writer.append(IMAGES, MASKS, rows(COUNT))
        assert not (tmp_path / "slices.h5").exists()
    assert left_behind(tmp_path) == ["slices.h5"]


def test_a_second_writer_is_refused_and_harmless(tmp_path):
    with SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES) as writer:
        writer.append(IMAGES, MASKS, rows(COUNT))
        with (
            pytest.raises(InputError, match="another process is writing"),
            SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES),
        ):
            pass
    np.testing.assert_array_equal(SliceStore.open(tmp_path / "slices.h5").images(), IMAGES)


def test_what_a_killed_writer_left_is_overwritten(tmp_path, path):
    (tmp_path / ".slices.h5.partial").write_bytes(b"half-written")
    assert write(tmp_path / "slices.h5").read_bytes() == path.read_bytes()
    assert left_behind(tmp_path) == ["slices.h5"]


def nan_image():
    return np.where(np.arange(SIZE) == 3, np.nan, np.zeros((1, SIZE, SIZE)))


@pytest.mark.parametrize(
    ("picture", "mask", "row", "message"),
    [
        (nan_image(), MASKS[:1], rows(1), "NaN or infinite"),
        (np.full((1, SIZE, SIZE), np.inf), MASKS[:1], rows(1), "NaN or infinite"),
        (IMAGES[:1] + 1, MASKS[:1], rows(1), r"leave \[0, 1\]"),
        (IMAGES[:1] - 1, MASKS[:1], rows(1), r"leave \[0, 1\]"),
        (IMAGES[:1, :-1], MASKS[:1], rows(1), "images have shape"),
        (IMAGES[0], MASKS[:1], rows(1), "images have shape"),
        (IMAGES[:1], MASKS[:1] + 5, rows(1), r"label values .* are not in label set 'emidec'"),
        (IMAGES[:1], -1 - MASKS[:1].astype(int), rows(1), "label values"),
        (IMAGES[:1], MASKS[:2], rows(1), "masks have shape"),
        (IMAGES[:1], MASKS[:1].astype(float), rows(1), "whole numbers"),
        (IMAGES[:1], MASKS[:1], rows(2), "2 rows for 1 images"),
        (IMAGES[:1], MASKS[:1], rows(1, origin="drawn"), r"origin \['drawn'\] is unknown"),
        (IMAGES[:1], MASKS[:1], rows(1, group="ill"), r"group \['ill'\] is unknown"),
        (IMAGES[:1], MASKS[:1], rows(1, case_id=""), "empty case_id"),
        (IMAGES[:1], MASKS[:1], rows(1, frame=3), "frame holds 3"),
        (IMAGES[:1], MASKS[:1], rows(1, replica=-1), "replica must hold whole numbers"),
        (IMAGES[:1], MASKS[:1], rows(1).drop(columns="donor_ids"), r"lack the columns \['donor_ids'\]"),
        (IMAGES[:2], MASKS[:2], rows(2, slice_index=4), "is there twice"),
    ],
)
def test_bad_slices_are_refused_and_named(tmp_path, picture, mask, row, message):
    target = tmp_path / "slices.h5"
    with pytest.raises(InputError, match=message) as caught, SliceStoreWriter(target, ATTRIBUTES) as writer:
        writer.append(picture, mask, row)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def test_a_refused_batch_leaves_the_store_as_it_was(tmp_path):
    with SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES) as writer:
        writer.append(IMAGES[:1], MASKS[:1], rows(1))
        with pytest.raises(InputError, match=r"'slice_index': 0.* is there twice"):
            writer.append(IMAGES[1:3], MASKS[1:3], rows(2))
        writer.append(IMAGES[1:3], MASKS[1:3], rows(2, first=1))
    np.testing.assert_array_equal(SliceStore.open(tmp_path / "slices.h5").images(), IMAGES[:3])


def test_extras_must_be_the_announced_ones(tmp_path):
    with SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES, ("hole",)) as writer:
        with pytest.raises(InputError, match=r"extras \[\] given, expected \['hole'\]"):
            writer.append(IMAGES[:1], MASKS[:1], rows(1))
        with pytest.raises(InputError, match="expected uint8"):
            writer.append(IMAGES[:1], MASKS[:1], rows(1), hole=IMAGES[:1])
        writer.append(IMAGES[:1], MASKS[:1], rows(1), hole=HOLES[:1])
    with pytest.raises(InputError, match=r"has no 'context', only \['hole'\]"):
        SliceStore.open(tmp_path / "slices.h5").extra("context")


def test_an_empty_store_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="no slices were appended"),
        SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES),
    ):
        pass
    assert left_behind(tmp_path) == []


def test_unknown_label_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown label set 'brain'"):
        SliceStoreWriter(tmp_path / "slices.h5", dataclasses.replace(ATTRIBUTES, label_set="brain"))


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(InputError, match=r"file/slices\.h5: cannot be written"),
        SliceStoreWriter(tmp_path / "file" / "slices.h5", ATTRIBUTES),
    ):
        pass


def fill_a_small_disk(path, pipe):
    """Write with a limit on the size of files, which fails as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        with SliceStoreWriter(path, ATTRIBUTES) as writer:
            for start in range(0, COUNT, 25):
                writer.append(IMAGES[:25], MASKS[:25], rows(25, first=start))
    except InputError as error:
        pipe.send(str(error))


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=fill_a_small_disk, args=(tmp_path / "slices.h5", theirs))
    process.start()
    theirs.close()
    message = ours.recv()
    process.join()
    assert "cannot be written" in message
    assert "free disk space" in message
    assert "\n" not in message
    assert left_behind(tmp_path) == []


def fail_one_write(path, pipe, number):
    """Write batches, of which one meets a disk that is full for as long as that takes; send what was told."""
    told = []
    sys.unraisablehook = lambda ignored: told.append(f"printed: {ignored.exc_value}")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    (_, hard), writer = resource.getrlimit(resource.RLIMIT_FSIZE), SliceStoreWriter(path, ATTRIBUTES)
    try:
        with writer:
            for start in range(0, COUNT, 25):
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 if start == 25 * number else hard, hard))
                try:
                    writer.append(IMAGES[:25], MASKS[:25], rows(25, first=start))
                except InputError as error:
                    told.append(str(error))
    except InputError as error:
        told.append(str(error))
    del writer
    pipe.send(told)


@pytest.mark.parametrize("number", range(3))
def test_a_write_that_fails_once_is_told_and_leaves_nothing(tmp_path, number):
    """Masks are written late, as HDF5 frees their dataset; the store never takes the place of a whole one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=fail_one_write, args=(tmp_path / "slices.h5", theirs, number))
    process.start()
    theirs.close()
    told = ours.recv()
    process.join()
    assert process.exitcode == 0
    assert [line.partition("(")[0] for line in told] == [f"{tmp_path / 'slices.h5'}: cannot be written "] * 2
    assert left_behind(tmp_path) == []


def test_a_missing_file_names_the_asset(tmp_path):
    with pytest.raises(InputError, match=r"there is no such slice store; rematerialise augmented_slices"):
        SliceStore.open(tmp_path / "augmented_slices" / "fold_3" / "slices.h5")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, path, share):
    content = path.read_bytes()
    cut = tmp_path / "lesion_masks" / "fold_0" / "seed_1" / "slices.h5"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"not a readable slice store .*rematerialise lesion_masks") as caught:
        SliceStore.open(cut)
    assert "\n" not in str(caught.value)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_found_or_means_nothing(tmp_path_factory, path, place, bit):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = tmp_path_factory.mktemp("damaged") / "slices.h5"
    damaged.write_bytes(content)
    try:
        store = SliceStore.open(damaged)
    except InputError:
        return
    # A gap between the parts of the file.
    np.testing.assert_array_equal(store.images(), IMAGES)
    np.testing.assert_array_equal(store.masks(), MASKS)
    assert store.attributes == ATTRIBUTES


def test_a_flipped_bit_in_the_images_is_found(tmp_path, path):
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES[50].tobytes()) + 100] ^= 1
    (tmp_path / "slices.h5").write_bytes(content)
    with pytest.raises(InputError, match="does not match its checksum"):
        SliceStore.open(tmp_path / "slices.h5")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not HDF5", b"\0" * 4096])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "slices.h5").write_bytes(content)
    with pytest.raises(InputError, match="rematerialise the asset that wrote it"):
        SliceStore.open(tmp_path / "slices.h5")


def test_a_foreign_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = IMAGES
    with pytest.raises(InputError, match="lacks the format mark"):
        SliceStore.open(tmp_path / "other.h5")


def test_an_older_schema_is_refused_by_its_number(tmp_path, path):
    old = tmp_path / "real_slices" / "fold_0" / "slices.h5"
    old.parent.mkdir(parents=True)
    old.write_bytes(path.read_bytes())
    with h5py.File(old, "a") as file:
        file.attrs["schema_version"] = 0
    with pytest.raises(InputError, match="schema version 0, this code reads version 2; rematerialise real_slices"):
        SliceStore.open(old)


def test_pickling_carries_the_path_and_refuses_another_content(tmp_path):
    target = write(tmp_path / "slices.h5")
    frozen = pickle.dumps(SliceStore.open(target))
    assert len(frozen) < 1000
    np.testing.assert_array_equal(pickle.loads(frozen).masks([3, 1]), MASKS[[3, 1]])
    write(target, attributes=dataclasses.replace(ATTRIBUTES, seed=8))
    with pytest.raises(InputError, match="was replaced while in use"):
        pickle.loads(frozen)


def test_an_open_store_keeps_its_content_when_the_file_is_replaced(tmp_path):
    store = SliceStore.open(write(tmp_path / "slices.h5"))
    with SliceStoreWriter(tmp_path / "slices.h5", ATTRIBUTES) as writer:
        writer.append(IMAGES[:1], ring("infarct")[None], rows(1))
    np.testing.assert_array_equal(store.masks(), MASKS)


def test_the_layout_is_plain_hdf5(path):
    with h5py.File(path, "r") as file:
        assert file["images"].dtype == np.float16
        np.testing.assert_array_equal(file["images"][60:], IMAGES[60:])
        assert file["case_id"].asstr()[0] == "Fälle 1"

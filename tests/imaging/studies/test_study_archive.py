import dataclasses
import pickle
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.sources.emidec import read_emidec
from imaging.studies.archive import StudyArchive, check_compressed
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_emidec


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fake_emidec.write_root(tmp_path_factory.mktemp("emidec"))


@pytest.fixture(scope="module")
def studies(root):
    return list(read_emidec(root))


@pytest.fixture(scope="module")
def written(tmp_path_factory, studies):
    path = tmp_path_factory.mktemp("archive") / "studies.h5"
    write_studies(path, studies, EMIDEC_LABELS, "emidec")
    return path


@pytest.fixture
def copied(tmp_path, written):
    path = tmp_path / "studies.h5"
    path.write_bytes(written.read_bytes())
    return path


def write(path, items, **arguments):
    return write_studies(path, items, EMIDEC_LABELS, "emidec", **arguments)


def refused(study, tmp_path, studies, **changes):
    """Write `study` with changes beside sound ones, and return the reason it was rejected for."""
    changed = dataclasses.replace(study, case_id="Case_P999", **changes)
    summary = write(tmp_path / "studies.h5", [changed, *studies])
    (rejected,) = summary.rejected
    assert rejected.case_id == "Case_P999"
    return rejected.reason


def test_a_study_is_read_back_on_the_1_mm_grid_with_its_own_mask(written, studies):
    archive = StudyArchive.open(written)
    assert archive.keys() == [(study.case_id, "") for study in studies]
    for study in studies:
        prepared = archive.load(study.case_id, "")
        np.testing.assert_array_equal(prepared.native_mask, study.mask)
        np.testing.assert_array_equal(prepared.affine, study.affine)
        assert prepared.spacing_mm == study.spacing_mm == (10.0, 1.5, 1.5)
        assert prepared.image.shape == prepared.mask.shape == (3, 72, 60)
        assert (prepared.image.dtype, prepared.mask.dtype) == (np.float32, np.uint8)
        assert prepared.group == study.group
    assert (archive.source, archive.label_set, archive.rejected) == ("emidec", EMIDEC_LABELS, [])


def test_a_chunk_that_memory_did_not_suffice_to_compress_is_told(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        options = {"chunks": (1, 8, 8), "compression": "gzip"}
        file.create_dataset("sound", data=np.zeros((2, 8, 8), np.uint8), **options)
        file.create_dataset("as_it_is", (2, 8, 8), np.uint8, **options).id.write_direct_chunk((1, 0, 0), bytes(64), 1)
    with h5py.File(path) as file:
        check_compressed([file["sound"]])
        with pytest.raises(MemoryError, match="compress"):
            check_compressed([file["sound"], file["as_it_is"]])


def test_the_table_gives_volumes_of_the_studys_own_grid(written, studies):
    table = StudyArchive.open(written).table()
    assert table.columns.tolist() == [
        *("case_id", "frame", "group", "slices", "row_mm", "column_mm", "slice_mm"),
        *("ml_cavity", "ml_normal_myocardium", "ml_infarct", "ml_no_reflow"),
    ]
    for row, study in zip(table.itertuples(), studies, strict=True):
        assert row.ml_infarct == pytest.approx(np.sum(study.mask == 3) * 1.5 * 1.5 * 10 / 1000)
        assert (row.case_id, row.group, row.slices) == (study.case_id, study.group, 3)


def test_the_summary_counts_patients_a_group(tmp_path, studies, written):
    summary = write(tmp_path / "studies.h5", studies)
    assert summary.patients == {"normal": 4, "infarct": 4, "no_reflow": 4}
    assert summary.studies == 12
    assert summary.digest == StudyArchive.open(written).digest


def test_frames_belong_to_one_patient_with_the_worst_group(tmp_path, studies):
    normal, infarct = (next(s for s in studies if s.group == group) for group in ("normal", "infarct"))
    frames = [
        dataclasses.replace(infarct, case_id="patient001", frame="ED"),
        dataclasses.replace(normal, case_id="patient001", frame="ES"),
    ]
    write(tmp_path / "studies.h5", frames, minimum_patients=1)
    archive = StudyArchive.open(tmp_path / "studies.h5")
    assert archive.keys() == [("patient001", "ED"), ("patient001", "ES")]
    assert archive.groups() == {"patient001": "infarct"}


def test_the_same_content_has_the_same_digest_and_bytes_wherever_it_was_read(tmp_path, studies, written):
    moved = [dataclasses.replace(study, path=f"/elsewhere/{study.case_id}") for study in studies]
    write(tmp_path / "same.h5", moved)
    write(tmp_path / "backwards.h5", studies[::-1])
    assert (tmp_path / "same.h5").read_bytes() == written.read_bytes()
    digest = StudyArchive.open(written).digest
    assert StudyArchive.open(tmp_path / "backwards.h5").digest == digest


@pytest.mark.parametrize("field", ["case_id", "group", "spacing_mm", "affine", "image", "mask"])
def test_any_change_of_content_changes_the_digest(tmp_path, studies, written, field):
    study = studies[0]
    changed = {
        "case_id": "Case_N099",
        "group": "infarct",
        "spacing_mm": (10.5, 1.5, 1.5),
        "affine": np.eye(4),
        "image": study.image + np.eye(48, 40, dtype=np.float32),
        "mask": study.mask * (np.arange(3)[:, None, None] > 0).astype(np.uint8),
    }
    items = [dataclasses.replace(study, **{field: changed[field]}), *studies[1:]]
    assert write(tmp_path / "studies.h5", items).digest != StudyArchive.open(written).digest


def test_rejected_studies_are_kept_with_their_reasons(tmp_path, studies):
    rejected = RejectedStudy("Case_P500", "somewhere", "somewhere: truncated; copy it again")
    summary = write(tmp_path / "studies.h5", [rejected, *studies])
    assert summary.rejected == (rejected,)
    assert StudyArchive.open(tmp_path / "studies.h5").rejected == [rejected]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda s: {"image": np.full_like(s.image, np.nan)}, "NaN or infinite"),
        (lambda s: {"image": np.zeros_like(s.image)}, "every voxel of the image is 0"),
        (lambda s: {"image": s.image[:2]}, "differ in shape"),
        (lambda s: {"image": s.image[0], "mask": s.mask[0]}, r"shape \(48, 40\)"),
        (lambda s: {"image": s.image[:0], "mask": s.mask[:0]}, r"shape \(0, 48, 40\)"),
        (lambda s: {"mask": s.mask + 3}, r"label values \[5"),
        (lambda s: {"mask": np.minimum(s.mask, 1)}, "no voxel of the mask is myocardium"),
        (lambda _: {"spacing_mm": (10.0, float("nan"), 1.5)}, "spacing 10 x nan x 1.5 mm"),
        (lambda _: {"spacing_mm": (10.0, 1500.0, 1500.0)}, "spacing 10 x 1500 x 1500 mm .* not plausible"),
        (lambda _: {"affine": np.zeros((4, 4))}, "not an invertible"),
        (lambda _: {"group": "ill"}, "group 'ill'"),
        (lambda _: {"label_set": "cine"}, "label set is 'cine'"),
    ],
)
def test_a_study_that_cannot_be_used_is_rejected_with_its_reason(tmp_path, studies, changes, reason):
    found = refused(studies[5], tmp_path, studies, **changes(studies[5]))
    assert re.search(reason, found)
    assert studies[5].path in found


def test_a_second_study_of_the_same_patient_and_frame_is_rejected(tmp_path, studies):
    summary = write(tmp_path / "studies.h5", [*studies, dataclasses.replace(studies[0], path="again")])
    assert summary.studies == len(studies)
    (rejected,) = summary.rejected
    assert f"again: patient 'Case_N001', frame '' is there already, from {studies[0].path}" in rejected.reason


def test_too_few_patients_are_refused_with_the_reasons_and_nothing_is_left(tmp_path, studies):
    bad = [RejectedStudy(f"Case_P50{n}", "x", f"file{n}: truncated; copy it again") for n in range(5)]
    with pytest.raises(InputError) as caught:
        write(tmp_path / "studies.h5", [*bad, *studies[:4]])
    message = str(caught.value)
    assert "source 'emidec' has 4 usable patients, at least 5 are needed (5 rejected: file0" in message
    assert "file2: truncated; copy it again; and 2 more)" in message
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="has 0 usable patients"):
        write(tmp_path / "studies.h5", [])


def test_frames_do_not_count_as_patients(tmp_path, studies):
    frames = [dataclasses.replace(studies[0], frame=str(number)) for number in range(6)]
    with pytest.raises(InputError, match="has 1 usable patients"):
        write(tmp_path / "studies.h5", frames)


def test_an_error_of_the_source_leaves_the_old_archive(copied, studies):
    before = copied.read_bytes()

    def broken():
        yield studies[0]
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write(copied, broken())
    assert copied.read_bytes() == before
    assert [file.name for file in copied.parent.iterdir()] == ["studies.h5"]


def test_every_flipped_byte_is_found(copied):
    good = copied.read_bytes()
    rng = np.random.default_rng(0)
    positions = [0, 20, 100, 511, 512, 520, len(good) - 1, *rng.integers(0, len(good), 40).tolist()]
    for position in positions:
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(rng.integers(8))
        copied.write_bytes(damaged)
        with pytest.raises(InputError, match=r"studies\.h5: is not a readable.*rematerialise `studies`"):
            StudyArchive.open(copied)
    copied.write_bytes(good)
    StudyArchive.open(copied)


@pytest.mark.parametrize("kept", [0, 10, 512, 600, 5000, -1])
def test_a_truncated_or_longer_file_is_refused(copied, kept):
    good = copied.read_bytes()
    for content in (good[:kept], good + b"\0"):
        copied.write_bytes(content)
        with pytest.raises(InputError, match="rematerialise `studies`"):
            StudyArchive.open(copied)


def test_a_foreign_file_a_folder_and_nothing_are_refused(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["images"] = np.zeros(4)
    (tmp_path / "text.h5").write_text("hello")
    for name in ("foreign.h5", "text.h5", ".", "absent.h5"):
        with pytest.raises(InputError, match="rematerialise `studies`"):
            StudyArchive.open(tmp_path / name)


def test_an_archive_crosses_processes_and_notices_that_it_was_replaced(copied, studies):
    archive = pickle.loads(pickle.dumps(StudyArchive.open(copied)))
    assert archive.load("Case_P002", "").group == "no_reflow"
    with pytest.raises(InputError, match="no study of patient 'Case_P002', frame 'ES'"):
        archive.load("Case_P002", "ES")
    write(copied, studies[1:])
    with pytest.raises(InputError, match="was replaced while in use"):
        archive.load("Case_P002", "")


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files makes the system refuse writes as a full disk does."""
    script = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.studies.archive_writer import write_studies
from tests.imaging.studies.test_study_archive import noise
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_studies(Path({str(tmp_path)!r}) / "studies.h5", noise(8), EMIDEC_LABELS, "noise")
except InputError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "studies.h5: cannot be written" in done.stdout, done.stderr
    assert "free disk space" in done.stdout
    assert list(tmp_path.iterdir()) == []


def noise(count):
    """Studies that do not compress."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.normal(size=(4, 64, 64)).astype(np.float32)
        mask = rng.integers(0, 3, image.shape).astype(np.uint8)
        yield Study(f"P{number}", "", "normal", image, mask, (8.0, 1.0, 1.0), np.eye(4), "emidec", f"P{number}")


def test_a_cine_archive_has_cine_tissues(tmp_path):
    cine = [dataclasses.replace(study, label_set="cine", frame="ED") for study in noise(5)]
    write_studies(tmp_path / "studies.h5", cine, CINE_LABELS, "acdc")
    archive = StudyArchive.open(tmp_path / "studies.h5")
    assert archive.label_set == CINE_LABELS
    assert archive.table().columns[-2:].tolist() == ["ml_cavity", "ml_myocardium"]

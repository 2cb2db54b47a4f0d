"""What the program wrote is told from studies wherever folders are searched."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.files import EVERYTHING, MARK, Mark, foreign_files, mark_own, without_own
from imaging.phantom import PhantomConfig
from imaging.sources.files import listed, source_digest
from imaging.sources.nifti_studies import nifti_files
from imaging.volumes.new_studies import find_studies

PHANTOM = PhantomConfig()


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def test_a_mark_names_its_own_and_nothing_else(tmp_path: Path) -> None:
    mark_own(tmp_path, ["a [1].csv", "Käfer"], ["mlflow.db*"])
    mark_own(tmp_path, ["b.csv", "Käfer"])
    mark = Mark.of(tmp_path)
    assert all(mark.covers(name) for name in ("a [1].csv", "b.csv", "Käfer", "mlflow.db", "mlflow.db-wal", MARK))
    assert not any(mark.covers(name) for name in ("a 1.csv", "c.csv", "xmlflow.db", "käfer"))
    assert (tmp_path / MARK).read_text().count("Käfer") == 1


def test_a_folder_without_a_mark_holds_nothing_of_ours(tmp_path: Path) -> None:
    assert not Mark.of(tmp_path / "nowhere").covers("a.csv")
    touch(tmp_path / "a.csv", tmp_path / "folder" / MARK / "odd.csv")
    assert [path.name for path in without_own([tmp_path / "a.csv", tmp_path / "folder" / "x"])] == ["a.csv", "x"]


def test_our_own_folder_is_passed_over_with_all_it_holds(tmp_path: Path) -> None:
    touch(tmp_path / "P1" / "1.txt", tmp_path / "workspace" / "emidec" / "tiny" / "deep" / "er.h5")
    mark_own(tmp_path / "workspace" / "emidec" / "tiny", (), (EVERYTHING,))
    assert [path.name for path in foreign_files(tmp_path)] == ["1.txt"]


def test_results_do_not_change_the_digest_of_a_source(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "2.nii.gz", tmp_path / "a.nii.gz", tmp_path / "a" / "1.nii.gz")
    before = source_digest(tmp_path, PHANTOM)
    mark_own(tmp_path / "out", ["a.nii.gz"])
    touch(tmp_path / "out" / "a.nii.gz")
    assert source_digest(tmp_path, PHANTOM) == before
    touch(tmp_path / "out" / "not ours.nii.gz")
    assert source_digest(tmp_path, PHANTOM) != before


def test_the_digest_of_a_folder_without_results_is_that_of_all_its_files(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "2.txt", tmp_path / "a.txt", tmp_path / ".hidden" / "c.txt")
    assert source_digest(tmp_path, PHANTOM) == "3e256a42cf9a7cd21d99c88181d1846e78085d4db24cab1747160a146c8b2225"


def test_own_label_maps_are_no_new_studies_and_others_beside_them_are(tmp_path: Path) -> None:
    touch(tmp_path / "P1.nii.gz", tmp_path / "out" / "P1.nii.gz", tmp_path / "out" / "P2.nii.gz")
    mark_own(tmp_path / "out", ["P1.nii.gz"])
    assert [study.path.relative_to(tmp_path).as_posix() for study in find_studies([tmp_path])] == [
        "P1.nii.gz",
        "out/P2.nii.gz",
    ]
    (tmp_path / "out" / "P2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"out: holds neither.*ScarForge's own results do not count"):
        find_studies([tmp_path / "out"])
    assert [study.case_id for study in find_studies([tmp_path / "out" / "P1.nii.gz"])] == ["P1"]  # named, so wanted


def test_readers_of_sources_list_no_results(tmp_path: Path) -> None:
    touch(tmp_path / "P1.nii.gz", tmp_path / "P2.nii.gz", tmp_path / "P3.png", tmp_path / "P4.png")
    mark_own(tmp_path, ["P2.nii.gz", "P4.png"])
    assert [name for name, _ in nifti_files(tmp_path)] == ["P1"]
    assert [name for name, _ in nifti_files(tmp_path, own=True)] == ["P1", "P2"]
    assert [path.name for path in listed(tmp_path)] == ["P1.nii.gz", "P3.png"]

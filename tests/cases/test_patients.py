"""Files of one patient are one patient's, whatever they are called, or the names are refused."""

import re
import shlex
import unicodedata
from itertools import pairwise

import numpy as np
import pytest

from common.errors import InputError
from engine.settings import FOLDS, load_settings
from imaging.dataset_card import write_dataset_card
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.slices.regions import RegionConfig
from imaging.sources.config import SourceConfig
from imaging.sources.image_pairs import read_image_pairs
from imaging.sources.nifti_pairs import read_nifti_pairs
from imaging.sources.patient_names import FileName, Place, tell_patients
from imaging.sources.table import read_source
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.split import split_patients
from imaging.studies.study import RejectedStudy, Study
from segmentation.evaluation.label_maps import EMIDEC, find_label_maps
from tests.imaging.fake_emidec import SPACING_MM, write_case, write_nifti
from tests.imaging.fake_emidec import image_of as volume_of
from tests.imaging.fake_emidec import label_map as volume_labels
from tests.imaging.fake_image_pairs import image_of, label_map, write
from tests.imaging.fake_nifti_pairs import short_axis_affine, write_volume

SPACED = SourceConfig(spacing_mm=(8, 1.4, 1.4))


def places(names, is_volume=False, **config):
    return tell_patients([FileName(name, is_volume) for name in names], SourceConfig(**config), "folder X")


def write_pictures(root, names):
    for number, name in enumerate(names):
        write(root / "images" / f"{name}.png", image_of(label_map(number))[0])
        write(root / "masks" / f"{name}.png", label_map(number)[0])


def write_volumes(root, names):
    for name in names:
        write_volume(root / "images" / f"{name}.nii.gz", volume_of(volume_labels("Case_P001")))
        write_volume(root / "labels" / f"{name}.nii.gz", volume_labels("Case_P001"))


def told(studies):
    studies = list(studies)
    assert all(isinstance(study, Study) for study in studies), studies
    return [(study.case_id, study.frame) for study in studies]


@pytest.fixture(scope="module")
def cine(case):
    """Ten patients of two frames each, in the plain layout with ACDC's names."""
    return list(read_nifti_pairs(case("24") / "d", SourceConfig(label_set="cine")))


@pytest.fixture(scope="module")
def archive(cine, tmp_path_factory):
    path = tmp_path_factory.mktemp("cine") / "studies.h5"
    write_studies(path, cine, CINE_LABELS, "nifti")
    return StudyArchive.open(path)


def test_two_frames_of_a_patient_never_stand_on_both_sides_of_a_split(cine, archive):
    patients = [f"patient{number:03d}" for number in range(1, 11)]
    assert told(cine) == archive.keys() == [(patient, frame) for patient in patients for frame in ("01", "12")]
    splits = split_patients(archive.groups(), FOLDS, 0.15, 0)
    assert len(splits) == FOLDS
    for split in splits:
        parts = [set(split.train), set(split.validation), set(split.test)]
        for study in cine:
            stem = re.match("patient[0-9]+", study.path.rpartition("/")[2])[0]
            assert sum(stem in part for part in parts) == 1  # so both frames are in the same part
    assert sorted(patient for split in splits for patient in split.test) == patients


def test_the_dataset_card_lists_each_patients_frames_and_slices(archive, tmp_path):
    card = write_dataset_card(archive, tmp_path / "card.html", RegionConfig())
    first = card.patients.iloc[0].to_dict()
    assert first == {"case_id": "patient001", "group": "normal", "studies": 2, "frames": "01, 12", "slices": "9, 9"}
    page = (tmp_path / "card.html").read_text(encoding="utf-8")
    assert '<th scope="row">patient001</th>' in page
    assert "<td>01, 12</td>" in page


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["P01-00", "P01-01", "P02-00"], [("P01", "", 0), ("P01", "", 1), ("P02", "", 0)]),
        (["P01_0", "P01_1", "P02_0"], [("P01", "", 0), ("P01", "", 1), ("P02", "", 0)]),
        (["P01_img0", "P01_img1", "P02_img0"], [("P01", "", 0), ("P01", "", 1), ("P02", "", 0)]),
        (["P01_slice03", "P01_slice04"], [("P01", "", 3), ("P01", "", 4)]),
        (["P01-sl3", "P02-SLICE-4"], [("P01", "", 3), ("P02", "", 4)]),
        (["P1_ED_003", "P1_ES_003", "P2_ED_1"], [("P1", "ED", 3), ("P1", "ES", 3), ("P2", "ED", 1)]),
        (["case-12_ED", "case-12_ES"], [("case-12", "ED", None), ("case-12", "ES", None)]),
        (["p1_frame1_slice2", "p1_slice2_frame12"], [("p1", "01", 2), ("p1", "12", 2)]),
        (["P1/000", "P2/000"], [("P1", "", 0), ("P2", "", 0)]),
        (["P1/ED/00", "P1_ES/ab7", "P1/frame03_5"], [("P1", "ED", 0), ("P1", "ES", 7), ("P1", "03", 5)]),
        (["PAT1/DICOM/SE1/IM3", "PAT2/DICOM/SE1/IM3"], [("PAT1", "", 3), ("PAT2", "", 3)]),
        (["training/P1/0", "testing/P2/0"], [("P1", "", 0), ("P2", "", 0)]),
    ],
)
def test_pictures_names_tell_patient_frame_and_slice(names, expected):
    assert list(places(names).values()) == [Place(*one) for one in expected]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["patient001_frame01", "patient001_frame12"], [("patient001", "01"), ("patient001", "12")]),
        (["case-12_ED", "case-12_ES"], [("case-12", "ED"), ("case-12", "ES")]),
        (["P1_end_diastole", "P1-systole", "P1phase3"], [("P1", "ED"), ("P1", "ES"), ("P1", "03")]),
        (["patient001", "patient002"], [("patient001", ""), ("patient002", "")]),
        (["patient_1", "patient_2"], [("patient_1", ""), ("patient_2", "")]),
        (["Case_P001", "Case_N001"], [("Case_P001", ""), ("Case_N001", "")]),
        (["LGE_smith", "LGE_jones"], [("LGE_smith", ""), ("LGE_jones", "")]),
        (["3f9ab2", "3c01ed", "550e8400-e29b"], [("3f9ab2", ""), ("3c01ed", ""), ("550e8400-e29b", "")]),
        (["P01/LGE", "P02/LGE"], [("P01", ""), ("P02", "")]),
    ],
)
def test_volumes_names_tell_patient_and_frame(names, expected):
    assert [(place.patient, place.frame) for place in places(names, is_volume=True).values()] == expected


REFUSED = [
    (["patient_01", "patient_02", "patient_03"], False, r"slices of one patient \(patient\), as they differ in a last"),
    (["P1_0", "P1_1", "P1_2"], False, r"slices of one patient \(P1\)"),
    (["P01", "P02", "P03"], False, r"3 patients \(P01, P02, P03\) of one slice, as no name has a second one"),
    (["P01-00", "P02-00", "P03-00"], False, r"3 patients \(P01, P02, P03\) of one slice"),
    (["img001", "img002"], False, r"2 patients \(img001, img002\) of one slice"),
    (["001", "002", "103"], False, r"3 patients \(001, 002, 103\) of one slice"),
    (["P01_00_img", "P01_01_img", "P02_00_img"], False, "3 patients .* of one slice"),
    (["scan-a", "scan-b"], False, r"2 patients \(scan-a, scan-b\) of one slice"),
    (["P01", "P02", "smith"], False, r"3 patients \(P01, P02, smith\) of one slice"),
    (["P1_0", "P1_1", "P2_0", "Q3", "Q4"], False, r"2 patients \(Q3, Q4\) of one slice"),
    (["P01_1_00", "P01_1_01", "P01_2_00", "P02_1_00"], False, r"2 patients \(P01_1, P01_2\), whose names begin alike"),
    (["P01_a", "P01_b", "P02_a"], True, r"2 patients \(P01_a, P01_b\), whose names begin alike"),
    (["P01", "P01_rescan", "P02"], True, "whose names begin alike"),
    (["P01a", "P01b", "P02a"], True, "whose names begin alike"),
    (["P1scan1", "P1scan2", "P2scan1"], True, "whose names begin alike"),
    (["P1_x", "p01", "P2"], True, r"2 patients \(P1_x, p01\), whose names begin alike"),
    (["smith_a", "smith_b", "jones_a"], True, "whose names begin alike"),
    (["MRI_smith_a", "MRI_smith_b", "MRI_jones"], True, "whose names begin alike"),
    (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], True, "whose names begin alike"),
    (["a/s1/0", "a/s2/0", "b/s1/0"], False, r"1 patient \(a\) with several folders each"),
]


@pytest.mark.parametrize(("names", "is_volume", "taken"), REFUSED)
def test_names_that_can_be_read_in_two_ways_are_refused_with_remedies_that_work(names, is_volume, taken):
    with pytest.raises(InputError, match=taken) as refusal:
        places(names, is_volume)
    line = str(refusal.value)
    assert line.startswith("folder X: names do not tell which files are of one patient")
    assert "\n" not in line
    words = shlex.split(line)
    settings = [word.rstrip(",") for before, word in pairwise(words) if before == "--set"]
    alone, by_pattern = (load_settings("quick", [setting]).source for setting in settings)
    assert len({place.patient for place in places(names, is_volume, **alone.model_dump()).values()}) >= len(names) - 1
    patients = {place.patient for place in places(names, is_volume, **by_pattern.model_dump()).values()}
    assert 1 <= len(patients) <= len(names)


def test_a_refusal_shows_five_names_and_how_many_more():
    with pytest.raises(InputError) as refusal:
        places([f"P{number:03d}" for number in range(1, 13)])
    assert "P001, P002, P003, P004, P005 and 7 more would be taken for 12 patients" in str(refusal.value)


def test_frames_or_slices_without_a_patient_are_refused():
    with pytest.raises(InputError, match="name no patient"):
        places(["frame01", "frame02"], is_volume=True)


def test_pictures_and_volumes_are_refused_alike_until_it_is_said_that_each_is_a_patient(tmp_path):
    names = [f"P{number:02d}" for number in range(1, 4)]
    write_pictures(tmp_path / "pictures", names)
    for name in names:
        mask = volume_labels("Case_P001")[..., :1]
        write_volume(tmp_path / "volumes" / "images" / f"{name}.nii.gz", volume_of(mask))
        write_volume(tmp_path / "volumes" / "labels" / f"{name}.nii.gz", mask)
    alone = {"one_slice_per_patient": True, "spacing_mm": (8, 1.4, 1.4)}
    for read, root in ((read_image_pairs, "pictures"), (read_nifti_pairs, "volumes")):
        with pytest.raises(InputError, match=r"P01, P02, P03 would be taken for 3 patients .* of one slice"):
            read(tmp_path / root, SPACED)
        assert told(read(tmp_path / root, SourceConfig(**alone))) == [(name, "") for name in names]


def test_pictures_are_studies_by_patient_and_frame(tmp_path):
    write_pictures(tmp_path, ["P01-00", "P01-01", "P02_ED_0", "P02_ED_1", "P02_ES_0", "P03/00", "P03/01"])
    studies = list(read_image_pairs(tmp_path, SPACED))
    assert told(studies) == [("P01", ""), ("P02", "ED"), ("P02", "ES"), ("P03", "")]
    assert [len(study.image) for study in studies] == [2, 2, 1, 2]


def test_a_pattern_decides(tmp_path):
    write_pictures(tmp_path, ["x7-P01-z-0", "x7-P01-a-1", "x8-P01-z-0", "x8-P02-z-0"])
    config = SourceConfig(spacing_mm=(8, 1, 1), patient_pattern=r"(?P<frame>x\d)-(?P<patient>P\d+)-.-(?P<slice>\d)")
    studies = list(read_image_pairs(tmp_path, config))
    assert told(studies) == [("P01", "x7"), ("P01", "x8"), ("P02", "x8")]
    assert [len(study.image) for study in studies] == [2, 1, 1]


def test_a_pattern_sees_the_folders_and_leaves_slices_to_the_last_number():
    found = places(["siteA/P1/0", "siteA/P1/1", "siteB/P1/0"], patient_pattern=r"(?P<patient>.+)/\d+")
    assert list(found.values()) == [Place("siteA_P1", "", 0), Place("siteA_P1", "", 1), Place("siteB_P1", "", 0)]


def test_names_that_a_pattern_does_not_match_are_one_line_and_the_others_are_read(tmp_path):
    write_volumes(tmp_path, ["P01_a", "P02_a", *(f"other{number}" for number in range(8))])
    *studies, odd = read_nifti_pairs(tmp_path, SourceConfig(patient_pattern=r"(?P<patient>P\d+)_(?P<frame>\w+)"))
    assert told(studies) == [("P01", "a"), ("P02", "a")]
    assert isinstance(odd, RejectedStudy)
    assert "does not match other0, other1, other2, other3, other4 and 3 more; widen it" in odd.reason


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(?P<patient>P", r"setting 'source.patient_pattern'.* is no regular expression \(missing \)"),
        (r"P\d+", r"has no group called 'patient'; write one, as in '\(\?P<patient>"),
        ("(?P<patient>.+)_(?P<visit>.+)", "has a group visit; known are patient, frame, slice"),
    ],
)
def test_a_bad_pattern_is_one_line_at_once(pattern, expected):
    with pytest.raises(InputError, match=expected) as refusal:
        load_settings("quick", [f"source.patient_pattern={pattern}"])
    assert "\n" not in str(refusal.value)


def test_a_pattern_that_matches_nothing_is_one_line():
    with pytest.raises(
        InputError, match=r"'\(\?P<patient>X.+\)' matches no name as a whole, such as P1_0, P2_0; correct"
    ):
        places(["P1_0", "P2_0"], patient_pattern="(?P<patient>X.+)")
    with pytest.raises(InputError, match="takes 'a' in 'P1_a' for a slice; let it match a number"):
        places(["P1_a"], patient_pattern="(?P<patient>.+)_(?P<slice>.+)")
    with pytest.raises(ValueError, match="say two things; give one of them"):
        SourceConfig(patient_pattern="(?P<patient>.+)", one_slice_per_patient=True)


@pytest.mark.parametrize("setting", [{"patient_pattern": "(?P<patient>.+)"}, {"one_slice_per_patient": True}])
@pytest.mark.parametrize("source", ["phantom", "lvquan18"])
def test_a_rule_for_names_is_refused_where_no_name_tells_a_patient(tmp_path, source, setting):
    with pytest.raises(InputError, match=f"would change nothing: no name tells the patients of source {source!r}"):
        read_source(source, tmp_path, None, SourceConfig(**setting))


def test_the_folders_of_published_sets_are_told_apart_alike(tmp_path):
    for name in ("Case_P001_rescan", "Case_P001", "Case_P002"):
        write_case(tmp_path, name[:9]).rename(tmp_path / name)
    for path in [*(tmp_path / "Case_P001_rescan").rglob("*.nii.gz")]:
        path.rename(path.with_name("Case_P001_rescan.nii.gz"))
    with pytest.raises(
        InputError, match=r"EMIDEC folder .*: Case_P001, Case_P001_rescan would be taken for 2 patients"
    ):
        read_source("emidec", tmp_path, None)
    pattern = SourceConfig(patient_pattern=r"(?P<patient>Case_P\d+)(?:_(?P<frame>.+))?")
    assert told(read_source("emidec", tmp_path, None, pattern)) == [
        ("Case_P001", ""),
        ("Case_P001", "rescan"),
        ("Case_P002", ""),
    ]


def test_two_volumes_of_one_patient_and_frame_are_named(tmp_path):
    write_volumes(tmp_path, ["P01/a", "P01/b", "P02/a", "P03_frame1", "P03_frame01"])
    first, second, third = read_nifti_pairs(tmp_path, SourceConfig())
    assert "a.nii.gz, b.nii.gz are all of patient 'P01'; keep one of them, or name their frames" in first.reason
    assert told([second]) == [("P02", "")]
    assert "all of patient 'P03', frame '01'" in third.reason


def test_niftis_of_one_slice_each_are_one_study_in_the_order_of_their_numbers(tmp_path):
    mask = volume_labels("Case_P001")
    for number in range(3):
        affine = short_axis_affine()
        affine[:3, 3] += number * affine[:3, 2]
        for part, data in (("images", volume_of(mask)), ("labels", mask)):
            path = tmp_path / part / f"P01_slice{number + 9}.nii.gz"
            write_nifti(path, data[..., number : number + 1], SPACING_MM, affine)
    (study,) = read_nifti_pairs(tmp_path, SourceConfig())
    assert told([study]) == [("P01", "")]
    np.testing.assert_array_equal(study.mask, mask.transpose())


def test_a_folder_a_patient_holds_volumes_too(tmp_path):
    write_volumes(tmp_path, ["P01/LGE", "P02/LGE", "P03/ED/scan", "P03/ES/scan"])
    assert told(read_nifti_pairs(tmp_path, SourceConfig())) == [("P01", ""), ("P02", ""), ("P03", "ED"), ("P03", "ES")]


def test_names_are_read_or_one_line_each_and_nothing_is_passed_over(case):
    found = list(read_nifti_pairs(case("18") / "d", SourceConfig()))
    read = [study.case_id for study in found if isinstance(study, Study)]
    assert read == [" lead", "-rf", "Müller", "NA", "case", "img", "sub-01_ses-1_LGE", "upper", "x.y.z"]
    assert all(unicodedata.is_normalized("NFC", name) for name in read)
    reasons = {study.path.rpartition("/")[2]: study.reason for study in found if isinstance(study, RejectedStudy)}
    assert all("\n" not in reason for reason in reasons.values())
    assert "has ';' in the name; rename" in reasons["a,b;c.nii.gz"]
    assert r"has '\n' in the name; rename" in reasons[r"new\nline.nii.gz"]
    assert "not a readable NIfTI file" in reasons["plain.nii.gz"]
    assert "is half of a pair and not read; save the pair as one .nii.gz" in reasons["pair.hdr"]
    seen = {study.path.rpartition("/")[2] for study in found}
    images = {path.name.replace("\n", r"\n") for path in (case("18") / "d" / "images").iterdir()}
    assert images <= seen


def test_what_looks_like_an_image_and_is_not_read_has_its_line(tmp_path):
    write_volumes(tmp_path, ["P01", "P02"])
    for name in ("images/P03.mha", "more/P04.nii.gz", "P05.nrrd", *(f"images/p{n}.png" for n in range(9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in ("notes.txt", "images/.hidden.png", "more/table.csv"):
        (tmp_path / name).write_bytes(b"")
    rejected = [study for study in read_nifti_pairs(tmp_path, SourceConfig()) if isinstance(study, RejectedStudy)]
    assert [study.case_id for study in rejected] == ["P05", "P03", "p0, p1, p2, p3, p4 and 4 more", "P04"]
    assert "9 files .png (p0.png, p1.png, p2.png, p3.png, p4.png and 4 more) are not read; save" in rejected[2].reason


def test_a_mask_without_an_image_makes_no_patient(tmp_path):
    write_volumes(tmp_path, ["P01", "P02"])
    (tmp_path / "labels" / "P01.nii.gz").rename(tmp_path / "labels" / "P01_scar.nii.gz")
    first, second, third = read_nifti_pairs(tmp_path, SourceConfig())
    assert "its mask is missing" in first.reason
    assert "P01_scar.nii.gz: its image is missing" in second.reason
    assert isinstance(third, Study)


def test_text_in_utf16_is_read_and_a_folder_called_like_a_file_is_one_line(case):
    emidec = {study.case_id: study for study in read_source("emidec", case("20") / "e", None)}
    for patient in ("Case_P001", "Case_P002", "Case_P003", "Case_P005"):
        assert emidec[patient].clinical["age"] == "55"
        assert emidec[patient].clinical["ntprobnp"] == "12 µg"
    assert emidec["Case_P001"].label_set == EMIDEC_LABELS.name
    acdc = list(read_source("acdc", case("20") / "a", None))
    assert [study.frame for study in acdc if study.case_id == "patient002"] == ["ED", "ES"]
    assert {study.clinical["ed"] for study in acdc if study.case_id == "patient002"} == {"1"}
    (odd,) = (study for study in acdc if study.case_id == "patient010")
    assert "patient010_frame01.nii.gz is missing: a folder is called so; put the file in its place" in odd.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_clinical_text_is_read_in_each_encoding(tmp_path, encoding):
    write_case(tmp_path, "Case_P001")
    (tmp_path / "Case P001.txt").write_bytes("Sex : M\r\nNTProBNP : 12 µg\r\n".encode(encoding))
    (tmp_path / "clinical.csv").write_bytes("case_id,note\r\nCase_P001,µ\r\n".encode(encoding))
    (study,) = read_source("emidec", tmp_path, None)
    assert dict(study.clinical) == {"note": "µ", "sex": "M", "ntprobnp": "12 µg"}


def test_label_maps_to_be_scored_are_found_in_either_form(tmp_path):
    names = [unicodedata.normalize(form, f"Case_é{number}") for number, form in enumerate(("NFC", "NFD"))]
    for name in names:
        write_nifti(tmp_path / name / "Contours" / f"{name}.nii.gz", volume_labels("Case_P001"))
    assert sorted(find_label_maps(tmp_path, EMIDEC, "reference").files) == ["Case_é0", "Case_é1"]


def test_the_patients_of_published_sets_are_in_composed_letters(tmp_path):
    write_case(tmp_path, "Case_P001")
    for path in sorted(tmp_path.rglob("*P001*"), reverse=True):
        form = "NFD" if path.suffix == ".gz" else "NFC"
        path.rename(path.with_name(unicodedata.normalize(form, path.name.replace("P001", "Pé001"))))
    (study,) = read_source("emidec", tmp_path, None)
    assert told([study]) == [("Case_Pé001", "")]

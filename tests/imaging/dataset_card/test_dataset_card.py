import dataclasses
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.dataset_card import page as card_module
from imaging.dataset_card.cautions import dataset_warnings
from imaging.dataset_card.facts import study_facts
from imaging.dataset_card.page import patients_pictured, pooled_density, write_dataset_card
from imaging.dataset_card.summary import (
    clinical_table,
    extent_table,
    matrix_table,
    spacing_table,
    tissue_table,
    volume_table,
)
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, LABEL_SETS, patient_group
from imaging.phantom import PhantomConfig, read_phantom
from imaging.slices.regions import RegionConfig
from imaging.sources.emidec import read_emidec
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import prepare_study
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_emidec
from tests.real_data import real_data

REGION = RegionConfig(size_px=64)
CASES = ("Case_N001", "Case_N002", "Case_P001", "Case_P002")
ODD = {"Case_P901": "foreign_label", "Case_P902": "negative_spacing"}


def square_map(shape=(3, 100, 100), side=30, top=35, left=35):
    """Cavity inside a square of myocardium, in every slice."""
    mask = np.zeros(shape, np.uint8)
    mask[:, top : top + side, left : left + side] = 2
    mask[:, top + 5 : top + side - 5, left + 5 : left + side - 5] = 1
    return mask


def study(case_id="P1", frame="", mask=None, seed=0, spacing_mm=(10.0, 1.0, 1.0), labels=EMIDEC_LABELS, clinical=None):
    mask = square_map() if mask is None else mask
    noise = np.random.default_rng([seed, *f"{case_id} {frame}".encode()]).normal(0, 20, mask.shape)
    return Study(
        case_id=case_id,
        frame=frame,
        group=patient_group(mask, labels),
        image=(np.array([300.0, 700.0, 250.0, 1200.0, 400.0])[mask] + noise).astype(np.float32),
        mask=mask,
        spacing_mm=spacing_mm,
        affine=np.eye(4),
        label_set=labels.name,
        path=f"/data/{case_id}",
        clinical=clinical or {},
    )


def moved_map(number):
    """No two patients have the same label map."""
    return square_map(side=30 + number % 3, left=33 + number // 3)


def cohort(count=6, **arguments):
    return [study(f"P{number}", mask=moved_map(number), **arguments) for number in range(count)]


def card_of(folder, items, labels=EMIDEC_LABELS, source="emidec", region=REGION):
    write_studies(folder / "studies.h5", items, labels, source, minimum_patients=1)
    card = write_dataset_card(StudyArchive.open(folder / "studies.h5"), folder / "card.html", region)
    return card, (folder / "card.html").read_text(encoding="utf-8")


def facts_of(studies):
    return [study_facts(prepare_study(item), LABEL_SETS[item.label_set], REGION) for item in studies]


def warned(studies, rejected=0):
    labels = LABEL_SETS[studies[0].label_set]
    groups = {item.case_id: item.group for item in studies}
    return dataset_warnings(facts_of(studies), groups, labels, REGION, rejected)


class Page(HTMLParser):
    """Element names, attributes and text of a page; fails on elements that are not closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def attributes(self, *names):
        return [attrs[name] for _, attrs in self.elements for name in names if name in attrs]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    root = fake_emidec.write_root(folder / "source", CASES)
    for case_id, oddity in ODD.items():
        fake_emidec.ODDITIES[oddity][0](root, case_id)
    return *card_of(folder, read_emidec(root)), folder


def test_patients_studies_and_slices_are_counted_by_group(written):
    groups = written[0].groups.set_index("group")
    assert groups["patients"].to_dict() == {"normal": 2, "infarct": 1, "no_reflow": 1, "all": 4}
    assert groups["slices"].to_dict() == {"normal": 6, "infarct": 3, "no_reflow": 3, "all": 12}
    assert groups.loc["all", ["slices_minimum", "slices_median", "slices_maximum"]].tolist() == [3, 3, 3]
    assert written[0].frames.empty


def test_volumes_are_those_of_the_label_maps(written):
    volumes = written[0].volumes_ml.set_index(["tissue", "group"])
    voxel_ml = 1.5 * 1.5 * 10 / 1000
    counts = {case: np.bincount(fake_emidec.label_map(case).ravel(), minlength=5) * voxel_ml for case in CASES}
    assert volumes.loc[("infarct", "infarct"), "median"] == pytest.approx(counts["Case_P001"][3])
    assert volumes.loc[("infarction", "no_reflow"), "maximum"] == pytest.approx(counts["Case_P002"][3:].sum())
    normal = [counts["Case_N001"][1], counts["Case_N002"][1]]
    spread = volumes.loc[("cavity", "normal"), ["minimum", "quartile_1", "median", "quartile_3", "maximum"]]
    np.testing.assert_allclose(spread.astype(float), np.percentile(normal, [0, 25, 50, 75, 100]))
    assert volumes.loc[("no_reflow", "all"), ["studies", "with_tissue", "minimum"]].tolist() == [4, 1, 0]


def test_spacing_lists_distinct_values_with_their_studies():
    spacings = [(10.0, 1.25, 1.25), (10.0, 1.25, 1.25), (8.0, 1.40625, 1.40625)]
    facts = facts_of([study(f"P{place}", spacing_mm=spacing) for place, spacing in enumerate(spacings)])
    table = spacing_table(facts).set_index("between")
    assert table.loc["slices"].tolist() == [2, 8, 10, 10, "10 (2), 8 (1)"]
    assert table.loc["rows", "commonest"] == table.loc["columns", "commonest"] == "1.25 (2), 1.406 (1)"
    many = spacing_table(facts_of([study(spacing_mm=(5.0 + n, 1.0, 1.0)) for n in range(7)]))
    assert many.loc[0, "commonest"] == "5 (1), 6 (1), 7 (1), 8 (1) and 3 more"


def test_matrix_and_extent_are_those_of_field_and_labels():
    facts = facts_of([study(mask=square_map((2, 80, 90), side=30), spacing_mm=(10.0, 2.0, 1.0)), *cohort(2)])
    assert matrix_table(facts).to_dict("records") == [
        {"rows": 100, "columns": 100, "studies": 2},
        {"rows": 80, "columns": 90, "studies": 1},
    ]
    extent = extent_table(facts).set_index("extent")
    assert extent.loc["field of view, height", "maximum"] == 160
    assert extent.loc["field of view, width", "minimum"] == 90
    assert extent.loc["labels, height", "maximum"] == 60
    assert extent.loc["labels, width", "median"] == 30


def test_tissues_are_counted_where_they_are_and_shares_are_those_of_the_regions():
    mask = square_map()
    mask[0, 40:45, 35:40] = 3
    mask[2] = 0
    table = tissue_table(facts_of([study(mask=mask)]), EMIDEC_LABELS).set_index("tissue")
    assert table.index.tolist() == list(EMIDEC_LABELS.tissues)
    assert table["slices"].tolist() == [3, 2, 2, 1, 0]
    assert table.loc["infarct", "share_of_slices"] == pytest.approx(1 / 3)
    assert table.loc["cavity", "share_of_region"] == pytest.approx(2 * 400 / (3 * 64 * 64))
    assert table["share_of_region"].sum() == pytest.approx(1)


def test_windowed_intensities_cover_every_pixel_inside_the_image_once():
    near_the_edge = study(mask=square_map(top=0))
    (facts,) = facts_of([near_the_edge])
    rows_inside = 64 - (64 // 2 - 15)
    assert facts.windowed_counts.sum() == 3 * 64 * rows_inside
    assert facts.padding == pytest.approx(1 - rows_inside / 64)
    np.testing.assert_array_equal(facts.windowed_counts.sum(axis=1)[1:], facts.region_pixels[1:])


def test_every_study_weighs_the_same_in_the_pooled_distribution():
    small, large = study("A", mask=square_map((1, 100, 100))), study("B", mask=square_map((9, 100, 100)))
    facts = facts_of([small, dataclasses.replace(large, image=large.image + 10000)])
    lowest, highest = facts[0].image_edges[0], facts[1].image_edges[-1]
    np.testing.assert_allclose(pooled_density(facts, np.array([lowest, 5000.0, highest])), [0.5, 0.5])


def test_percentiles_are_those_of_the_whole_image():
    item = study()
    (facts,) = facts_of([item])
    np.testing.assert_allclose(facts.intensities, np.percentile(item.image, [2, 50, 98]), rtol=1e-5)
    assert facts.image_counts.sum() == item.image.size


def test_a_sound_cohort_gives_no_warning():
    assert warned(cohort()) == []


def _gap(mask):
    mask = mask.copy()
    mask[1] = 0
    return mask


def _with_image(item, change):
    return dataclasses.replace(item, image=change(item.image).astype(np.float32))


EXTRA = {
    "touches_the_border": (study("X", mask=square_map(top=0)), r"touch the border .* 1 of 7 studies.*: X \(top\)"),
    "larger_than_the_region": (study("X", mask=square_map(side=65, top=9, left=9)), r"do not fit .* 64 mm.*X \(65 mm"),
    "tight_for_jitter": (study("X", mask=square_map(side=60)), r"jitter of 4 mm can move labels out.*X \(60 mm\)"),
    "padded": (study("X", mask=square_map(left=2)), r"reaches beyond the image.*X \(23 %\)"),
    "saturated": (
        _with_image(study("X", mask=square_map(side=29)), lambda image: np.minimum(image, 690)),
        r"saturated in 1 of 7 studies.*X \(\d\.\d %\)",
    ),
    "no_contrast": (
        _with_image(
            study("X", mask=square_map(side=29)), lambda image: 1.0 * (np.arange(image.size) == 0).reshape(image.shape)
        ),
        r"no contrast in 1 of 7 studies: X",
    ),
    "slice_spacing": (study("X", mask=square_map(side=29), spacing_mm=(20.0, 1.0, 1.0)), r"between slices .* X \(20\)"),
    "uneven_pixels": (
        study("X", mask=square_map(side=29), spacing_mm=(10.0, 1.0, 1.2)),
        r"not square in 1 of 7.*X \(1 x 1.2\)",
    ),
    "small_myocardium": (
        study("X", mask=square_map((1, 100, 100))),
        r"all myocardium .* median of 1\d\.?\d* mL .* X \(5\)",
    ),
    "single_slice": (study("X", mask=square_map((1, 100, 100))), "only one slice in 1 of 7 studies: X"),
    "slice_without_label": (study("X", mask=_gap(square_map())), r"carry no label in 1 of 7 studies.*: X \(1\)"),
    "gap": (study("X", mask=_gap(square_map())), "lies between labelled ones in 1 of 7 studies: X"),
    "same_image": (dataclasses.replace(cohort()[2], case_id="X"), "same image, voxel for voxel.*: P2 = X"),
    "same_label_map": (study("X", mask=moved_map(2)), "same label map, voxel for voxel.*: P2 = X"),
    "small_group": (study("X", mask=np.where(square_map() == 2, 3, 0).astype(np.uint8)), "infarct has only 1 patient:"),
    "fewer_frames": (
        study("P2", frame="ES", mask=square_map(side=29)),
        r"5 patients have fewer frames than the others' 2; .*: P0 \(1\), P1 \(1\), P3 \(1\), P4",
    ),
}


@pytest.mark.parametrize("oddity", EXTRA)
def test_a_warning_names_the_study_that_it_is_about(oddity):
    item, expected = EXTRA[oddity]
    assert [text for text in warned([*cohort(), item]) if re.search(expected, text)]


def test_a_label_that_vanishes_on_the_1_mm_grid_is_a_warning():
    mask = np.zeros((2, 300, 300), np.uint8)
    mask[0, 151, 151] = 2
    item = study("X", mask=mask, spacing_mm=(10.0, 0.2, 0.2))
    assert any("No label is left on the 1 mm grid in 1 of 1 study: X" in text for text in warned([item]))


def test_many_studies_are_counted_after_the_first_eight():
    (text,) = [text for text in warned(cohort(12, spacing_mm=(10.0, 1.0, 1.3))) if "not square" in text]
    assert text.endswith("P7 (1 x 1.3) and 4 more.")
    assert "12 of 12 studies" in text


def test_rejected_studies_are_on_the_page_with_their_reasons(written):
    card, page, _ = written
    assert card.rejected["case_id"].tolist() == list(ODD)
    assert any(text.startswith("2 studies of the source could not be used") for text in card.warnings)
    text = Page(page).text
    for case_id, reason in card.rejected.itertuples(index=False):
        assert case_id in text
        assert reason in text


def test_the_page_holds_what_the_card_says(written):
    card, page, _ = written
    text = Page(page).text
    assert card.digest in text
    assert all(warning in text for warning in card.warnings)
    assert all(case_id in text for case_id in CASES)
    assert "gap between slices" in text
    assert set(card.tables) >= {"groups", "volumes_ml", "spacing", "rejected"}


def test_the_page_needs_nothing_but_itself_and_every_picture_has_a_text(written):
    page = Page(written[1])
    assert all(address.startswith(("data:image/", "#")) for address in page.attributes("src", "href"))
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(pictures) == len(CASES) + 2
    assert all(attrs["alt"] for attrs in pictures)
    anchors = {address[1:] for address in page.attributes("href")}
    assert anchors <= set(page.attributes("id"))
    assert len(page.attributes("id")) == len(set(page.attributes("id")))


def test_every_row_of_a_table_has_a_cell_for_every_column(written):
    tables = re.findall(r"<table\b.*?</table>", written[1], flags=re.DOTALL)
    assert len(tables) >= 9
    for table in tables:
        columns = len(re.findall(r'scope="col"', table))
        for row in re.findall(r"<tr>(.*?)</tr>", table.partition("</thead>")[2], flags=re.DOTALL):
            assert len(re.findall(r"<t[dh]\b", row)) == columns
        for spanned in re.findall(r'<tr class="group"><th scope="rowgroup" colspan="(\d+)">', table):
            assert int(spanned) == columns


def test_the_same_archive_gives_the_same_bytes_and_leaves_nothing_behind(written, tmp_path):
    _, page, folder = written
    write_dataset_card(StudyArchive.open(folder / "studies.h5"), tmp_path / "deep" / "again.html", REGION)
    assert (tmp_path / "deep" / "again.html").read_text(encoding="utf-8") == page
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["again.html"]


def test_text_from_the_data_is_inert(tmp_path):
    script, image = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
    names = (script, "Müller–Żółć 心", "{{ 7 * 7 }}", "$x^")
    items = [study(name, frame=image, mask=moved_map(n), clinical={image: script}) for n, name in enumerate(names)]
    items.append(RejectedStudy(script, "", "lone \udcff surrogate"))
    page = Page(card_of(tmp_path, items)[1])
    assert "script" not in [tag for tag, _ in page.elements]
    assert page.attributes("onerror") == []
    assert all(address.startswith(("data:image/", "#")) for address in page.attributes("src", "href"))
    for expected in (script, image, "Müller–Żółć 心", r"lone \udcff surrogate", "{{ 7 * 7 }}"):
        assert expected in page.text


def test_cine_studies_are_shown_by_frame(tmp_path):
    maps = {"ED": square_map(side=40, top=30, left=30), "ES": square_map(side=30)}
    items = [
        study(f"patient{number}", frame, mask, labels=CINE_LABELS)
        for number in range(3)
        for frame, mask in maps.items()
    ]
    card, page = card_of(tmp_path, items, CINE_LABELS, "acdc")
    assert card.frames[["frame", "patients", "slices"]].to_numpy().tolist() == [["ED", 3, 9], ["ES", 3, 9]]
    assert card.groups["group"].tolist() == ["normal", "all"]
    assert card.groups["patients"].tolist() == [3, 3]
    cavity = card.volumes_ml.set_index(["tissue", "frame"]).loc["cavity", "median"]
    np.testing.assert_allclose(cavity.loc[["ED", "ES"]], [3 * 900 * 0.01, 3 * 400 * 0.01])
    assert "infarct" not in re.sub("no-reflow, else infarct", "", " ".join(Page(page).text.split()))


def test_numbered_frames_come_in_their_order():
    items = [study("P1", frame, labels=CINE_LABELS) for frame in ("10", "2", "1")]
    table = volume_table(facts_of(items), {"P1": "normal"}, CINE_LABELS)
    assert table.loc[table["tissue"] == "cavity", "frame"].tolist() == ["1", "2", "10"]


def test_single_slices_make_a_card(tmp_path):
    card, page = card_of(tmp_path, [study(f"P{n}", mask=moved_map(n)[:1]) for n in range(2)], source="image_pairs")
    assert card.groups.set_index("group").loc["all", ["slices", "slices_maximum"]].tolist() == [2, 1]
    assert "slice 1 of 1" in Page(page).text
    assert any("only one slice in 2 of 2 studies: P0, P1" in text for text in card.warnings)


def test_studies_without_contrast_cost_no_card(tmp_path):
    item = EXTRA["no_contrast"][0]
    card, page = card_of(tmp_path, [item])
    assert any("no contrast in 1 of 1 study: X" in text for text in card.warnings)
    assert len([tag for tag, _ in Page(page).elements if tag == "img"]) == 2


@pytest.mark.faulty
def test_a_study_that_cannot_be_described_is_a_warning_and_the_others_are_on_the_card(tmp_path, monkeypatch):
    describe = card_module.study_facts

    def break_one(item, *arguments):
        if item.case_id == "P2":
            raise FloatingPointError("underflow encountered in divide")
        return describe(item, *arguments)

    monkeypatch.setattr(card_module, "study_facts", break_one)
    card, page = card_of(tmp_path, cohort())
    assert card.warnings[0].startswith("Not described: P2: cannot be used (FloatingPointError: underflow encountered")
    assert card.groups.set_index("group").loc["all", "patients"] == 5
    assert "Not described: P2" in page


def test_the_phantoms_page_says_that_its_patients_are_simulated(tmp_path):
    items = read_phantom(PhantomConfig(patients=3))
    card, page = card_of(tmp_path, items, source="phantom", region=RegionConfig())
    assert card.groups["patients"].tolist()[-1] == 3
    assert "Simulated patients" in Page(page).text
    assert not [text for text in card.warnings if "has only" not in text]


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    write_studies(tmp_path / "studies.h5", [study()], EMIDEC_LABELS, "emidec", minimum_patients=1)
    archive = StudyArchive.open(tmp_path / "studies.h5")
    with pytest.raises(
        InputError, match=r"card.html: cannot be written .*; choose another place: a part of this path is a file"
    ):
        write_dataset_card(archive, tmp_path / "file" / "card.html", REGION)


@pytest.mark.parametrize(
    ("values", "summary"),
    [
        (["61", "70", "52"], "median 61 (52 to 70)"),
        (["61,5", "70", "unknown"], "median 65.75 (61.5 to 70); 1 not a number"),
        (["65"], "65"),
        (["1", "2", "1", "0"], "1: 2, 0: 1, 2: 1"),
        (["M", "F", "M", " "], "M: 2, F: 1"),
        (["a", "b", "c", "d", "e", "f", "a"], "a: 2, b: 1, c: 1, d: 1 and 2 other values"),
        (["Ann", "Bo", "Cy", "Di", "Ed"], "5 different values"),
        (["13 mm"], "13 mm: 1"),
        (["x" * 50], "x" * 39 + "…: 1"),
        (["nan", "inf", "5.5"], "5.5: 1, inf: 1, nan: 1"),
    ],
)
def test_clinical_fields_are_summed_up_by_what_they_hold(values, summary):
    table = clinical_table(pd.DataFrame({"case_id": values, "field": values, "empty": ""}))
    assert table.to_numpy().tolist() == [["field", len([v for v in values if v.strip()]), summary]]


def test_pictured_patients_are_spread_over_the_groups():
    groups = {f"N{n:02}": "normal" for n in range(30)} | {"P1": "infarct"} | {f"R{n}": "no_reflow" for n in range(9)}
    shown = patients_pictured(groups)
    assert (len(shown), len(set(shown))) == (12, 12)
    assert [groups[case] for case in shown] == 6 * ["normal"] + ["infarct"] + 5 * ["no_reflow"]
    assert (shown[0], shown[5]) == ("N00", "N29")
    assert patients_pictured({"a": "normal", "b": "infarct"}) == ["a", "b"]


def test_real_crops_are_named_where_they_are_cut_or_clipped(tmp_path):
    source = real_data("emidec_roi")
    for case_id in ("Case_P001", "Case_P071", "Case_P074"):
        shutil.copytree(source / case_id, tmp_path / "source" / case_id)
    card, _ = card_of(tmp_path, read_emidec(tmp_path / "source"), region=RegionConfig())
    assert any("touch the border" in text and "Case_P071" in text for text in card.warnings)
    assert any("saturated" in text and "Case_P001 (24" in text for text in card.warnings)

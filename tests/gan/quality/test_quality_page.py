import re
from dataclasses import replace

import numpy as np
import pytest

from gan.generation.hole import own_hole
from gan.quality.page import number, render_quality_page, write_quality_page
from gan.quality.proof import assess_quality
from tests.gan.quality_material import drawn_well, instruments, material, segment_by_shade, store_of

VERDICTS = [("no_copies", True, "Few copies."), ("variety", False, "All <alike>.")]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    made = material(tmp_path_factory.mktemp("quality"))
    taught = segment_by_shade
    return assess_quality(made, instruments(made.validation, segment_from_synthetic=taught), most_images=40)


@pytest.fixture(scope="module")
def page(report):
    return render_quality_page(report, "phantom <script>", VERDICTS)


def test_the_page_needs_no_other_file_and_no_script(page):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_text_from_outside_is_escaped(page):
    assert "phantom &lt;script&gt;" in page
    assert "All &lt;alike&gt;." in page


def test_every_figure_of_the_table_is_on_the_page(report, page):
    assert page.count("<tr>") > len(report.table)
    for value in report.table["value"]:
        assert f">{number(value)}<" in page


def test_it_shows_checks_pictures_pairs_and_counts(report, page):
    assert 'class="mark passed">passed' in page
    assert 'class="mark failed">failed' in page
    for name in ("real", "Pix2Pix", "painted means"):
        assert f"<figcaption>{name}</figcaption>" in page
    assert page.count("counted</strong>") == report.copies.worst["copied"].sum()
    assert page.count("synthetic row") == len(report.copies.worst)
    assert "Features: summary." in page
    assert '<td class="n">90</td><td class="n">30</td>' in page


def test_the_same_report_gives_the_same_bytes(report, page, tmp_path):
    write_quality_page(report, tmp_path / "quality.html", "phantom <script>", VERDICTS)
    assert (tmp_path / "quality.html").read_text(encoding="utf-8") == page


def test_without_utility_the_page_leaves_it_out(tmp_path):
    made = material(tmp_path)
    page = render_quality_page(assess_quality(made, instruments(made.validation), most_images=40), "phantom")
    assert "synthetic slices only" not in page
    assert "Checks" not in page


def test_repainted_hearts_are_said_to_be_compared_where_they_were_painted(tmp_path, page):
    made = material(tmp_path)
    holes = own_hole(made.training.masks, "lesion", 1)
    synthetic = store_of(made.training.painted_as(drawn_well(made.training.masks, 3)), tmp_path / "holes.h5", holes)
    changed = replace(made, synthetic=synthetic)
    words = "compared are the painted places alone"
    assert words in render_quality_page(
        assess_quality(changed, instruments(made.validation), most_images=40), "phantom"
    )
    assert words not in page


def test_numbers_are_short_and_missing_ones_a_dash():
    assert [number(value) for value in (0, 0.18, 12.345, 1234.5, np.nan)] == ["0", "0.180", "12.3", "1,234", "–"]

import itertools
import re
from importlib import resources

import numpy as np
import pytest
from jinja2 import DictLoader, UndefinedError
from skimage.color import deltaE_ciede2000, rgb2lab

from common.pages import kit
from common.pages.words import count, interval, listed, number, percent, significant, upper_first, whole, words
from imaging.labels import EMIDEC_LABELS

# Machado, Oliveira and Fernandes, IEEE TVCG 2009; 15: 1291, full loss of one kind of cone.
LOST_CONES = {
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}
STYLE = resources.files("common.pages").joinpath("templates/style.css").read_text(encoding="utf-8")


def rgb(colour):
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)])


def seen(colour, cones):
    """An RGB colour (3,) as (L, a, b) for an eye that lacks some cones."""
    shares = np.asarray(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    left = np.clip(np.asarray(LOST_CONES[cones]) @ linear, 0, 1)
    return rgb2lab(np.where(left <= 0.0031308, 12.92 * left, 1.055 * left ** (1 / 2.4) - 0.055)[None, None])[0, 0]


def contrast(first, second):
    darker, lighter = sorted((kit.contrast_on_white(rgb(colour)) for colour in (first, second)), reverse=True)
    return darker / lighter


@pytest.mark.parametrize("cones", LOST_CONES)
def test_lines_of_a_chart_and_tissues_of_a_picture_can_be_told_apart_by_every_eye(cones):
    tissues = EMIDEC_LABELS.colours[1:]
    for colours, least in ([rgb(colour) for colour in kit.SERIES], 12), (tissues, 14):
        for first, second in itertools.combinations(colours, 2):
            assert deltaE_ciede2000(seen(first, cones), seen(second, cones)) > least


@pytest.mark.parametrize("colour", [*kit.SERIES, kit.SOFT, *(kit.dark_enough(c) for c in EMIDEC_LABELS.colours)])
def test_whatever_is_drawn_or_written_on_white_has_enough_contrast(colour):
    assert contrast(colour, "#fff") >= 4.5


def test_contrast_is_that_of_wcag():
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert kit.contrast_on_white(rgb("#767676")) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_the_stylesheet_has_enough_contrast_in_both_schemes(scheme):
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    colours = {name: value for block in blocks[: 1 + (scheme == "dark")] for name, value in declared(block)}
    for paper, inks in {
        "paper": ("ink", "soft", "good", "bad", "link"),
        "tint": ("ink",),
        "bad-tint": ("bad",),
        "amber-tint": ("ink",),
    }.items():
        for ink in inks:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def declared(block):
    return re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("no_reflow", "no-reflow"),
        ("no_reflow_in_infarct", "no-reflow in infarct"),
        ("adherence: no_reflow", "adherence: no-reflow"),
        ("infarct", "infarct"),
        ("infarction", "infarction"),
        ("normal_myocardium", "normal myocardium"),
        ("real_plus_gan", "real + GAN"),
        ("halsr_net", "HALSR-Net"),
        ("", "–"),
    ],
)
def test_every_name_is_spelled_in_one_way(name, written):
    assert words(name) == written


def test_numbers_are_short_and_missing_ones_a_dash():
    assert [significant(value) for value in (0, 0.123, 12.34, 1234.5, None, np.nan)] == [
        *("0", "0.12", "12.3", "1,234", "–", "–")
    ]
    assert (number(-0.1), number(np.nan)) == ("−0.100", "–")
    assert (interval(0.1, 0.2, ".1f"), interval(np.nan, 1)) == ("0.1 to 0.2", "–")
    assert (whole(3), whole(3.5), whole(np.nan)) == ("3", "3.5", "–")
    assert (percent(0.5), count(1, "study", "studies"), count(2000, "slice")) == ("50.0 %", "1 study", "2,000 slices")
    assert (listed(["a", "b", "c"]), listed(["a"]), upper_first("dICE")) == ("a, b and c", "a", "DICE")


def test_a_table_writes_its_groups_once_and_knows_its_numbers():
    rows = [["A", "x", "1"], ["A", "y", "2"], ["B", "x", "3"]]
    made = kit.table("Caption", ["arm", "tissue", "Dice"], rows, grouped=1)
    assert made.columns == [kit.Column("tissue", False), kit.Column("Dice", True)]
    assert [(body.group, body.rows) for body in made.bodies] == [
        ("A", [["x", "1"], ["y", "2"]]),
        ("B", [["x", "3"]]),
    ]


def rendered(monkeypatch, template, **values):
    monkeypatch.setattr(kit, "PackageLoader", lambda package: real(package) if package else own)
    real, own = kit_loader, DictLoader({"page.html.j2": template})
    return kit.render("", "page.html.j2", **values)


kit_loader = kit.PackageLoader
PAGE = """{% extends "base.html.j2" %}{% import "macros.html.j2" as kit %}{% block title %}{{ name }}{% endblock %}
{% block main %}{{ kit.table(shown) }}{% endblock %}"""


def test_a_table_scrolls_in_a_box_that_the_keyboard_reaches_and_texts_are_escaped(monkeypatch):
    shown = kit.table("A <caption>", ["who", "what"], [["<i>", kit.Marked("<b>", "worse")]], ("what",), 0)
    page = rendered(monkeypatch, PAGE, name="<x>", shown=shown)
    assert "<title>&lt;x&gt;</title>" in page
    assert '<div class="scroll" role="group" aria-label="A &lt;caption&gt;" tabindex="0">' in page
    assert "<caption><span>A &lt;caption&gt;</span></caption>" in page
    assert '<th scope="row">&lt;i&gt;</th><td><span class="worse">&lt;b&gt;</span></td>' in page
    assert "default-src 'none'" in page


def test_a_name_that_a_template_lacks_is_an_error(monkeypatch):
    with pytest.raises(UndefinedError):
        rendered(monkeypatch, PAGE, name="x")

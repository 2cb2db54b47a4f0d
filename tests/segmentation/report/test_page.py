import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segmentation.report import render_report, write_report
from segmentation.report.answer import answers
from segmentation.report.methods import methods_paragraphs
from segmentation.report.published import (
    ASPECTS,
    HALSR_STUDY,
    SYNTHESIS_DICE,
    SYNTHESIS_MEAN,
    SYNTHESIS_STUDY,
    figures_beside,
)
from segmentation.training.config import MixingConfig
from tests.segmentation.report.report_material import ARMS, material, setup

# This run's own answer stands before published figures.
SECTIONS = ("differences", "summary", "patients", "volumes", "segments", "published", "curves", "repeat", "methods")


@pytest.fixture(scope="module")
def made():
    return material()


@pytest.fixture(scope="module")
def page(made):
    return render_report(made)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))


def test_the_page_needs_no_other_file_and_no_script(page):
    assert not re.findall(r'src="(?!data:)', page)
    assert set(re.findall(r'href="(?!#)([^"]+)"', page)) == {f"http://127.0.0.1:5000/#/runs/{arm}" for arm in ARMS}
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_sections_stand_in_their_order(page):
    assert re.findall(r'<h2 id="(\w+)"', page) == list(SECTIONS)


def test_text_from_outside_is_escaped(page):
    assert "emidec &lt;i&gt;" in page
    assert "A note &lt;b&gt;." in page


def test_the_same_material_gives_the_same_bytes(made, page, tmp_path):
    write_report(made, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_the_answer_holds_verdict_and_figures_of_the_table(made):
    row = made.comparison.differences.query("rule == 'positive' and tissue == 'infarct'").iloc[0]
    (found,) = [answer for answer in answers(made) if answer.tissue == "Infarct"]
    assert found.kind == "better"
    assert "synthetic slices helped" in found.sentence
    for value in (row["real_only"], row["real_plus_gan"], row["difference"], row["low"], row["high"]):
        assert f"{value:.3f}" in found.sentence
    assert f"{row['pairs']} patients" in found.sentence


def test_a_loss_and_too_few_patients_are_said(made):
    assert {answer.kind for answer in answers(material(loss=(0.1, 0.3)))} == {"worse"}
    assert all("too few patients for a verdict" in answer.sentence for answer in answers(material(patients=3)))


def test_networks_that_differ_each_get_their_verdict(made):
    other = made.comparison.differences.assign(network="halsr_net", verdict="no evidence")
    both = replace(made.comparison, differences=pd.concat([made.comparison.differences, other], ignore_index=True))
    (found,) = [answer for answer in answers(replace(made, comparison=both)) if answer.tissue == "Cavity"]
    assert found.kind == "mixed"
    assert "helped" in found.sentence.split("HALSR-Net")[0]
    assert "no evidence of a difference with HALSR-Net" in found.sentence


def test_an_interval_without_zero_beside_no_evidence_is_explained_where_it_stands(made):
    doubtful = made.comparison.differences.assign(verdict="no evidence", p_holm=0.08)
    assert (doubtful["low"] > 0).all()
    unsure = replace(made, comparison=replace(made.comparison, differences=doubtful))
    for answer in answers(unsure):
        assert "the interval leaves out zero, but p is 0.080 once corrected for all comparisons" in answer.sentence
    text = text_of(render_report(unsure))
    assert "an interval without zero beside “no evidence” means: alone it would count, among 4 comparisons" in text
    assert "P(better) : the confidence that this difference is above zero" in text
    assert not any("leaves out zero" in answer.sentence for answer in answers(made))


def test_infarct_is_the_tissue_and_infarction_the_official_group(page):
    text = text_of(page)
    assert "Infarction volume (infarct and no-reflow together)" in text
    assert not re.search(r"no[ _]reflow|normal_myocardium", text, flags=re.IGNORECASE)


def test_published_means_are_those_of_the_published_tissues():
    for arm, mean in enumerate(SYNTHESIS_MEAN):
        assert np.mean([pair[arm] for pair in SYNTHESIS_DICE.values()]) == pytest.approx(mean, abs=1e-4)


def test_every_aspect_of_the_protocols_is_filled_for_both_sources(page):
    for study in (SYNTHESIS_STUDY, HALSR_STUDY):
        assert set(study.protocol) == set(ASPECTS)
        assert study.citation in text_of(page)


def test_our_figures_stand_beside_the_published_ones(made):
    rows = {row.tissue: row for row in figures_beside(made)}
    assert rows["no-reflow"].published == ("0.5376", "0.6676", "+0.1300")
    mean = made.comparison.summary.query("rule == 'positive' and training_set == 'real_only'")["mean"].mean()
    assert rows["mean"].ours[0][0] == f"{mean:.3f}"


def test_methods_follow_the_configuration(made):
    text = " ".join(methods_paragraphs(made))
    for phrase in (
        "12 patients of the source emidec <i> (3 normal, 4 infarct and 5 no-reflow; 96 short-axis slices)",
        "321 optimiser steps",
        "32 × 32 pixels",
        "two sets of 640 slices",
        "480 of these and 160 synthetic",
        "123 steps of 4 slices, hinge adversarial loss, L1 weight 77",
        "999 steps of 7 slices",
        "learning rate 0.004",
        "1.23 million parameters",
        "fold 0 alone (10 test patients)",
        "the same seed (0)",
        "Training ran in fp32",
    ):
        assert phrase in text
    for mixing, phrase in (
        (MixingConfig(protocol="add"), "640 augmented slices of training patients, alone or with 160 synthetic ones"),
        (MixingConfig(protocol="synthetic_first", real_last_share=0.3), "The last 30\N{NO-BREAK SPACE}% of the steps"),
        (MixingConfig(synthetic_weight=0.5), "A synthetic slice weighed 0.5 in the loss"),
    ):
        assert phrase in methods_paragraphs(replace(made, setup=replace(made.setup, mixing=mixing)))[1]
    for changes, phrase in (
        ({"transplanted": True}, "another training patient's lesion was carried"),
        ({"from_folder": True}, "were made by another program and read from a folder"),
        ({"lesions_alone": True}, "drew lesions into the walls of real slices"),
    ):
        synthesis = replace(made.setup.synthesis, **changes)
        assert phrase in methods_paragraphs(replace(made, setup=replace(made.setup, synthesis=synthesis)))[1]
    simulated = replace(made, setup=setup(source="phantom"))
    assert "simulated patients of a built-in phantom" in methods_paragraphs(simulated)[0]
    assert "Simulated patients." in render_report(simulated)


def test_digests_versions_commands_and_links_are_given(page):
    for text in ("abc123", "digest-real_only", "scarforge run --source emidec --root DIR --fold 0", "numpy"):
        assert text in page


def test_with_one_arm_missing_the_page_says_so():
    text = text_of(render_report(material(arms=("real_only",))))
    assert "no answer yet, as real + GAN has not been scored" in text
    assert "There are no differences to show" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"patients": 2}, "The only patient"),
        ({"lesions": (True, False)}, "No-reflow: no test patient has it"),
        ({"lesions": (False, False)}, "Infarct: no test patient has it"),
        ({"loss": (1.0, 1.0)}, "Best, median and worst patient"),  # networks that draw nothing
        ({"keep": False}, "no label maps were kept"),
        ({"seeds": (0, 1)}, "the mean over seeds"),
    ],
)
def test_sparse_results_still_read_well(changed, phrase):
    text = text_of(render_report(material(**changed)))
    assert phrase in text
    assert not re.search(r"\bnan\b|None\b", text)


def test_without_a_course_there_are_no_curves(made):
    bare = [replace(each, history=each.history.iloc[:0]) for each in made.trainings]
    assert "left no record of their course" in text_of(render_report(replace(made, trainings=bare)))
    assert "Trainings" not in text_of(render_report(replace(made, trainings=())))

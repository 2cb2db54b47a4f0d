"""MLflow as a user meets it after a fold: runs with names, and the arms side by side."""

import re

import pytest
from playwright.sync_api import expect

from tests.ui.browser import keep_picture
from tests.ui.dagster_pages import DagsterPages
from tests.ui.mlflow_pages import MlflowPages

ARMS = tuple(f"f0 s0 {arm} Attention Res-UNet scores" for arm in ("real only", "real + GAN"))
COLUMNS = ["training_set", "network", "fold", "seed"]
COLUMNS += [f"dice/positive/{tissue}" for tissue in ("infarct", "no_reflow", "cavity", "normal_myocardium")]
DICE = "dice/official/myocardium"

pytestmark = pytest.mark.usefixtures("fold")


def test_the_printed_address_shows_every_run_by_a_name_for_people(mlflow: MlflowPages):
    mlflow.open_runs()
    mlflow.expect_runs(13)
    for name in (*ARMS, "f0 s0 real + GAN HALSR-Net training", "comparison real only / real + GAN"):
        mlflow.run(name)
    assert [name for name in mlflow.columns() if name in COLUMNS] == COLUMNS
    mlflow.close_notice()
    keep_picture(mlflow.page, "mlflow_runs")


@pytest.mark.parametrize("way", ["", "#/experiments/1"])
def test_no_way_leads_to_the_pages_about_language_models(way: str, mlflow: MlflowPages):
    mlflow.page.goto(mlflow.address.partition("#")[0] + way, wait_until="domcontentloaded")
    expect(mlflow.page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(mlflow.page).to_have_url(re.compile(r"workflowType=machine_learning"))


def test_one_click_shows_infarct_and_no_reflow_of_real_only_beside_real_and_gan(mlflow: MlflowPages):
    mlflow.open_runs()
    mlflow.show_charts()
    for tissue in ("infarct", "no_reflow"):
        expect(mlflow.page.get_by_text(f"dice/positive/{tissue}").first).to_be_visible()
    for name in ARMS:
        mlflow.run(name)
    mlflow.close_notice()
    keep_picture(mlflow.page, "mlflow")


def test_two_arms_that_were_ticked_show_dice_side_by_side(mlflow: MlflowPages):
    mlflow.open_runs()
    mlflow.filter_runs("tags.stage = 'evaluation' and tags.network = 'attention_res_unet'")
    mlflow.expect_runs(2)
    mlflow.compare(*ARMS)
    for name in ARMS:
        expect(mlflow.page.get_by_role("cell", name=name)).to_be_visible()
    expect(mlflow.parameter("training_set").get_by_role("cell")).to_have_text(["real_only", "real_plus_gan"])
    values = mlflow.compared(DICE)
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)


def test_the_link_on_the_page_of_the_comparison_opens_both_arms(dagster: DagsterPages, mlflow: MlflowPages):
    dagster.open_asset("comparison")
    with dagster.page.context.expect_page() as opened:
        dagster.fact("compare_attention_res_unet_in_mlflow").get_by_role("link").first.click()
    beside = MlflowPages(opened.value, mlflow.address)
    beside.expect_comparison(2)
    assert len(beside.compared(DICE)) == 2
    opened.value.close()

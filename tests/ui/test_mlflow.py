"""MLflow as a user meets it after a fold: runs with names, and the arms side by side."""

import pytest
from playwright.sync_api import expect

from tests.ui.browser import keep_picture
from tests.ui.dagster_pages import DagsterPages
from tests.ui.mlflow_pages import MlflowPages

ARMS = tuple(f"{arm} attention_res_unet scores fold 0 seed 0" for arm in ("real_only", "real_plus_gan"))
DICE = "dice/official/myocardium"

pytestmark = pytest.mark.usefixtures("fold")


def test_the_printed_address_shows_every_run_by_a_name_for_people(mlflow: MlflowPages):
    mlflow.open_runs()
    mlflow.expect_runs(13)
    for name in (*ARMS, "real_plus_gan halsr_net training fold 0 seed 0", "comparison real only / real plus GAN"):
        mlflow.run(name)
    keep_picture(mlflow.page, "mlflow_runs")


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
    for section in ("Visualizations", "Parameters"):
        mlflow.fold_away(section)
    keep_picture(mlflow.page, "mlflow")


def test_the_link_on_the_page_of_the_comparison_opens_both_arms(dagster: DagsterPages, mlflow: MlflowPages):
    dagster.open_asset("comparison")
    with dagster.page.context.expect_page() as opened:
        dagster.fact("compare_attention_res_unet_in_mlflow").get_by_role("link").first.click()
    beside = MlflowPages(opened.value, mlflow.address)
    beside.expect_comparison(2)
    assert len(beside.compared(DICE)) == 2
    opened.value.close()

"""Dagster as a user meets it, from the graph to a finished fold, its pictures and its nights."""

import re
import time

from playwright.sync_api import expect

from pipeline.definitions import defs
from tests.ui.browser import VIEW, keep_picture
from tests.ui.dagster_pages import DagsterPages
from tests.ui.servers import PROFILE, Servers

ASSETS = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())


def test_the_graph_of_every_asset_is_there_after_the_start(dagster: DagsterPages, servers: Servers, capsys):
    dagster.open_graph()
    with capsys.disabled():
        print(f"\nthe asset graph was visible {time.monotonic() - servers.started:.1f} s after `scarforge ui`")
    dagster.draw_every_asset(ASSETS)
    dagster.list_every_asset()
    for asset in ASSETS:
        expect(dagster.listed(asset)).to_be_visible()


def test_a_fold_that_was_started_from_its_job_ends_well(fold: str, dagster: DagsterPages):
    dagster.watch_run(fold)
    expect(dagster.page.get_by_text(f"Succeeded ({len(ASSETS)})")).to_be_visible()
    dagster.open_graph()
    dagster.draw_every_asset(ASSETS)
    dagster.list_every_asset()
    expect(dagster.listed("comparison").get_by_role("img", name="run_success")).to_be_visible()
    keep_picture(dagster.page, "dagster", part=dagster.show_whole_graph())
    dagster.page.set_viewport_size(VIEW)


def test_the_page_of_an_asset_shows_its_slices_and_its_checks(fold: str, dagster: DagsterPages, servers: Servers):
    dagster.open_asset("real_slices")
    expect(dagster.page.get_by_role("link", name="0", exact=True).first).to_be_visible()  # the fold
    path = dagster.fact("path").inner_text()
    assert str(servers.home / "phantom" / PROFILE / "real_slices" / "fold_0") in path
    picture = dagster.fact("preview").get_by_role("img", name="preview")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 320
    assert dagster.facts()[:4] == ["preview", "slices", "share_of_infarct", "share_of_no_reflow"]
    keep_picture(dagster.page, "dagster_asset", height=960)  # above the folder's name
    dagster.open_checks()
    expect(dagster.page.get_by_text("every_patient_has_slices").first).to_be_visible()
    expect(dagster.page.get_by_text("Passed", exact=True)).to_be_visible()


def test_a_report_is_a_link_that_opens(fold: str, dagster: DagsterPages):
    dagster.open_asset("comparison")
    with dagster.page.context.expect_page() as opened:
        dagster.fact("report").get_by_role("link").first.click()
    expect(opened.value.get_by_role("heading", level=1)).to_be_visible()
    opened.value.close()


def test_the_list_of_runs_shows_no_tag_of_json(fold: str, dagster: DagsterPages):
    dagster.open_runs()
    expect(dagster.page.get_by_text(fold[:8])).to_be_visible()
    assert '{"' not in dagster.page.locator("body").inner_text()


def test_the_nights_are_off_until_switched_on_and_stay_on(dagster: DagsterPages):
    dagster.open_automation()
    expect(dagster.switch("nightly")).not_to_be_checked()
    dagster.turn("nightly", on=True)
    dagster.open_automation()
    expect(dagster.switch("nightly")).to_be_checked()
    expect(dagster.switch("nightly")).to_be_enabled()
    expect(dagster.page.get_by_text(re.compile("At 02:00 AM"))).to_be_visible()
    keep_picture(dagster.page, "dagster_automation", height=440)
    dagster.turn("nightly", on=False)

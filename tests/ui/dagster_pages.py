"""What a user does in Dagster, one method for each thing."""

import re
from collections.abc import Collection

from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.ui.browser import VIEW

GROUPS = ("data", "real_only", "synthesis", "quality", "real_plus_gan", "evaluation")
RUN_TIMEOUT_MS = 1_500_000  # the tiny fold: two minutes on two idle cores, far longer beside other work


DRAWN_WITHIN_S = 120
WHOLE_GRAPH = {"width": 2000, "height": 2640}


def _names(text: str, asset: str) -> bool:
    """Whether a text of the graph is an asset's name, which may be shortened in its middle."""
    first, shortened, last = text.partition("…")
    return asset.startswith(first) and asset.endswith(last) if shortened else text == asset


class DagsterPages:
    """Dagster's pages, found by what is written on them."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open_graph(self) -> None:
        self._start()
        self._navigate("Lineage")
        for group in GROUPS:
            expect(self.page.get_by_role("button", name=group).first).to_be_visible()

    def draw_every_asset(self, assets: Collection[str]) -> None:
        """Open all groups of the graph, drawn from top to bottom, and wait until every asset is drawn by name."""
        for choice in ("Expand all groups", "Change graph to vertical orientation"):
            self._choose(choice)
        # A chain of some fifteen steps: of what lies outside the window, or is drawn too small, no name is there.
        self.page.set_viewport_size({"width": 2400, "height": 2600})
        self.page.reload(wait_until="domcontentloaded")  # which fits the graph into the page
        names = self.page.locator("foreignObject").get_by_text(re.compile(r"^[a-z]\w+(…\w+)?$"))
        for _ in range(DRAWN_WITHIN_S):
            shown = names.all_inner_texts()
            missing = [asset for asset in assets if not any(_names(text, asset) for text in shown)]
            if not missing:
                break
            self.page.wait_for_timeout(1000)
        assert not missing, f"not drawn: {missing}; drawn: {shown}"
        self.page.set_viewport_size(VIEW)
        self.page.reload(wait_until="domcontentloaded")
        expect(names.first).to_be_visible()

    def show_whole_graph(self) -> FloatRect:
        """Open a window that holds the whole graph, its groups open, and return the part of it that is the graph."""
        self.page.set_viewport_size(WHOLE_GRAPH)
        self.page.reload(wait_until="domcontentloaded")
        for end in ("studies", "comparison"):
            expect(self.page.locator("foreignObject").get_by_text(end, exact=True).first).to_be_visible()
        expect(self.page.get_by_text("Loading...").first).to_be_hidden()
        return {"x": 600.0, "y": 130.0, "width": 1350.0, "height": 2410.0}

    def list_every_asset(self) -> None:
        """Open all groups of the list beside the graph."""
        for group in GROUPS:
            line = self.page.get_by_role("button", name=f"asset_group {group}")
            line.locator("xpath=preceding::button[1]").click()

    def listed(self, asset: str) -> Locator:
        return self.page.get_by_role("button", name=re.compile(rf"\s{asset}$"))

    def _choose(self, choice: str) -> None:
        """Choose from the graph's menu, unless it was chosen before: the browser remembers."""
        self.page.get_by_role("button", name="settings", exact=True).last.click()
        menu = self.page.get_by_role("menuitem")
        expect(menu.filter(has_text="orientation")).to_be_visible()
        if menu.filter(has_text=choice).count():
            menu.filter(has_text=choice).click()
        self.page.keyboard.press("Escape")
        expect(menu.filter(has_text="orientation")).to_be_hidden()

    def open_job(self, name: str) -> None:
        self._start()
        self._navigate("Jobs")
        self.page.get_by_role("link", name=name).click()

    def materialise(self, fold: str) -> str:
        """Launch one fold from the page that is open and return the run's id."""
        page = self.page
        page.get_by_role("button", name="Materialize all").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Select a partition or create one").click()
        page.get_by_role("menuitem").filter(has=page.get_by_title(fold, exact=True)).click()
        page.keyboard.press("Escape")  # closes the list, not the dialog
        dialog.get_by_role("button", name="Launch 1 run").click()
        page.get_by_role("button", name="View", exact=True).or_(
            page.get_by_role("link", name="View", exact=True)
        ).first.click()
        expect(page).to_have_url(re.compile("/runs/"))
        return page.url.rsplit("/", 1)[-1].split("?")[0]

    def watch_run(self, run_id: str) -> None:
        """Wait on the run's page until it says how the run ended, and require success."""
        page = self.page
        page.goto(f"{self.address}/runs/{run_id}", wait_until="domcontentloaded")
        ended = page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        expect(ended).to_be_visible(timeout=RUN_TIMEOUT_MS)
        errored = page.get_by_text(re.compile(r"^Errored \(\d+\)$")).first.inner_text()
        assert ended.inner_text() == "Success", f"{page.url} ended with {ended.inner_text()}, {errored}"

    def open_asset(self, name: str) -> None:
        self.page.goto(f"{self.address}/assets/{name}", wait_until="domcontentloaded")
        expect(self.page.get_by_role("tab", name="Overview")).to_be_visible()

    def fact(self, name: str) -> Locator:
        """Return the row of the asset's page that holds one line of its metadata."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=name, exact=True))
        expect(row.first).to_be_visible()
        return row.first

    def facts(self) -> list[str]:
        """Return the names of the asset's metadata in the order of its page."""
        expect(self.page.get_by_role("cell", name="Key", exact=True)).to_be_visible()
        rows = self.page.locator("table").filter(has_text="Timestamp").first.locator("> tbody > tr > td:first-child")
        return rows.all_inner_texts()

    def open_runs(self) -> None:
        self.page.goto(f"{self.address}/runs", wait_until="domcontentloaded")

    def open_checks(self) -> None:
        self.page.get_by_role("tab", name="Checks").click()

    def open_automation(self) -> None:
        self._start()
        self._navigate("Automation")

    def switch(self, automation: str) -> Locator:
        """Return the switch of a schedule or sensor: the last box of its line."""
        line = self.page.get_by_role("link", name=automation).locator(
            "xpath=ancestor::*[count(.//input[@type='checkbox']) = 2][1]"
        )
        return line.get_by_role("checkbox").last

    def turn(self, automation: str, on: bool) -> None:
        """Press the switch of a schedule or sensor, and wait until it has turned."""
        switch = self.switch(automation)
        expect(switch).to_be_enabled()
        switch.locator("xpath=..").click()  # the box itself lies hidden below its picture
        expect(switch).to_be_checked(checked=on)
        expect(switch).to_be_enabled()

    def _start(self) -> None:
        self.page.goto(self.address, wait_until="domcontentloaded")

    def _navigate(self, name: str) -> None:
        link = re.compile(rf"^(\S+ )?{name}$")  # "lineage Lineage", its icon's name first; not "column_lineage Jobs"
        self.page.get_by_role("link", name=link).first.click()

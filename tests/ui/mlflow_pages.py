"""What a user does in MLflow, one method for each thing."""

import re

from playwright.sync_api import Locator, Page, expect


class MlflowPages:
    """MLflow's pages, found by what is written on them."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open_runs(self) -> None:
        """Open the address that `scarforge ui` prints, and close the assistant that comes up beside it."""
        self.page.goto(self.address, wait_until="domcontentloaded")
        assistant = self.page.get_by_role("button", name="Close", exact=True)
        expect(self.page.get_by_role("heading", name="Runs").or_(assistant).first).to_be_visible()
        if assistant.is_visible():
            assistant.click()

    def columns(self) -> list[str]:
        """Return the names of the table's columns, from left to right."""
        expect(self.page.get_by_role("columnheader", name="training_set").first).to_be_visible()
        headers = self.page.get_by_role("columnheader").all()
        places = [(box["x"], header.inner_text()) for header in headers if (box := header.bounding_box())]
        return list(dict.fromkeys(name for _, name in sorted(places)))

    def show_charts(self) -> None:
        """Press the second of the buttons that choose how runs are shown."""
        self.page.get_by_role("radiogroup").get_by_role("radio").nth(1).locator("xpath=ancestor::label").click()

    def close_notice(self) -> None:
        """Close the line that says that a saved view is shown."""
        notice = self.page.get_by_text("viewing a shared view").locator("xpath=ancestor::*[.//button][1]")
        if notice.count():
            notice.get_by_role("button").last.click()

    def run(self, name: str) -> Locator:
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("link", name=name))
        expect(row.first).to_be_visible()
        return row.first

    def filter_runs(self, condition: str) -> None:
        box = self.page.get_by_role("combobox", name=re.compile("metrics"))
        box.fill(condition)
        box.press("Enter")

    def expect_runs(self, count: int) -> None:
        expect(self.page.get_by_text(re.compile(rf"^{count}\s+matching runs?$"))).to_be_visible()

    def compare(self, *names: str) -> None:
        """Tick runs and press Compare."""
        for name in names:
            self.run(name).get_by_role("checkbox").first.check()
        self.page.get_by_role("button", name="Compare").click()
        self.expect_comparison(len(names))

    def expect_comparison(self, count: int) -> None:
        expect(self.page.get_by_role("heading", name=f"Comparing {count} Runs from 1 Experiment")).to_be_visible()

    def fold_away(self, section: str) -> None:
        button = self.page.get_by_role("button", name=section, exact=True)
        if button.get_attribute("aria-expanded") == "true":
            button.click()

    def compared(self, metric: str) -> list[float]:
        """Return the values of one of the uppermost metrics, one for each run that is compared."""
        names, values = (
            self.page.get_by_role("grid").nth(place).get_by_role("rowgroup").locator("> *") for place in (0, 1)
        )
        expect(names.filter(has_text=metric)).to_be_visible()
        written, figures = names.all_inner_texts(), values.all_inner_texts()
        row, runs = written.index(metric), len(figures) // len(written)
        return [float(figure) for figure in figures[row * runs : (row + 1) * runs]]

    def parameter(self, name: str) -> Locator:
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("rowheader", name=name, exact=True)).first

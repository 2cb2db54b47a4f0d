"""Every HTML page in a real browser, wide and on a telephone, by day and by night: faults, width, tables, print."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page

from tests.ui.browser import PICTURES
from tests.ui.made_pages import PAGES

TELEPHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# Each table's box: whether it has one, whether the page could scroll, and where the first column stands at the far end.
TABLES = """
() => [...document.querySelectorAll('table')].filter(table => table.checkVisibility()).map(table => {
  const box = table.closest('.scroll');
  if (!box) return {caption: table.caption?.innerText, boxed: false};
  box.scrollLeft = box.scrollWidth;
  const edge = box.getBoundingClientRect();
  const cells = [...table.querySelectorAll('tbody tr:not(.group) > :first-child')];
  const kept = cells.every(cell => {
    const place = cell.getBoundingClientRect();
    return Math.abs(place.left - edge.left) < 1.5 && place.right <= edge.right + 1.5
      && cell.scrollWidth <= cell.clientWidth + 1;
  });
  const caption = table.caption?.innerText ?? '';
  const headings = [...table.querySelectorAll('thead th')].every(cell => cell.scope && cell.innerText.trim());
  box.scrollLeft = 0;
  return {caption, boxed: true, reachable: box.tabIndex === 0, kept, headings};
})
"""


@pytest.fixture(scope="module", params=PAGES)
def opened(
    request: pytest.FixtureRequest, context: BrowserContext, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Page]]:
    name = request.param
    path = PAGES[name](tmp_path_factory.mktemp(name))
    page = context.new_page()
    page.goto(path.as_uri())
    yield name, page
    page.close()


def faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, TELEPHONE], ids=["desk", "telephone"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(opened, size, scheme):
    name, page = opened
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme, media="screen")
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"page_{name}_{size['width']}_{scheme}.png", full_page=True)


def test_on_a_telephone_every_table_scrolls_in_its_own_box_with_its_first_column_whole(opened):
    _, page = opened
    page.set_viewport_size(TELEPHONE)
    tables = page.evaluate(TABLES)
    assert tables
    for table in tables:
        assert table["caption"], table
        assert table["boxed"], table
        assert table["reachable"], table
        assert table["kept"], table
        assert table["headings"], table


def test_on_paper_a_dark_screen_is_white_and_nothing_is_cut_off(opened):
    _, page = opened
    page.set_viewport_size({"width": 695, "height": 1000})  # A4 less its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    overflowing = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth + 1)"
    assert page.evaluate(f"{overflowing}.map(box => box.getAttribute('aria-label'))") == []
    kept = "['h2', 'caption'].map(name => getComputedStyle(document.querySelector(name)).breakAfter)"
    assert page.evaluate(kept) == ["avoid", "avoid"]
    page.emulate_media(media="screen")


def test_axe_would_find_text_that_is_too_pale(page: Page):
    page.set_content('<html lang="en"><title>x</title><main><h1>x</h1><p style="color: #aaa">pale</p></main></html>')
    assert [fault.partition(":")[0] for fault in faults(page)] == ["color-contrast"]

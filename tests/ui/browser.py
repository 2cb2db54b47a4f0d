"""Debian's Chromium, driven headless; the screenshots that are kept."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, FloatRect, Page, expect, sync_playwright

PICTURES = Path(os.environ.get("SCARFORGE_PICTURES") or Path(__file__).parents[2] / "build" / "ui")
VIEW = {"width": 1600, "height": 1000}
WAIT_MS = 120_000  # for anything that a click brings; a busy machine needs tens of seconds
_COLOURS = 256
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # other sites, such as evil.test
)


def chromium() -> str:
    """Return the browser; these tests exist for it, so that one that is missing is an error."""
    for candidate in (os.environ.get("SCARFORGE_CHROMIUM"), "/usr/bin/chromium", shutil.which("chromium")):
        if candidate and Path(candidate).is_file():
            return candidate
    raise FileNotFoundError("no Chromium: apt-get install chromium, or set SCARFORGE_CHROMIUM to its executable")


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[BrowserContext]:
    """Open a browser that has never been used, and close it."""
    executable = chromium()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=executable, headless=True, args=_ARGUMENTS, viewport=VIEW
        )
        expect.set_options(timeout=WAIT_MS)
        context.set_default_timeout(WAIT_MS)
        context.set_default_navigation_timeout(WAIT_MS)
        yield context
        context.close()


def keep_picture(
    page: Page, name: str, folder: Path = PICTURES, height: int = VIEW["height"], part: FloatRect | None = None
) -> Path:
    """Save the upper part of what the page shows as a small PNG, in `SCARFORGE_PICTURES` or else in build/ui.

    Args:
        page: What is shown.
        name: Of the file.
        folder: Where it goes.
        height: Of the upper part.
        part: What is kept instead, no wider than `VIEW` in the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    clip = part or {"x": 0, "y": 0, "width": VIEW["width"], "height": height}
    page.screenshot(path=path, animations="disabled", caret="hide", clip=clip)
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
        if part is not None:
            whole.thumbnail((VIEW["height"], whole.height), Image.Resampling.LANCZOS)
        small = whole.quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    return path

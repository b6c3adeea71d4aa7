"""A page of headless Chromium, for what only a browser can tell."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

QUIET = ("background-networking", "component-update", "sync", "gpu")


@contextmanager
def open_page(width_px: int = 1600, height_px: int = 1000) -> Iterator[Page]:
    """Yield an empty page; skips the test, loudly, where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("NO BROWSER: chromium was not found, so nothing was opened in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)],
        )
        yield browser.new_page(viewport={"width": width_px, "height": height_px})
        browser.close()

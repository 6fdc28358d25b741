"""A headless browser for tests of pages: the Chromium or Chrome of this machine, controlled by Playwright.

Test files import the fixture `browser`. `scripts/test` installs Chromium if possible. Playwright downloads none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import lacking

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPLICATIONS = {
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
    "win32": (
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ),
}
OPTIONS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",  # only local pages
)
SIZE = (1400, 900)


def chromium() -> str | None:
    """The program, if it is installed."""
    found = (shutil.which(name) for name in NAMES)
    return next((program for program in found if program), None) or next(
        (path for path in APPLICATIONS.get(sys.platform, ()) if Path(path).exists()), None
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser for the tests of one file. Playwright keeps an event loop in this thread, in which tests of other
    files could not start one.

    Without a browser, the test is skipped, or fails if nothing may be missing.
    """
    program = chromium()
    if program is None:
        lacking("Chromium or Chrome")
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp("browser")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program,
            args=list(OPTIONS),
            chromium_sandbox=False,  # root has no sandbox
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty, isolated page of 1400 by 900 pixels."""
    with browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]}, reduced_motion="reduce") as context:
        yield context.new_page()

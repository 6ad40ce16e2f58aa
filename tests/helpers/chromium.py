"""The Chromium that is installed (Debian's `chromium`), driven by Playwright; this installs neither.

A module of tests that imports this one is skipped where either is missing.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

sync_playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on the path", allow_module_level=True)


def launch(driver: Any, *flags: str) -> Any:
    """Start the browser."""
    return driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])


def watch(page: Any) -> tuple[list[str], list[str]]:
    """Return two lists that grow: what a page says on the console, and which addresses it asks for."""
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    return said, asked

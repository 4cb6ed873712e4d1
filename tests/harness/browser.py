"""A real browser for the tests and the README's picture: Chromium, driven by Playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PLAYWRIGHT = importlib.util.find_spec("playwright")  # there is no wheel for some machines

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]


def executable() -> str | None:
    """Where Chromium is: P2P_SYNC_TEST_CHROMIUM, or the first of its names on the path."""
    named = os.environ.get("P2P_SYNC_TEST_CHROMIUM")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """Why there is no browser here; nothing if there is one."""
    if not _PLAYWRIGHT:
        return "needs Playwright: pip install playwright"
    if executable() is None:
        return "needs Chromium: apt install chromium, or its path in P2P_SYNC_TEST_CHROMIUM"
    return ""


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window, ended at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=_FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()

"""A real Chromium for tests, driven by Playwright; where the machine has none, a test is skipped and says so."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
)  # fmt: skip
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""For people, and for CI to keep."""
_LONGEST_MS = 120_000


@dataclass
class Seen:
    """A page, and what the browser had to say of it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Messages on the console that are warnings or errors, and exceptions of scripts."""
    requests: list[str] = field(default_factory=list)
    """What the page asked for, but for what lies in itself."""

    def open(self, address: str) -> None:
        self.page.goto(address, wait_until="domcontentloaded")

    def keep(self, name: str) -> None:
        """A picture of the whole page for people."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own browser, with a fresh profile."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def looking(browser: Browser, scheme: str = "light", width: int = 1280) -> Iterator[Seen]:
    """An empty page in a context of its own; `scheme` is light or dark, `width` in pixels."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    context.set_default_timeout(_LONGEST_MS)
    page = context.new_page()
    seen = Seen(page)
    page.on(
        "console",
        lambda said: seen.complaints.append(said.text) if said.type in ("warning", "error") else None,
    )
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: seen.requests.append(asked.url) if not asked.url.startswith("data:") else None,
    )
    try:
        yield seen
    finally:
        context.close()

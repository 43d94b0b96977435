"""Debian's Chromium, driven by Playwright, for tests marked `browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
AXE = Axe()
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
RULES_OF_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
SIZES = {"desk": (1280, 820), "phone": (360, 740)}
BETWEEN = (768, 1024)
"""Widths at which a page that fits a desk and a phone may still cut something off."""
_CUT_OFF = """() => [document.documentElement, ...document.querySelectorAll(".card-flush")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => `${box.tagName} by ${box.scrollWidth - box.clientWidth}: ${box.innerText.slice(0, 60)}`)"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """A page that keeps what its console said; `check` proves it clean and as narrow as its window, and as those
    between the sizes."""

    def __init__(self, browser: Browser, base_url: str, *, size: str = "desk", dark: bool = False) -> None:
        width, height = SIZES[size]
        self.context: BrowserContext = browser.new_context(
            base_url=base_url,
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
        )
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def check(self) -> None:
        loud = [line for line in self.said if not line.startswith(("log:", "info:", "debug:", "verbose:"))]
        assert not loud, loud
        size = self.page.viewport_size
        assert size is not None
        widths = [size["width"], *(BETWEEN if size["width"] > max(BETWEEN) else ())]
        for width in widths:
            if len(widths) > 1:
                self.page.set_viewport_size({"width": width, "height": size["height"]})
            cut_off = self.page.evaluate(_CUT_OFF)
            assert not cut_off, f"{self.page.url}, {width} wide: {cut_off}"
        if len(widths) > 1:
            self.page.set_viewport_size(size)

    def by_light_and_by_dark(self) -> Iterator[str]:
        """The page as it stands, "light" and then "dark": one document, whose colours alone change."""
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour is on its way
            yield scheme

    def check_accessibility(self, *, rules: Mapping[str, object] = RULES) -> None:
        """No rule of WCAG 2.2 A or AA is broken (axe-core): contrast, names, roles, order of headings. RULES_OF_COLOURS
        are enough for a document that was judged whole before its colours changed."""
        found = AXE.run(self.page, options={"runOnly": rules})
        broken = [
            f"{violation['id']}: {violation['help']}: {[node['html'][:160] for node in violation['nodes'][:3]]}"
            for violation in found.response["violations"]
        ]
        assert not broken, "\n".join([self.page.url, *broken])

    def look(self, name: str) -> None:
        """Clean, narrow and accessible, by light and by dark; with pictures `name`-light and `name`-dark."""
        for scheme in self.by_light_and_by_dark():
            self.check()
            self.check_accessibility(rules=RULES if scheme == "light" else RULES_OF_COLOURS)
            self.shoot(f"{name}-{scheme}")

    def shoot(self, name: str) -> None:
        """A picture of the whole page in the folder SCREENSHOTS; none where that is not set: it takes longer to draw
        than all else that is done with a page."""
        kept = os.environ.get("SCREENSHOTS")
        if kept:
            self.page.screenshot(path=Path(kept) / f"{name}.png", full_page=True)

# SPDX-License-Identifier: Apache-2.0
"""A user who keeps the status page open in a browser and reads it periodically."""

from __future__ import annotations

import re
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from .load_actors import Activity
from .soak import Soak
from .test_page import FLAGS, browser_of, opened

_AGREES_S = 90.0
"""All clients rest within that time, and a gateway that drains has ended."""
_ELEMENTS_MOST = 4000
"""Of the page, after however long: 60 models, a hundred requests and what is around them."""


_RUNS = re.compile(r"fake-\w+ (?:starting|ready|stopping)")
_LOOK = """async () => {
  const state = async () => {
    const headers = { authorization: `Bearer ${sessionStorage.getItem("sparkd-key")}` };
    const answer = await fetch("/status", { headers }).catch(() => null);
    const models = answer?.ok ? (await answer.json()).models : [];
    return answer?.ok ? models.map((model) => `${model.id} ${model.state}`).join() : "no answer";
  };
  const before = await state();
  return [before, document.getElementById("state").textContent, await state()];
}"""
"""What /status says, what the page says, and what /status says then."""


class Onlooker(Activity):
    """The page lives through all of it, without a reload, and says what /status says."""

    every_s = 15.0

    def __init__(self, soak: Soak, directory: Path) -> None:
        super().__init__(soak)
        self._directory = directory
        self._page: Page | None = None

    def begin(self) -> None:
        self._playwright = sync_playwright().start()
        path = browser_of(self.host, self._directory)
        self._browser = self._playwright.chromium.launch(executable_path=path, args=FLAGS)
        self._page = page = self._browser.new_page(base_url="http://127.0.0.1:8009")
        self._errors: list[str] = []
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        opened(page, self.host.key)
        page.evaluate("window.openedOnce = true")

    def step(self) -> None:
        page = self._page
        assert page is not None, "no browser"
        self.counts["looks at the page"] += 1
        deadline_s = time.monotonic() + _AGREES_S
        while not self._agrees(page, page.evaluate(_LOOK)):
            assert time.monotonic() < deadline_s, f"not what is true: {page.evaluate(_LOOK)}"
            page.wait_for_timeout(200)
        assert page.evaluate("window.openedOnce"), "the page was loaded anew"
        assert page.evaluate("document.querySelectorAll('*').length") < _ELEMENTS_MOST
        assert self._errors == []

    def end(self) -> None:
        if self._page is not None:
            heap = "Math.round(performance.memory.usedJSHeapSize / 2 ** 20)"
            size = self._page.evaluate(f"[document.querySelectorAll('*').length, {heap}]")
            print(f"the page has {size[0]} elements and {size[1]} MiB of objects")
            self._browser.close()
        self._playwright.stop()

    def _agrees(self, page: Page, look: list[str]) -> bool:
        """Whether nothing moved during a look, and the page says just that."""
        again = page.get_by_role("button", name="Look again")
        if again.is_visible():
            self.counts["times that the page rested"] += 1
            again.click()
        before, shown, after = ({*_RUNS.findall(text.replace(" busy", " ready"))} for text in look)
        return before == shown == after and (bool(shown) or look[1] == "nothing runs")

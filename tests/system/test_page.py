# SPDX-License-Identifier: Apache-2.0
"""The status page in a real browser, which sees nothing but the host's own network.

SPARKD_SCREENSHOTS names a directory for the pictures; without it they go to build/screenshots.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from .hosts import BASE_URL, ROOT, SETTINGS, Host, held_stream

PICTURES = Path(os.environ.get("SPARKD_SCREENSHOTS", ROOT / "build/screenshots"))
CHROMIUM = "chromium"
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-sync"]
PACKED_BYTES_MAX = 20_000
CATALOG_MODELS = 53
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}

PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)  # a promise of the page is that it happens, not how fast


def browser_of(host: Host, directory: Path) -> Path:
    """Chromium, inside the host's network: it can reach sparkd and nothing else."""
    found = shutil.which(CHROMIUM)
    assert found, f"{CHROMIUM} is missing: make tools"
    inside = directory / CHROMIUM
    inside.write_text(f'#!/bin/sh\nexec nsenter -t {host.pid} -n {found} "$@"\n')
    inside.chmod(0o755)
    return inside


@pytest.fixture(scope="module")
def browser(trixie: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    inside = browser_of(trixie, tmp_path_factory.mktemp("browser"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=inside, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, host: Host) -> Iterator[Page]:
    """A new session on the page, the key not given yet; an unasked-for complaint fails the test."""
    context = browser.new_context(viewport=DESK, base_url=BASE_URL)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.complaints = complaints  # type: ignore[attr-defined]
    yield page
    context.close()
    unexpected = [said for said in complaints if "Failed to load resource" not in said]
    assert unexpected == []


def opened(page: Page, key: str) -> None:
    """Open the page and give it a key."""
    page.goto("/")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#count")).to_contain_text("models")


def row(page: Page, model: str) -> Locator:
    return page.locator(f'#models > [data-key="{model}"]')


def card(page: Page, model: str) -> Locator:
    return page.locator(f'#now > [data-key="{model}"]')


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def daemon_left(host: Host) -> bool:
    """Whether it is gone and nothing has it start again."""
    return host.system_unit_states()["sparkd.service"] == "inactive"


def test_wrong_key_is_told_and_the_right_one_is_asked_for_once(page: Page, host: Host) -> None:
    page.goto("/")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "Ask the person who runs this server for a key"
    )
    picture(page, "key")
    page.get_by_label("Key", exact=True).fill(host.key)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#count")).to_contain_text("models")
    page.reload()
    expect(page.locator("#count")).to_contain_text("models")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_whole_catalog_is_listed_and_filtered(page: Page, host: Host) -> None:
    opened(page, host.key)
    shipped = host.sh("sparkctl models --all --json").count('"id"')
    page.locator("#show").select_option("")
    expect(page.locator("#models > li")).to_have_count(shipped)
    assert shipped >= CATALOG_MODELS
    page.get_by_label("Find").fill("gpt-oss 120")
    expect(page.locator("#count")).to_have_text(re.compile(r"\d of \d+ models"))
    for name in page.locator("#models strong").all_inner_texts():
        assert "gpt-oss" in name
        assert "120" in name


def test_model_is_loaded_chats_and_is_unloaded(page: Page, host: Host) -> None:
    host.configure(SETTINGS)
    opened(page, host.key)
    page.get_by_label("Find").fill("fake-b")
    with host.held_load("fake-b"):
        row(page, "fake-b").get_by_role("button", name="Load fake-b").click()
        expect(card(page, "fake-b").get_by_role("progressbar")).to_be_visible()
        expect(card(page, "fake-b")).to_contain_text("loading for")
        picture(page, "loading")
    expect(card(page, "fake-b")).to_contain_text("ready")

    card(page, "fake-b").get_by_role("button", name="Chat with fake-b").click()
    page.get_by_label("Message").fill("are you there?")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .assistant")).to_have_text("echo: are you there?")
    expect(page.locator("#talk .note")).to_contain_text("first word after")
    expect(page.locator("#recent")).to_contain_text("fake-b")
    picture(page, "chat")

    card(page, "fake-b").get_by_role("button", name="Unload fake-b").click()
    expect(card(page, "fake-b")).to_have_count(0)
    expect(page.locator("#now")).to_contain_text("No model is loaded")


def test_markup_in_an_answer_is_shown_and_never_run(page: Page, host: Host) -> None:
    opened(page, host.key)
    page.locator("#chat-model").select_option("fake-util")
    markup = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"
    page.get_by_label("Message").fill(markup)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#talk .assistant")).to_have_text(f"echo: {markup}")
    assert page.locator("#talk img, #talk b").count() == 0
    assert page.title() != "run"


def test_chat_waits_for_a_cold_model_and_says_so(page: Page, host: Host) -> None:
    host.configure(SETTINGS)
    opened(page, host.key)
    page.locator("#chat-model").select_option("fake-b")
    page.get_by_label("Message").fill("good morning")
    with host.held_load("fake-b"):
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#talk .note")).to_contain_text("sparkd loading fake-b")
    expect(page.locator("#talk .assistant")).to_have_text("echo: good morning")


def test_pinned_model_outlives_its_idle_timeout_until_it_is_unpinned(
    page: Page, host: Host
) -> None:
    host.configure(SETTINGS)
    # It leaves after four idle seconds, which a busy machine may need to open the page.
    held = held_stream(host, "fake-a")
    opened(page, host.key)
    pin = card(page, "fake-a").get_by_role("button", name="Pin fake-a")
    pin.click()
    expect(card(page, "fake-a")).to_contain_text("pinned")
    cursor = host.cursor()
    held.leave()
    # The second comes after the idle timeout, wherever in it the first one came.
    spared = ("SPARKD_EVENT=idle-check", "SPARKD_MODEL=fake-a", "SPARKD_OUTCOME=used since")
    host.wait_until(lambda: len(host.journal(*spared, since=cursor)) >= 2, "its time is over")
    expect(card(page, "fake-a")).to_contain_text("pinned")
    pin.click()
    expect(card(page, "fake-a")).to_have_count(0)


def test_log_of_a_model_is_shown_as_it_grows(page: Page, host: Host) -> None:
    host.configure(SETTINGS)
    host.chat("fake-b")
    opened(page, host.key)
    card(page, "fake-b").get_by_role("button", name="Log of fake-b").click()
    log = page.locator("#log")
    whole = re.compile(r"Application startup complete\.\s*$")
    expect(log).to_have_text(whole)
    before = len(log.inner_text())
    host.run("sparkctl", "stop", "fake-b")
    host.chat("fake-b")  # another run of the model, and the same log
    grown = "before => document.getElementById('log').innerText.length > before"
    page.wait_for_function(grown, arg=before)
    expect(log).to_have_text(whole)


def test_page_says_that_sparkd_is_gone_and_recovers(page: Page, host: Host) -> None:
    opened(page, host.key)
    host.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
    expect(page.locator("#banner")).to_contain_text("sparkd does not answer")
    picture(page, "gone")
    host.run("systemctl", "start", "sparkd.socket")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("nothing runs")


def test_page_left_open_lets_the_daemon_leave(page: Page, host: Host) -> None:
    host.configure(SETTINGS + "idle_exit: 2s\n")
    page.clock.install()
    opened(page, host.key)
    page.clock.fast_forward(45_000)
    expect(page.locator("#banner")).to_contain_text("lets sparkd sleep")
    host.wait_until(lambda: daemon_left(host), "the daemon leaves")
    page.clock.fast_forward(60_000)
    page.wait_for_timeout(1_000)
    assert daemon_left(host)
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("#banner")).to_be_hidden()


def test_page_that_rests_shows_what_becomes_of_what_its_reader_does(page: Page, host: Host) -> None:
    page.clock.install()
    opened(page, host.key)
    page.clock.fast_forward(45_000)
    expect(page.locator("#banner")).to_contain_text("lets sparkd sleep")
    row(page, "fake-util").get_by_role("button", name="Load fake-util").click()
    expect(page.locator("#banner")).to_be_hidden()
    expect(card(page, "fake-util")).to_contain_text("ready")


def test_key_for_inference_only_sees_and_chats_but_controls_nothing(page: Page, host: Host) -> None:
    key = host.sh("sparkctl key add page-guest --scope inference | tail -n 1")
    try:
        opened(page, key)
        expect(page.get_by_role("button", name="Chat with fake-b")).to_be_visible()
        expect(page.get_by_role("button", name="Load fake-b")).to_have_count(0)
        expect(page.locator("#log-section")).to_be_hidden()
    finally:
        host.run("sparkctl", "key", "revoke", "page-guest")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_violation(page: Page, host: Host, scheme: str) -> None:
    host.configure(SETTINGS)
    host.chat("fake-b")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    opened(page, host.key)
    expect(card(page, "fake-b")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    picture(page, f"status-{scheme}")


def test_setup_shows_what_doctor_finds(page: Page, host: Host) -> None:
    def findings() -> list[dict[str, str]]:
        said = host.run("sparkctl", "doctor", "--json", check=False).stdout
        found: list[dict[str, str]] = json.loads(said)["findings"]
        return found

    before = findings()
    opened(page, host.key)
    checks = page.locator("#checks")
    expect(checks.locator("li")).not_to_have_count(0)
    after = findings()
    if not before and not after:
        expect(checks).to_contain_text("nothing is wrong")
    # How much is left of a disk may change at any moment.
    for finding in (one for one in before if one in after):
        expect(checks).to_contain_text(finding["what"])
        expect(checks).to_contain_text(finding["fix"])


def test_phone_shows_it_all_without_scrolling_sideways(page: Page, host: Host) -> None:
    host.configure(SETTINGS)
    host.chat("fake-b")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    opened(page, host.key)
    expect(card(page, "fake-b")).to_be_visible()
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    picture(page, "phone")


def test_everything_works_by_keyboard(page: Page, host: Host) -> None:
    page.goto("/")
    page.keyboard.type(host.key)
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("models")
    page.keyboard.press("Tab")
    page.get_by_label("Find").focus()
    page.keyboard.type("fake-util")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Load fake-util"
    page.keyboard.press("Enter")
    expect(card(page, "fake-util")).to_be_visible()


def test_page_is_one_small_document_that_asks_only_sparkd(page: Page, host: Host) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, host.key)
    places = [url for url in asked if not url.startswith("data:")]
    assert all(url.startswith(BASE_URL) for url in places), asked
    assert not [url for url in places if re.search(r"\.(js|css|png|woff2?)$", url)]
    response = host.request("GET", "/", headers={"accept-encoding": "identity"})
    assert len(gzip.compress(response.content)) < PACKED_BYTES_MAX
    assert "default-src 'none'" in response.headers["content-security-policy"]

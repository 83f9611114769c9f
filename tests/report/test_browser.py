"""A browser clicks through the report: no error on its console, and not one request to a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.crafted_runs import make_run
from vllm_hpc.jobs.collect import collect
from vllm_hpc.report.write import write_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)
pytestmark = [
    pytest.mark.notebooks,
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        yield found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def point_at(self, mark: Any) -> None:
        mark.scroll_into_view_if_needed()
        # A scroll hides the tip, and is told of in the next frame.
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        mark.hover()

    def tip(self) -> str:
        found: str = self.page.locator("#tip").inner_text()
        return found

    def check(self, path: Path) -> None:
        assert self.said == []
        assert self.asked == [path.as_uri()]
        self.page.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("jobs") / "job", replicas=2))[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_click_through_the_report(browser: Any, report: Path, scheme: str) -> None:
    opened = Opened(browser, report, color_scheme=scheme)
    page = opened.page
    for link in page.locator("nav a").all():
        link.click()
        part = page.locator(str(link.get_attribute("href")))
        assert part.get_attribute("open") is not None, "a link opens the section that it leads to"
    for summary in page.locator("details.values > summary").all():
        summary.click()
    assert page.locator("details.values table tr").count() > 100
    figure = page.locator("figure").first
    opened.point_at(figure.locator("[data-tip]").last)
    assert "ending" in opened.tip()
    page.locator("button").click()
    page.locator("button", has_text=re.compile("^(Copied|Selected: copy it by its keys)$")).wait_for(timeout=10_000)
    opened.check(report)


def test_the_keyboard_reads_a_chart(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page
    page.locator("figure").first.focus()
    page.keyboard.press("ArrowRight")
    assert "queue" in opened.tip()
    page.keyboard.press("ArrowRight")
    assert "launch" in opened.tip()
    page.keyboard.press("End")
    assert "ending" in opened.tip()
    page.keyboard.press("Escape")
    assert page.locator("#tip").evaluate("tip => getComputedStyle(tip).visibility") == "hidden"
    opened.check(report)


def test_it_fits_a_narrow_window_and_prints(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, viewport={"width": 400, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
    closed = opened.page.locator("details.section:not([open])")
    assert closed.count() > 0
    opened.page.pdf()
    assert closed.count() == 0, "a printed page shows every section"
    opened.check(report)


def test_names_that_are_markup_run_nothing(browser: Any, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job'><img src=x onerror=alert(1)><script>alert(2)<")
    (folder.path / "script.sh").write_text("</pre></script><script>alert(3)</script><img src='http://localhost:9/x'>")
    path, _ = write_report(folder)
    opened = Opened(browser, path)
    opened.page.on("dialog", lambda dialog: opened.said.append(dialog.message))
    opened.page.reload()
    assert opened.page.locator("img").count() == 0
    opened.asked = opened.asked[:1]
    opened.check(path)


def test_two_jobs(browser: Any, tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", replicas=12)
    for folder in (first, second):
        collect(folder)
    path, _ = write_report(first, compare=second)
    opened = Opened(browser, path)
    for link in opened.page.locator("nav a").all():
        link.click()
    opened.point_at(opened.page.locator("#compare figure").first.locator("[data-tip]").nth(50))
    assert "second: 1,200 tokens/s" in opened.tip()
    opened.check(path)

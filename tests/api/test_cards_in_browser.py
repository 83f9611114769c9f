"""The cards in a browser: the button copies, nothing is asked of a network, nothing is said on the console."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vllm_hpc.api.cards import card
from vllm_hpc.spec.script import Script

pytestmark = [pytest.mark.notebooks, pytest.mark.full]

TEXT = '#!/bin/bash\n#SBATCH --nodes=2\n\nif true; then\n\techo "$HOME <&>"\nfi\n'


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_a_script_is_copied_without_its_line_numbers(tmp_path: Path, has_clipboard: bool) -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    page_file = tmp_path / "page.html"
    page_file.write_text(f"<!doctype html><meta charset=utf-8>{card(Script(TEXT, 'script.sbatch'))}")
    said: list[str] = []
    asked: list[str] = []
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        if not has_clipboard:
            page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject()}})")
        page.get_by_text("Copy", exact=True).click()
        page.get_by_text("Copied", exact=True).wait_for()
        copied = page.evaluate("getSelection().toString()" if not has_clipboard else "navigator.clipboard.readText()")
        browser.close()
    assert copied == TEXT.removesuffix("\n")
    assert said == [] and asked == [page_file.as_uri()]

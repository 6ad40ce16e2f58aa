"""A report of `w2v-visualize` in a real browser: nothing is said on the console, nothing is asked for, sounds play."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import launch, sync_playwright, watch

from w2v.pictures.canvas import drawing_style, new_figure, to_png
from w2v.pictures.report import Image, Section, Table, render_report
from w2v_cli.visualization.gallery import sound

pytest.importorskip("matplotlib")
pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = 0.1 * np.sin(np.arange(8000) / 8).astype(np.float32)
    with drawing_style():
        figure = new_figure(5, 3)
        figure.subplots().plot([1, 2, 3])
        picture = Image(to_png(figure), "A line that rises from one to three.", "a.png", "a.csv")
    tone = sound(samples, 16000, "half a second of <b>tone</b>")
    table = Table(["frame", "neighbour"], [["text & more", tone]])
    sections = [Section("First", ["A paragraph."], [tone, picture]), Section("Second", [], [table])]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(render_report("A <title>", {"model": "wav2vec"}, sections, footer="The end."))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        running = launch(driver)
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_silent_complete_and_alone(browser: Any, report: Path, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    page = context.new_page()
    said, asked = watch(page)
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.title() == "A <title>"
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert widths == [500]
    seconds = page.eval_on_selector_all(
        "audio",
        """sounds => Promise.all(sounds.map(sound => new Promise((done, failed) => {
            sound.onloadedmetadata = () => done(sound.duration);
            sound.onerror = () => failed(sound.error.message);
            sound.load();
        })))""",
    )
    assert seconds == pytest.approx([0.5, 0.5])
    # Each section can be reached, and names read aloud are there.
    assert page.locator("nav a").count() == 2
    page.locator("nav a").last.click()
    assert page.url.endswith("#part-2")
    assert page.locator("audio").first.get_attribute("aria-label") == "half a second of <b>tone</b>"
    # Light text on dark ground, or the other way round: brightness of ink and paper.
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert (sum(ink) < sum(paper)) == (scheme == "light")
    # Nothing runs over the edge of a narrow screen.
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    context.close()


def test_the_report_can_be_printed(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.locator("audio").first.is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.locator("img").is_visible()
    assert io.BytesIO(page.pdf()).read(5) == b"%PDF-"
    page.close()

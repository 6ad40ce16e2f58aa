"""The page of `w2v-live --serve` in a real browser, whose microphone plays a file; P32, P34, P35 are requirements."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import webvtt
from chromium import launch, sync_playwright, watch
from PIL import Image
from rapidfuzz.distance import Levenshtein

from w2v.inference.transcribe import transcribe

connect = pytest.importorskip("websockets.sync.client", reason="websockets is not installed").connect

RATE = 16000
# Keeps what appears on the page, however short: each line as it is added, with its colour, and the levels; and how the
# microphone was opened.
WATCH = """
window.seen = [];
window.settings = [];
const open = MediaDevices.prototype.getUserMedia;
MediaDevices.prototype.getUserMedia = async function (wishes) {
    const stream = await open.call(this, wishes);
    window.settings.push(stream.getAudioTracks()[0].getSettings());
    return stream;
};
window.levels = new Set();
new MutationObserver(changes => {
    for (const { addedNodes } of changes)
        for (const line of addedNodes)
            if (line.nodeName === "LI")
                window.seen.push([line.className, getComputedStyle(line.querySelector("p")).color]);
    window.levels.add(document.getElementById("level")?.ariaValueNow);
}).observe(document, { childList: true, subtree: true, attributes: true });
"""
SLOW = 30_000  # ms, for what a busy machine may take


@pytest.fixture(scope="module")
def speech(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of silence, which a browser loses a part of, and two clips of digits with a pause behind each."""
    rng = np.random.default_rng(0)
    pause = np.zeros(int(0.8 * RATE), np.float32)
    names = ("vs_george_00000", "vs_george_00004")
    clips = [soundfile.read(data / f"digits_valid_seen/george/{name}.flac", dtype="float32")[0] for name in names]
    samples = np.concatenate([np.zeros(RATE, np.float32), clips[0], pause, clips[1], pause])
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    noise = rng.normal(size=len(samples)).astype(np.float32) * 1e-4
    soundfile.write(path, np.stack([samples + noise] * 2, axis=1), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def expected(speech: Path, digits_model: Path) -> list[str]:
    """The words that `w2v-transcribe` finds in the file."""
    words = transcribe(str(speech), model=digits_model, device="cpu").text.split()
    assert len(words) == 7
    return words


@contextmanager
def serving(model: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the program; yield the address that it prints."""
    command = [sys.executable, "-m", "w2v_cli.live", str(model), "--serve", "--port", "0", "--cpu", *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as run:
        try:
            assert run.stdout is not None
            address = run.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), address
            yield address, run
        finally:
            run.kill()


@pytest.fixture(scope="module")
def served(digits_model: Path) -> Iterator[str]:
    with serving(digits_model) as (address, _):
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(driver: Any, speech: Path) -> Iterator[Any]:
    """A browser that asks before it gives the microphone; contexts say the answer."""
    running = launch(driver, "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={speech}%noloop")
    yield running
    running.close()


@contextmanager
def opened(browser: Any, address: str, *, may_hear: bool = True, before: str = "", **more: Any) -> Iterator[Any]:
    """Open the page in a context of its own; nothing may be said on the console, or asked of another server."""
    permissions = ["clipboard-read", "clipboard-write", *(["microphone"] if may_hear else [])]
    context = browser.new_context(viewport={"width": 1000, "height": 680}, permissions=permissions, **more)
    context.set_default_timeout(SLOW)
    page = context.new_page()
    said, asked = watch(page)
    if before:
        page.add_init_script(before)
    page.goto(address)
    yield page
    context.close()
    server = address.partition("?")[0]
    assert [url for url in asked if not url.startswith(("blob:", server))] == []
    assert [text for text in said if "WebSocket connection to" not in text] == []  # of a server that is gone


def state(page: Any, text: str) -> None:
    """Wait for a state of the page."""
    page.locator("#state").get_by_text(text, exact=True).wait_for()


def problem(page: Any) -> str:
    """Wait for a sentence about what is wrong."""
    page.locator("#problem").wait_for()
    return str(page.locator("#problem").inner_text())


def words_of(page: Any) -> list[str]:
    return " ".join(page.locator(".final p").all_inner_texts()).split()


def test_two_tabs_hear_the_microphone(browser: Any, served: str, expected: list[str], tmp_path: Path) -> None:
    """P32, P35: partials, then finals with the words of `w2v-transcribe`; by keyboard alone; copied and downloaded."""
    with (
        opened(browser, served, before=WATCH) as page,
        opened(browser, served, before=WATCH, color_scheme="dark") as other,
    ):
        sent: list[str | bytes] = []
        page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(data)))
        for tab in (page, other):
            assert tab.locator("#copy").is_disabled()
            tab.keyboard.press("Space")
        for tab in (page, other):
            tab.locator(".final").first.wait_for()
            assert tab.locator("#start-label").inner_text() == "Stop"
        for tab in (page, other):
            tab.locator(".final").nth(1).wait_for()
            tab.keyboard.press("Space")
            state(tab, "Stopped")
            assert tab.locator(".partial").count() == 0
            assert Levenshtein.distance(words_of(tab), expected) <= 1
            check_looks(tab, tmp_path / "page.png", is_dark=tab is other)
        check_sound(page, sent)
        first = words_of(page)
        # What the microphone plays begins again with each recording.
        page.keyboard.press("Space")
        page.locator(".final").nth(3).wait_for()
        page.keyboard.press("Space")
        state(page, "Stopped")
        assert Levenshtein.distance(words_of(page)[len(first) :], expected) <= 1
        check_files(page, tmp_path)


def check_sound(page: Any, sent: list[str | bytes]) -> None:
    """P34: the browser's own rate, told first; no processing; all of the samples."""
    (settings,) = page.evaluate("settings")
    assert [settings[name] for name in ("echoCancellation", "noiseSuppression", "autoGainControl")] == [False] * 3
    rate = page.evaluate("new AudioContext().sampleRate")
    assert rate > RATE
    assert json.loads(sent[0]) == {"sample_rate": rate}
    assert json.loads(sent[-1]) == {"stop": True}
    sizes = [len(message) for message in sent[1:-1]]
    assert max(sizes) == pytest.approx(0.1 * rate, abs=2)  # bytes of 50 ms
    shown = page.locator("#clock").inner_text()
    assert shown == f"0:{int(sum(sizes) / 2 / rate):02d}"


def brightness(color: str) -> float:
    return float(np.mean([int(number) for number in re.findall(r"\d+", color)[:3]]))


def check_looks(page: Any, picture: Path, *, is_dark: bool) -> None:
    """P35: black on white or the other way round, partials paler than finals; nothing over the edge of a phone."""
    seen = page.evaluate("seen")
    assert [kind for kind, _ in seen] == ["partial", "final"] * 2
    paper = brightness(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for pale, ink in zip(seen[::2], seen[1::2], strict=True):
        contrasts = [abs(paper - brightness(color)) for _, color in (pale, ink)]
        assert 90 < contrasts[0] < contrasts[1]  # a partial is readable all the same
        assert (brightness(ink[1]) > paper) == is_dark
    assert len(page.evaluate("[...levels]")) > 5
    page.screenshot(path=picture)
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert (np.median(pixels) < 128) == is_dark
    assert 0.002 < np.mean(abs(pixels - np.median(pixels)) > 90) < 0.1  # there is writing on it
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1000, "height": 680})


def check_files(page: Any, folder: Path) -> None:
    """P35: the text on the clipboard and in a file, subtitles that an independent reader takes."""
    lines = page.locator(".final p").all_inner_texts()
    page.locator("#copy").focus()
    page.keyboard.press("Enter")
    page.locator("#copy").get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == lines
    for ending in ("txt", "srt"):
        page.keyboard.press("Tab")
        with page.expect_download() as waiting:
            page.keyboard.press("Space")
        waiting.value.save_as(folder / f"session.{ending}")
        assert re.fullmatch(rf"w2v-[\d-]{{16}}\.{ending}", waiting.value.suggested_filename)
    assert (folder / "session.txt").read_text(encoding="utf-8").splitlines() == lines
    cues = webvtt.from_srt(str(folder / "session.srt"))
    assert " ".join(cue.text.replace("\n", " ") for cue in cues).split() == words_of(page)
    times = [(cue.start_in_seconds, cue.end_in_seconds) for cue in cues]
    assert times == sorted(times)
    assert times[len(times) // 2][0] > 5  # of the second recording
    page.locator("#clear").click()
    assert page.locator("#transcript li").count() == 0
    state(page, "Ready")


def test_each_failure_has_its_sentence(browser: Any, driver: Any, served: str) -> None:
    """P34: permission denied, a device that another program has, none at all, too many people, a page without https."""
    sentences = []
    with opened(browser, served, may_hear=False) as page:
        page.locator("#start").click()
        sentences.append(problem(page))
        state(page, "Ready")
        assert page.locator("#start-label").inner_text() == "Start"
    # No switch of Chromium makes a device busy.
    busy = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('busy', 'NotReadableError'); };"
    with opened(browser, served, before=busy) as page:
        page.locator("#start").click()
        sentences.append(problem(page))
    bare = launch(driver)  # without the device that plays a file
    with opened(bare, served) as page:
        page.locator("#start").click()
        sentences.append(problem(page))
    bare.close()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(served.replace("http", "ws") + "live", proxy=None)).send(
                '{"sample_rate": 8000}'
            )
        page = stack.enter_context(opened(browser, served))
        page.locator("#start").click()
        sentences.append(problem(page))
    with opened(browser, served) as page:
        # The same files under an address that browsers do not trust.
        untrusted = "http://speech.example/"
        page.context.route(
            untrusted + "**",
            lambda route: route.fulfill(response=page.request.get(served + route.request.url.removeprefix(untrusted))),
        )
        other = page.context.new_page()
        other.goto(untrusted)
        sentences.append(problem(other))
        other.locator("#start").click()
        state(other, "Ready")
        sentences.append(problem(other))
    denied, taken, absent, full, insecure, still = sentences
    assert denied.startswith("The browser was not allowed to use the microphone.")
    assert taken.startswith("The microphone could not be started: another program may be using it.")
    assert absent.startswith("No microphone was found.")
    assert full.startswith("The server already hears as many people as it can.")
    assert insecure.startswith("Browsers give no microphone to http://speech.example, because the address is neither")
    assert still == insecure


def test_a_server_that_is_gone(browser: Any, digits_model: Path) -> None:
    """P32: killed in the middle of a word; what was said stays, and the page says what happened."""
    with serving(digits_model, "--token", "s3cret") as (address, run):
        assert address.endswith("/?token=s3cret")
        with opened(browser, address) as page:
            assert page.url == address.partition("?")[0]  # P33: the token is a cookie now
            page.locator("#start").click()
            page.locator(".partial p").get_by_text("FOUR").wait_for()
            run.send_signal(signal.SIGKILL)
            assert problem(page).startswith("The connection to the server has ended.")
            state(page, "Stopped")
            assert page.locator(".unfinished, .final").first.inner_text().split()[1] == "FOUR"
            assert page.locator("#txt").is_enabled()
            page.locator("#start").click()
            page.locator("#start-label").get_by_text("Start").wait_for()
            assert problem(page).startswith("The connection to the server has ended.")


def test_pages_of_other_servers_are_refused(browser: Any, served: str) -> None:
    """P33: a page from elsewhere can neither open the socket nor send a recording; the browser itself tries."""

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    other = HTTPServer(("127.0.0.1", 0), Foreign)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        open_socket = """address => new Promise(done => {
            const socket = new WebSocket(address);
            socket.onopen = () => done("open");
            socket.onclose = event => done(event.code);
        })"""
        assert page.evaluate(open_socket, served.replace("http", "ws") + "live") == 1006
        address = served + "v1/audio/transcriptions"
        page.set_content(f'<form method=post enctype="multipart/form-data" action="{address}"><input name=a></form>')
        with page.expect_navigation() as answer:
            page.evaluate("document.forms[0].submit()")
        assert answer.value.status == 403
        page.close()
    finally:
        other.shutdown()
        thread.join()
        other.server_close()

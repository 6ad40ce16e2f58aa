"""The server of `w2v-live --serve`: whom it answers, what it takes, and OpenAI's form. P33 and P34 are requirements."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import html.parser
import http.client
import json
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.errors import ConfigError
from w2v.inference.live import LiveSession
from w2v.inference.live_options import LiveOptions
from w2v.inference.result import Transcript
from w2v.inference.transcribe import open_transcriber, transcribe
from w2v.inference.transcriber import Transcriber
from w2v_cli import live
from w2v_cli.serve import listening
from w2v_cli.serve.access import Access
from w2v_cli.serve.flags import ServeOptions
from w2v_cli.serve.form import read_form
from w2v_cli.serve.http import HttpError, Request
from w2v_cli.serve.server import Limits, Server, page_files

client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
exceptions = pytest.importorskip("websockets.exceptions")
pytest.importorskip("soxr")

RATE = 16000
OPTIONS = LiveOptions(vad="level")
LIMITS = Limits(silence=1.0, upload=1 << 20)
TRANSCRIPTIONS = "/v1/audio/transcriptions"


class Running:
    """A server in a thread of its own."""

    def __init__(self, transcriber: Transcriber, access: Access | None = None, limits: Limits = LIMITS) -> None:
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(transcriber, access, limits)))
        self._thread.start()
        assert self._ready.wait(20)

    async def _run(self, transcriber: Transcriber, access: Access | None, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = Server(transcriber, OPTIONS, access or Access("127.0.0.1"), limits=limits)
        await self._server.run("127.0.0.1", 0, self._is_ready)

    def _is_ready(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def stop(self) -> None:
        """Let it end."""
        self._loop.call_soon_threadsafe(self._server.stop)

    def close(self) -> None:
        """End it."""
        if self._thread.is_alive():
            self.stop()
            self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(
        self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers (by lower-case name) and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def connect(self, path: str = "/live", **more: Any) -> Any:
        """Open a WebSocket."""
        return client.connect(f"ws://127.0.0.1:{self.port}{path}", max_size=None, proxy=None, **more)


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever clients do, nothing of the server fails: neither its own code, nor what asyncio finds left over."""
    yield
    gc.collect()
    failed = [record for record in caplog.records if record.name.startswith(("asyncio", "w2v_cli"))]
    assert [record.getMessage() for record in failed] == []


@pytest.fixture(scope="module")
def transcriber(golden: Any) -> Transcriber:
    """A model of random weights."""
    return open_transcriber(golden / "people/hf_stitch/layer", device="cpu")


@pytest.fixture(scope="module")
def hearing(digits_model: Path) -> Transcriber:
    """A model of connected digits."""
    return open_transcriber(digits_model, device="cpu")


@pytest.fixture(scope="module")
def server(transcriber: Transcriber) -> Iterator[Running]:
    running = Running(transcriber)
    yield running
    running.close()


@pytest.fixture(scope="module")
def digits_server(hearing: Transcriber) -> Iterator[Running]:
    running = Running(hearing)
    yield running
    running.close()


@pytest.fixture(scope="module")
def clip(data: Path) -> np.ndarray:
    """Two clips of digits between pauses, with a little noise."""
    names = ("vs_george_00000", "vs_george_00004")
    clips = [soundfile.read(data / f"digits_valid_seen/george/{name}.flac", dtype="float32")[0] for name in names]
    silence = np.zeros(RATE // 2, np.float32)
    joined = np.concatenate([silence, clips[0], silence, silence, clips[1], silence, silence])
    return joined + np.random.default_rng(0).normal(size=len(joined)).astype(np.float32) * 1e-4


def pcm(samples: np.ndarray) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()


def hear(running: Running, data: bytes, rate: int = RATE, size: int = 3200, pace: float = 0.0) -> list[dict[str, Any]]:
    """Send samples as a page does; return the events."""
    with running.connect() as connection:
        connection.send(json.dumps({"sample_rate": rate}))
        for start in range(0, len(data), size):
            connection.send(data[start : start + size])
            time.sleep(pace)
        connection.send('{"stop": true}')
        events = [json.loads(message) for message in connection]
    assert connection.close_code == 1000
    return events


def finals(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["event"] == "final" and event["text"]]


def code_of(connection: Any) -> tuple[int, str]:
    """Return the code and the reason with which the server ends a connection."""
    try:
        while True:
            connection.recv(timeout=20)
    except exceptions.ConnectionClosed:
        return connection.close_code, connection.close_reason


def refusal(running: Running, path: str = "/live", **more: Any) -> int | None:
    """Return the status with which a WebSocket is refused; None: it is not."""
    try:
        with running.connect(path, **more):
            return None
    except exceptions.InvalidStatus as e:
        return int(e.response.status_code)


# The page


class References(html.parser.HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name == "style" or name.startswith("on") for name, _ in attrs)  # the policy forbids them


def test_the_page_needs_nothing_from_elsewhere(server: Running) -> None:
    status, headers, body = server.ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    references = References()
    references.feed(body.decode())
    files = page_files()
    assert set(references.found) == {"icon.svg", "style.css", "app.js"}
    for name in files:
        status, headers, body = server.ask(f"/{name}")
        assert (status, body) == (200, files[name])
        assert headers["x-content-type-options"] == "nosniff"
        urls = re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"^//.*$|^ *// .*$", "", body.decode(), flags=re.MULTILINE))
        assert [url for url in urls if not url.endswith("www.w3.org")] == []
        loaded = re.findall(r'(?:from|addModule\(|import\() ?"([^"]+)"', body.decode())
        assert {name.removeprefix("./") for name in loaded} <= set(files)


def test_the_policy_is_strict(server: Running) -> None:
    _, headers, _ = server.ask("/")
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules.pop("connect-src") == f"'self' ws://127.0.0.1:{server.port} wss://127.0.0.1:{server.port}"
    assert rules.pop("require-trusted-types-for") == "'script'"
    none = ("default-src", "base-uri", "form-action", "frame-ancestors")
    assert rules == {**dict.fromkeys(none, "'none'"), **dict.fromkeys(("script-src", "style-src", "img-src"), "'self'")}


def test_other_requests_get_a_sentence(server: Running) -> None:
    assert server.ask("/nothing")[0] == 404
    assert server.ask("/../../etc/passwd")[0] == 404
    assert server.ask("/", "POST", b"x=1")[0] == 405
    assert server.ask(TRANSCRIPTIONS)[0] == 405
    status, headers, body = server.ask("/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(page_files()["index.html"])
    assert server.ask("/live")[0] == 404  # without a wish for a socket
    assert server.ask("/live", Upgrade="websocket")[0] == 426


# P33: whom it answers


@pytest.mark.parametrize("path", ["/", "/live", TRANSCRIPTIONS])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:{port}.evil.example", "http://localhost:{port}",
     "https://127.0.0.1:{port}", "http://127.0.0.1:{port}/", "http://evil.example:{port}", ""],
)  # fmt: skip
def test_foreign_pages_are_refused(server: Running, path: str, origin: str) -> None:
    origin = origin.format(port=server.port)
    method = "POST" if path == TRANSCRIPTIONS else "GET"
    status, _, body = server.ask(path, method, Origin=origin, Upgrade="websocket")
    assert status == 403
    assert b"may not use this server" in body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.1.1",
     "localhost:{port};x", "[::2]", "", "localhost@evil.example"],
)  # fmt: skip
def test_foreign_names_are_refused(server: Running, host: str) -> None:
    host = host.format(port=server.port)
    assert server.ask("/", Host=host)[0] == 403
    assert server.ask(TRANSCRIPTIONS, "POST", b"", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]:80", "localhost.:80"])
def test_own_names_are_answered(server: Running, host: str) -> None:
    """Another port is what a tunnel has at its other end."""
    assert server.ask("/", Host=host)[0] == 200
    assert server.ask("/", Host=host, Origin=f"http://{host.lower()}")[0] == 200


def test_a_socket_of_a_foreign_page_gets_403(server: Running) -> None:
    assert refusal(server, origin="https://evil.example") == 403
    with server.connect(origin=f"http://127.0.0.1:{server.port}"):
        pass


def asked(host: str, **headers: str) -> Request:
    return Request("GET", "/", {}, {"host": host, **headers}, b"")


def test_beyond_this_machine_addresses_are_names() -> None:
    """A name can be pointed at any machine by its owner, an address cannot."""
    open_one = Access("0.0.0.0", "secret", ("https://live.example.org",))
    for host in ("192.168.1.5:8000", "[fe80::1]:8000", "localhost", "live.example.org", socket.gethostname()):
        open_one.check(asked(host.lower()))
    with pytest.raises(HttpError, match=r"not other\.example"):
        open_one.check(asked("other.example:8000"))
    open_one.check(asked("live.example.org", origin="https://live.example.org"))
    open_one.check(asked("localhost:8000", origin="https://live.example.org"))
    with pytest.raises(HttpError, match="may not use"):
        open_one.check(asked("live.example.org", origin="https://live.example.org.evil.example"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 lets other machines in: give --token WORD"),
        ({"host": "::"}, "lets other machines in"),
        ({"host": "192.168.1.5"}, "lets other machines in"),
        ({"origin": ("https://live.example.org",)}, "--origin lets other machines in: give --token WORD"),
        ({"token": "two words"}, "--token must consist of letters"),
        ({"token": ""}, "--token must consist of letters"),
        ({"token": "x", "origin": ("live.example.org",)}, "--origin must be like https://"),
        ({"port": 65536}, "--port"),
    ],
)
def test_flags_that_break_a_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ServeOptions(serve=True, **values)
    if "token" in values or "origin" in values:
        with pytest.raises(ConfigError, match="--serve" if any(values.values()) else ".*"):
            ServeOptions(**values) if any(values.values()) else ServeOptions(serve=True, **values)


def test_serving_is_for_those_who_open_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    more = [["talk.wav"], ["--json"], ["--output-dir", "out"], ["--device", "1"], ["--list-devices"]]
    for options in more:
        assert live.main(["model.pt", *options, "--serve"]) == 2
        assert (
            f"leave out {'the source talk.wav' if options == ['talk.wav'] else options[0]}" in capsys.readouterr().err
        )


def test_without_websockets_a_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "websockets.server", None)
    assert live.main(["model.pt", "--serve"]) == 2
    assert 'pip install "w2v[live]"' in capsys.readouterr().err


def test_a_port_that_is_taken(server: Running, golden: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = golden / "people/hf_stitch/layer"
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert live.main([str(model), "--serve", "--cpu", "--port", str(server.port)]) == 2
    assert re.search(rf"--host 127.0.0.1 --port {server.port}: .*; give another one", capsys.readouterr().err)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_flags_within_the_rules() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert ServeOptions(serve=True, host=host).access.token is None
    assert ServeOptions(serve=True, host="0.0.0.0", token="a-b_c.d~e").access.token == "a-b_c.d~e"


def test_the_token_is_asked_for(transcriber: Transcriber) -> None:
    running = Running(transcriber, Access("127.0.0.1", "s3cret"))
    try:
        wrong = (
            {"Cookie": f"w2v-{running.port}=s3cre"},
            {"Authorization": "Bearer nope"},
            {"Authorization": "s3cret"},
            {},
        )
        for path in ("/", "/app.js", "/v1/models", "/?token=nope", "/?token=", "/nothing"):
            for headers in wrong:
                assert running.ask(path, **headers)[0] == 401
        assert running.ask(TRANSCRIPTIONS, "POST", b"")[0] == 401
        assert refusal(running) == 401
        # The address with the token gives a cookie, and is left behind.
        status, headers, _ = running.ask("/?token=s3cret")
        assert (status, headers["location"]) == (303, "./")
        cookie, *rules = headers["set-cookie"].split("; ")
        assert set(rules) == {"Path=/", "HttpOnly", "SameSite=Strict"}
        assert running.ask("/", Cookie=f"other=1; {cookie}")[0] == 200
        assert running.ask("/v1/models", Authorization="Bearer s3cret")[0] == 200
        assert refusal(running, additional_headers={"Cookie": cookie}) is None
        assert refusal(running, "/live?token=s3cret") is None
    finally:
        running.close()


# P33: what it takes


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        (["hello"], 1008, "the first message must be"),
        ([b"\0\0"], 1008, "the first message must be"),
        (['{"sample_rate": 0}'], 1008, "from 8000 to 384000 Hz"),
        (['{"sample_rate": "48000"}'], 1008, "from 8000"),
        (['{"sample_rate": NaN}'], 1008, "from 8000"),
        (['{"sample_rate": true}'], 1008, "from 8000"),
        (['{"sample_rate": 44100.5}'], 1008, "from 8000"),
        (["[" * 60000], 1008, "the first message must be"),
        (['{"sample_rate": 48000}', "junk"], 1008, "must be samples"),
        (['{"sample_rate": 48000}', '{"stop": 1}'], 1008, "must be samples"),
        (['{"sample_rate": 48000}', bytes((1 << 16) + 2)], 1009, ""),
        (['{"sample_rate": 48000}'], 1008, "nothing was sent for 1 seconds"),
        ([], 1008, "nothing was sent for 1 seconds"),
    ],
)
def test_clients_that_break_the_rules_are_told(server: Running, messages: list[Any], code: int, reason: str) -> None:
    with server.connect() as connection:
        for message in messages:
            connection.send(message)
        found = code_of(connection)
    assert found[0] == code
    assert reason in found[1]


def test_the_largest_message_is_taken_whole_or_in_pieces(server: Running) -> None:
    with server.connect() as connection:
        connection.send('{"sample_rate": 16000}')
        connection.send(bytes(1 << 16))
        connection.send(bytes(1 << 12) for _ in range(16))  # frames of one message
        connection.send('{"stop": true}')
        events = [json.loads(message) for message in connection]
    assert connection.close_code == 1000
    assert events[0] == {"event": "ready", "model": "layer", "sample_rate": RATE}
    assert (events[-1]["event"], events[-1]["end"]) == ("end", (1 << 17) / 2 / RATE)


def test_pings_are_not_sound(server: Running) -> None:
    """A client that is there, but sends nothing, does not keep a place."""
    with server.connect() as connection:
        connection.send('{"sample_rate": 16000}')
        begun = time.monotonic()
        while time.monotonic() - begun < 5:
            try:
                connection.ping()
            except exceptions.ConnectionClosed:
                break
            time.sleep(0.1)
        assert code_of(connection)[0] == 1008


def test_four_are_heard_at_once(server: Running) -> None:
    def knock() -> tuple[Any, dict[str, Any] | None]:
        connection = stack.enter_context(server.connect())
        with contextlib.suppress(exceptions.ConnectionClosed):
            connection.send('{"sample_rate": 16000}')
            return connection, json.loads(connection.recv())
        return connection, None

    with contextlib.ExitStack() as stack:
        heard = [knock() for _ in range(4)]
        assert all(answer is not None and answer["event"] == "ready" for _, answer in heard)
        fifth, answer = knock()
        assert answer is None
        assert code_of(fifth) == (1013, "4 sessions are open already")
        heard[0][0].socket.close()  # gone without a word
        heard[1][0].close()
        for connection, _ in heard[2:]:
            connection.send('{"stop": true}')
            assert [json.loads(message)["event"] for message in connection] == ["end"]
        deadline = time.monotonic() + 10
        while knock()[1] is None:  # places are free as soon as their threads have ended
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "junk",
    [
        b"\0" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/2\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(server: Running, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert re.match(rb"HTTP/1.1 4\d\d ", answer)
    assert server.ask("/")[0] == 200


def test_junk_and_floods_do_not_disturb_others(digits_server: Running, clip: np.ndarray) -> None:
    """P33: beside a flood, junk and half-open connections a client is heard, with the same words, in bounded time."""
    alone = hear(digits_server, pcm(clip))
    stop = threading.Event()
    sent = [0, 0]

    def flood() -> None:
        with digits_server.connect() as connection:
            connection.send('{"sample_rate": 48000}')
            while not stop.is_set():
                try:
                    connection.socket.settimeout(0.5)
                    connection.send(bytes(1 << 16))
                    sent[0] += 1 << 16
                except (OSError, exceptions.ConnectionClosed):
                    return

    def talk_junk() -> None:
        while not stop.is_set():
            with digits_server.connect() as connection:
                connection.send("junk")
                code_of(connection)
                sent[1] += 1

    threads = [threading.Thread(target=flood), threading.Thread(target=talk_junk)]
    idle = [socket.create_connection(("127.0.0.1", digits_server.port)) for _ in range(20)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    beside = hear(digits_server, pcm(clip))
    answered = time.monotonic()
    assert digits_server.ask("/")[0] == 200
    assert time.monotonic() - answered < 2
    stop.set()
    for thread in threads:
        thread.join(30)
    for connection in idle:
        connection.close()
    assert finals(beside) == finals(alone) == ["FOUR TWO NINE", "EIGHT THREE THREE SEVEN"]
    assert answered - begun < 15
    assert sent[1] > 0
    # The flood was read as fast as the model heard it: at most what the queue and the sockets hold is ahead of that.
    assert sent[0] < 64 << 20


def test_a_server_that_stops_ends_what_is_being_said(hearing: Transcriber, clip: np.ndarray) -> None:
    """Within two seconds, with the final of what was said so far."""
    running = Running(hearing)
    socket.create_connection(("127.0.0.1", running.port))  # says nothing
    with running.connect() as connection:
        connection.send('{"sample_rate": 16000}')
        connection.send(pcm(clip[: 2 * RATE]))
        while json.loads(connection.recv(timeout=20))["event"] != "partial":
            pass
        begun = time.monotonic()
        running.stop()
        events = [json.loads(message) for message in connection]
        assert time.monotonic() - begun < 2
    assert connection.close_code == 1001
    assert [event["event"] for event in events][-2:] == ["final", "end"]
    assert events[-2]["text"].startswith("FOUR TWO")
    running.close()


# P34: sound


def directly(transcriber: Transcriber, samples: np.ndarray) -> list[dict[str, Any]]:
    session = LiveSession(transcriber, OPTIONS)
    return [event.json() for event in session.feed(samples) + session.finish()]


@pytest.mark.parametrize("size", [77, 65536])
def test_events_are_those_of_a_live_session(
    digits_server: Running, hearing: Transcriber, clip: np.ndarray, size: int
) -> None:
    """P34: messages of any size, odd ones included. Partials depend on the clock, finals do not."""
    data = pcm(clip)
    found = hear(digits_server, data, size=size)
    expected = directly(hearing, np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    assert found[0]["event"] == "ready"
    kept = ("speech_start", "final", "end")
    for event in found + expected:
        event.pop("latency", None)
    cues = [event.pop("cues") for event in found if event["event"] == "final"]
    assert [event for event in found[1:] if event["event"] in kept] == [e for e in expected if e["event"] in kept]
    for event, lines in zip([event for event in found if event["event"] == "final"], cues, strict=True):
        assert " ".join(text.replace("\n", " ") for _, _, text in lines) == event["text"]
        assert all(0 <= start < end for start, end, _ in lines)
    # A partial comes before its final, and never after it.
    order = [(event["utterance"], event["event"]) for event in found if event["event"] in ("partial", "final")]
    assert order == sorted(order, key=lambda item: (item[0], item[1] == "final"))


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_any_rate_of_a_browser(digits_server: Running, clip: np.ndarray, rate: int) -> None:
    soxr = pytest.importorskip("soxr")
    events = hear(digits_server, pcm(soxr.resample(clip, RATE, rate)), rate, size=rate // 10)
    if rate > RATE:  # at 8 kHz half of what the model knows is missing
        assert finals(events) == ["FOUR TWO NINE", "EIGHT THREE THREE SEVEN"]
    assert events[-1]["end"] == pytest.approx(len(clip) / RATE, abs=0.001)


def test_seams_between_messages_leave_no_trace(clip: np.ndarray) -> None:
    soxr = pytest.importorskip("soxr")
    data, rng = pcm(clip), np.random.default_rng(1)
    converter, parts, place = listening.Converter(44100, RATE), [], 0
    while place < len(data):
        size = int(rng.integers(1, 9000))
        parts.append(converter.push(data[place : place + size]))
        place += size
    found = np.concatenate([*parts, converter.finish()])
    whole = soxr.resample(np.frombuffer(data, "<i2").astype(np.float32) / 32768, 44100, RATE)
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_what_a_slow_model_cannot_hear_is_counted(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    """A microphone does not wait: beyond 30 s the oldest sound is dropped, and said. Nothing else is lost."""
    gate = threading.Event()
    feed = LiveSession.feed

    def slow(self: LiveSession, samples: np.ndarray, lag: float = 0.0) -> list[Any]:
        gate.wait(20)
        return feed(self, samples, lag)

    monkeypatch.setattr(LiveSession, "feed", slow)
    monkeypatch.setattr(listening, "AHEAD", 1e9)  # as if the clock had gone on
    running = Running(transcriber)
    with running.connect() as connection:
        connection.send('{"sample_rate": 16000}')
        for _ in range(50):
            connection.send(bytes(2 * RATE))
        connection.send('{"stop": true}')
        time.sleep(0.5)
        gate.set()
        events = [json.loads(message) for message in connection]
    running.close()
    dropped = [event["dropped_seconds"] for event in events if event["event"] == "dropped"]
    assert 18 <= sum(dropped) <= 20  # the first second is already being heard
    assert events[-1]["event"] == "end"
    assert (events[-1]["end"], events[-1]["dropped_seconds"]) == (50.0, sum(dropped))


# OpenAI's form


@pytest.fixture(scope="module")
def openai_client(digits_server: Running) -> Any:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    return openai.OpenAI(base_url=f"http://127.0.0.1:{digits_server.port}/v1", api_key="any", max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def recording(clip: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "two clips.flac"
    soundfile.write(path, clip, RATE)
    return path


@pytest.fixture(scope="module")
def expected(hearing: Transcriber, recording: Path) -> Transcript:
    return transcribe(str(recording), model=hearing)


def test_openai_text_formats(openai_client: Any, recording: Path, expected: Transcript) -> None:
    create = openai_client.audio.transcriptions.create
    with recording.open("rb") as file:
        found = create(file=file, model="whisper-1", language="en", prompt="digits", temperature=0.2)
    assert found.text == expected.text == "FOUR TWO NINE EIGHT THREE THREE SEVEN"
    assert found.usage.seconds == 8
    for name, text in {"text": expected.text + "\n", "srt": expected.srt(), "vtt": expected.vtt()}.items():
        assert create(file=recording, model="whisper-1", response_format=name) == text


def test_openai_verbose_json(openai_client: Any, recording: Path, expected: Transcript) -> None:
    create = openai_client.audio.transcriptions.create
    found = create(
        file=recording, model="w", response_format="verbose_json", timestamp_granularities=["word", "segment"],
        language="en",
    )  # fmt: skip
    assert (found.text, found.duration, found.language) == (expected.text, expected.duration, "en")
    assert [(word.word, word.start, word.end) for word in found.words] == [
        (word.text, word.start, word.end) for word in expected.words
    ]
    assert [(part.id, part.text, part.start, part.end) for part in found.segments] == [
        (number, part.text, part.start, part.end) for number, part in enumerate(expected.segments)
    ]
    for mine, theirs in zip(expected.segments, found.segments, strict=True):
        assert np.exp(theirs.avg_logprob) == pytest.approx(mine.confidence, abs=1e-3)
    alone = create(file=recording, model="w", response_format="verbose_json")
    assert alone.words is None
    assert len(alone.segments) == len(expected.segments)
    assert openai_client.models.list().data[0].id == "digits_ctc.pt"


def test_openai_errors(openai_client: Any, recording: Path) -> None:
    openai = pytest.importorskip("openai")
    create = openai_client.audio.transcriptions.create
    kinds = {
        "response_format": {"response_format": "diarized_json"},
        "stream": {"stream": True},
        "timestamp_granularities[]": {"timestamp_granularities": ["char"]},
        "file": {"file": ("notes.txt", b"no sound at all")},
    }
    for field, options in kinds.items():
        with pytest.raises(openai.BadRequestError) as refused:
            create(**{"file": recording, "model": "w", **options})
        assert (refused.value.body["type"], refused.value.body["param"]) == ("invalid_request_error", field)
    assert refused.value.body["message"].startswith("notes.txt: ")  # its own name, not that of a copy
    with pytest.raises(openai.BadRequestError, match="empty file"):
        create(file=("a.wav", b""), model="w")
    with pytest.raises(openai.APIStatusError, match="larger than 1 MB") as refused:
        create(file=("a.wav", bytes(5 << 20)), model="w")
    assert refused.value.status_code == 413
    with pytest.raises(openai.NotFoundError):
        openai_client.audio.speech.create(input="x", model="w", voice="y")


def test_a_full_disk_is_an_answer(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    status, _, body = server.ask(TRANSCRIPTIONS, "POST", b"x")
    assert (status, json.loads(body)["error"]["type"]) == (500, "server_error")
    assert "No space left" in caplog.text
    caplog.clear()


def test_openai_key_is_the_token(hearing: Transcriber, recording: Path) -> None:
    openai = pytest.importorskip("openai")
    running = Running(hearing, Access("127.0.0.1", "s3cret"))
    try:
        for key in ("wrong", "s3cret"):
            one = openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=key, max_retries=0)
            if key == "wrong":
                with pytest.raises(openai.AuthenticationError, match="needs its token"):
                    one.audio.transcriptions.create(file=recording, model="w")
            else:
                assert one.audio.transcriptions.create(file=recording, model="w").text.startswith("FOUR")
    finally:
        running.close()


def form(fields: list[tuple[str, str | None, bytes]], boundary: str) -> bytes:
    parts = []
    for name, filename, value in fields:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + value + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


NAMES = st.text("abc[]_", min_size=1, max_size=5)
VALUES = st.lists(st.sampled_from([b"\r\n", b"--", b"x", b"--b", b"\0\xff", b"\r\n\r\n", b"\r\n--"]), max_size=6)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, st.none() | st.just("a.wav"), VALUES.map(b"".join)), max_size=5))
def test_forms_are_parted_as_the_mail_parser_does(fields: list[tuple[str, str | None, bytes]]) -> None:
    body = form(fields, "bxyz")
    kind = 'multipart/form-data; boundary="bxyz"'
    found = [
        (name, field.filename, body[field.start : field.end])
        for name, several in read_form(body, kind).items()
        for field in several
    ]
    assert sorted(found, key=repr) == sorted(fields, key=repr)
    if fields and all(b"\r" not in value and b"\n" not in value for _, _, value in fields):  # mail changes line ends
        mail = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=HTTP)
        assert [part.get_payload(decode=True) for part in mail.iter_parts()] == [value for _, _, value in fields]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"file=1", "application/x-www-form-urlencoded"),
        (b"--b\r\n", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data"),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc', "multipart/form-data; boundary=b"),
        (b"--b\r\nX: y\r\n\r\nabc\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (form([("a", None, b"")] * 65, "b"), "multipart/form-data; boundary=b"),
    ],
)
def test_forms_that_are_none(body: bytes, kind: str) -> None:
    with pytest.raises(HttpError):
        read_form(body, kind)


def test_recordings_end_early_or_wait(server: Running, clip: np.ndarray) -> None:
    """A body that stops coming is given up; a client that is gone is not transcribed for."""
    head = (
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Nothing came for 1 seconds." in answer

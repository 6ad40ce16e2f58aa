// The page: a microphone, a socket to the server, and a transcript.

import { openMicrophone, Problem, SERVER_GONE, whyNot } from "./microphone.js";
import { clock, Transcript } from "./transcript.js";

const MOST_WAITING = 1 << 20; // bytes that a slow connection may hold back: about 10 s
const SILENT_MUTE = 3; // seconds of digital silence that no open microphone gives
const LOWEST = -60; // dB, the left end of the meter
const SENTENCES = {
  1001: "The server was stopped. What was said stays here.",
  1006: SERVER_GONE,
  1013: "The server already hears as many people as it can. Try again when one of them has stopped.",
};

const $ = (id) => document.getElementById(id);
let session = null; // the recording that runs
let isSaved = true;
const transcript = new Transcript($("transcript"), () => {
  isSaved = transcript.entries.length === 0;
  update();
});

class Session {
  constructor() {
    this.samples = 0;
    this.rate = 0;
    this.silent = 0;
    this.isStopping = false;
    this.isEnded = false;
  }

  async start() {
    show("Waiting for the microphone…");
    this.microphone = await openMicrophone(
      (samples, peak) => this.send(samples, peak),
      () => this.stop("The microphone was disconnected. What was said stays here."),
    );
    this.rate = this.microphone.rate;
    if (this.isStopping) return this.end(); // Stop was pressed while the browser asked
    show("Connecting…");
    this.socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
    this.socket.onopen = () => this.socket.send(JSON.stringify({ sample_rate: this.rate }));
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  get seconds() {
    return this.rate ? this.samples / this.rate : 0;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(samples, peak) {
    showLevel(peak);
    this.silent = peak > 0 ? 0 : this.silent + samples.length / this.rate;
    if (this.silent > SILENT_MUTE) tell("Nothing comes from the microphone: is it muted?");
    else if (this.silent === 0 && $("problem").dataset.kind === "hint") tell("");
    if (!this.isOpen || !samples.length) return;
    if (this.socket.bufferedAmount > MOST_WAITING) {
      this.stop("The connection to the server is too slow for sound. What was said stays here.");
      return;
    }
    this.socket.send(samples);
    this.samples += samples.length;
    $("clock").textContent = clock(transcript.offset + 1000 * this.seconds);
  }

  take(event) {
    if (event.event === "ready") {
      $("model").textContent = event.model;
      if (!this.isStopping) show("Listening");
    } else if (event.event === "speech_start") {
      if (!this.isStopping) show("Hearing speech");
    } else if (event.event === "partial") {
      transcript.showPartial(event);
    } else if (event.event === "final") {
      transcript.showFinal(event);
      if (!this.isStopping) show("Listening");
    } else if (event.event === "dropped") {
      transcript.note(`${event.dropped_seconds.toFixed(1)} s of sound were left out: the server is too slow.`);
    }
  }

  /** Ends the recording; the server still sends what it has heard. */
  async stop(reason = "") {
    if (this.isStopping) return;
    this.isStopping = true;
    if (reason) tell(reason, "problem");
    show("Finishing…");
    const microphone = this.microphone;
    if (!microphone) return; // the browser still asks: `start` ends it
    this.microphone = null;
    await microphone.close();
    if (this.isOpen) this.socket.send(JSON.stringify({ stop: true }));
    else if (this.socket?.readyState !== WebSocket.CONNECTING) this.end();
    else this.socket.close();
  }

  closed(code, reason) {
    if (code !== 1000) {
      tell(SENTENCES[code] ?? (reason ? `The server ended the recording: ${reason}.` : SERVER_GONE), "problem");
    }
    this.end();
  }

  end() {
    if (this.isEnded) return;
    this.isEnded = this.isStopping = true;
    this.microphone?.close();
    this.microphone = null;
    transcript.keepPartial(this.seconds);
    transcript.offset += Math.round(1000 * this.seconds);
    if (session === this) session = null;
    show(transcript.entries.length ? "Stopped" : "Ready");
    showLevel(0);
  }
}

async function toggle() {
  if (session) {
    await session.stop();
    return;
  }
  tell("");
  session = new Session();
  const started = session;
  update();
  try {
    await started.start();
  } catch (error) {
    tell(error instanceof Problem ? error.message : `The page failed: ${error.message}`, "problem");
    started.end();
  }
}

function show(state) {
  $("state").textContent = state;
  update();
}

/** Shows a sentence about what is wrong; a hint goes away by itself. */
function tell(sentence, kind = "hint") {
  const box = $("problem");
  if (kind === "hint" && sentence && box.dataset.kind === "problem") return;
  if (box.textContent !== sentence) box.textContent = sentence;
  box.dataset.kind = kind;
  box.hidden = !sentence;
}

function showLevel(peak) {
  const decibels = 20 * Math.log10(Math.max(peak, 1e-6));
  const share = Math.max(0, Math.min(1, 1 - decibels / LOWEST));
  const level = $("level");
  level.firstElementChild.style.transform = `scaleX(${share})`;
  level.classList.toggle("clipped", peak > 0.99);
  level.setAttribute("aria-valuenow", String(Math.round(100 * share)));
}

function update() {
  const isRunning = session !== null && !session.isStopping;
  document.body.classList.toggle("running", isRunning);
  $("start-label").textContent = isRunning ? "Stop" : "Start";
  // A button that is disabled loses the focus of the keyboard.
  $("start").setAttribute("aria-disabled", String(session !== null && session.isStopping));
  $("welcome").hidden = session !== null || transcript.list.childElementCount > 0;
  for (const id of ["copy", "txt", "srt"]) $(id).disabled = transcript.entries.length === 0;
  $("clear").disabled = session !== null || transcript.list.childElementCount === 0;
}

async function copy() {
  try {
    await navigator.clipboard.writeText(transcript.txt());
    isSaved = true;
    $("copy").textContent = "Copied";
  } catch {
    tell("The browser does not let this page copy. Download the text instead.", "problem");
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

function download(text, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  const now = new Date(Date.now() - 60000 * new Date().getTimezoneOffset()).toISOString();
  link.download = `w2v-${now.slice(0, 16).replace(/[:T]/g, "-")}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  isSaved = true;
}

$("start").onclick = toggle;
$("copy").onclick = copy;
$("txt").onclick = () => download(transcript.txt(), "txt");
$("srt").onclick = () => download(transcript.srt(), "srt");
$("clear").onclick = () => {
  transcript.clear();
  $("clock").textContent = clock(0);
  show("Ready");
};
document.onkeydown = (event) => {
  const isFree = event.target === document.body && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (event.key !== " " || !isFree) return;
  event.preventDefault(); // or the page scrolls
  $("start").click();
};
window.onbeforeunload = (event) => {
  if (!isSaved) event.preventDefault();
};
if (whyNot()) tell(whyNot(), "problem");

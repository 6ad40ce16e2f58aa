// What was said, on the page and as files.

const pad = (number, size = 2) => String(number).padStart(size, "0");

/** Writes milliseconds as 0:07 or 1:02:03. */
export function clock(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const minutes = Math.floor(seconds / 60);
  const rest = pad(seconds % 60);
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${rest}`;
}

function srtTime(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const minutes = Math.floor(seconds / 60);
  return `${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}:${pad(seconds % 60)},${pad(milliseconds % 1000, 3)}`;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export class Transcript {
  constructor(list, onChange) {
    this.list = list;
    this.onChange = onChange;
    this.entries = []; // {text, cues: [[start, end, text]]}, milliseconds
    this.offset = 0; // of the recording that runs, behind those before it
    this.partial = null;
  }

  /** Shows what is heard so far of an utterance: `confirmed` stays, the rest may change. */
  showPartial({ start, text, confirmed = "" }) {
    if (!this.partial) {
      this.partial = element("li", "partial");
      this.partial.setAttribute("aria-hidden", "true"); // read aloud once, when it is final
      this.partial.append(element("time", ""), element("p", ""));
    }
    const rest = text.startsWith(confirmed) ? text.slice(confirmed.length) : text;
    const [time, line] = this.partial.children;
    time.textContent = clock(this.offset + 1000 * start);
    line.replaceChildren(element("span", "confirmed", text.startsWith(confirmed) ? confirmed : ""), rest);
    this.said = { start, text };
    this.add(this.partial);
  }

  /** Puts a final in the place of the partial. */
  showFinal({ start, end, text, cues = [] }, className = "final") {
    this.dropPartial();
    if (!text) return;
    const moved = cues.map(([first, last, line]) => [first + this.offset, last + this.offset, line]);
    this.entries.push({ text, cues: moved });
    const item = element("li", className);
    item.append(element("time", "", clock(this.offset + 1000 * start)), element("p", "", text));
    item.title = `${(this.offset / 1000 + start).toFixed(2)} to ${(this.offset / 1000 + end).toFixed(2)} s`;
    this.add(item);
    this.onChange();
  }

  /** Keeps an utterance that has no final, because the server is gone. */
  keepPartial(end) {
    if (!this.partial || !this.said.text) return this.dropPartial();
    const { start, text } = this.said;
    const cue = [Math.round(1000 * start), Math.round(1000 * Math.max(end, start + 0.001)), text];
    this.showFinal({ start, end, text, cues: [cue] }, "unfinished");
  }

  dropPartial() {
    this.partial?.remove();
    this.partial = null;
  }

  note(text) {
    this.add(element("li", "note", text));
  }

  /** Adds a line, and keeps the end in sight of those who look at it. */
  add(item) {
    const page = document.documentElement;
    const isAtEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
    if (item.parentNode !== this.list) this.list.append(item);
    if (isAtEnd) page.scrollTop = page.scrollHeight;
  }

  clear() {
    this.list.replaceChildren();
    this.entries = [];
    this.offset = 0;
    this.partial = null;
    this.onChange();
  }

  txt() {
    return this.entries.map((entry) => `${entry.text}\n`).join("");
  }

  srt() {
    return this.entries
      .flatMap((entry) => entry.cues)
      .map(([start, end, text], i) => `${i + 1}\n${srtTime(start)} --> ${srtTime(end)}\n${text}\n\n`)
      .join("");
  }
}

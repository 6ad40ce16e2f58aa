"""`w2v-align --split`: clips of long recordings with manifest and labels, ready for `w2v-train`.

What was cut from each recording is noted when its clips are there (`parts/`), so that a stopped run resumes, and
lists are made from the notes at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2v.data.dictionary import Dictionary
from w2v.data.flac_file import write_flac
from w2v.data.manifest import write_manifest
from w2v.data.post_process import post_process
from w2v.errors import DataError
from w2v.files import make_folder, write_atomically
from w2v.inference.clip_cutting import Clip, CutConfig, CutWord, cut_clips
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.recording import FileRecording
from w2v.inference.spelling import WILDCARD, SpelledText, SpelledWord
from w2v.inference.text_alignment import TextAlignment, is_stretched
from w2v.shards.member import Source

REJECTS = "file\tstart\tend\tconfidence\treason\ttext\n"


@dataclass(frozen=True)
class ClipWriter:
    """Writes the clips of recordings into a folder.

    Attributes:
        folder: for clips, lists and notes.
        info: of the model: its sample rate, and how symbols become words.
        config: lengths of clips.
        min_confidence: words below it spoil the stretch between the pauses around them.
        star: `--star`; unknown speech may lie where it allows stars.
    """

    folder: Path
    info: EmissionInfo
    config: CutConfig
    min_confidence: float
    star: str

    def is_done(self, stem: str) -> bool:
        """Whether the clips of a recording are there."""
        return self._note(stem).is_file()

    def write(self, stem: str, path: Source, alignment: TextAlignment) -> None:
        """Write the clips of one recording.

        Args:
            stem: what they are called.
            path: the recording.
            alignment: its words.

        Raises:
            DataError: it cannot be read, or a file cannot be written.
        """
        words = cut_words(alignment, self.min_confidence, self.star)
        clips = cut_clips(words, alignment.transcript.duration, self.config)
        spelled = [word for line in alignment.spelling.lines for word in line if not word.is_star]
        dictionary = Dictionary(self.info.symbols)
        good, rejects = [], []
        for clip in clips:
            inside = words[clip.first : clip.last]
            if clip.reason:
                confidence = float(np.mean([word.word.confidence for word in inside]))
                text = " ".join(word.word.text for word in inside)
                rejects.append([f"{clip.start:.3f}", f"{clip.end:.3f}", f"{confidence:.3f}", clip.reason, text])
            else:
                labels = [symbol.label for word in spelled[clip.first : clip.last] for symbol in word.symbols]
                good.append((clip, dictionary.string(labels)))
        rows = list(self._clips(stem, path, good))
        make_folder(self._note(stem).parent)
        note = {"file": str(path), "clips": rows, "rejects": rejects}
        # Escapes stand for names that are no UTF-8 as well.
        write_atomically(self._note(stem), json.dumps(note).encode())

    def finish(self, stems: Sequence[str]) -> dict[str, float]:
        """Write manifest, labels, dictionary and the list of rejects; return hours kept and rejected.

        Args:
            stems: of all recordings; those without a note are left out.
        """
        notes = [json.loads(self._note(stem).read_bytes()) for stem in stems if self.is_done(stem)]
        rows = [row for note in notes for row in note["clips"]]
        write_manifest(
            self.folder / "train.tsv", str(self.folder.resolve()), [r[0] for r in rows], [r[1] for r in rows]
        )
        units = [row[2] for row in rows]
        words = [post_process(line, self.info.post_process) for line in units]
        for ending, lines in ((self.info.labels, units), ("wrd", words)):
            write_atomically(self.folder / f"train.{ending}", "".join(f"{line}\n" for line in lines).encode())
        symbols = "".join(f"{symbol} 1\n" for symbol in self.info.symbols[4:])
        write_atomically(self.folder / f"dict.{self.info.labels}.txt", symbols.encode())
        rejects = [(note["file"], *row) for note in notes for row in note["rejects"]]
        lines = ["\t".join(" ".join(field.split()) for field in row) + "\n" for row in rejects]
        write_atomically(self.folder / "rejects.tsv", (REJECTS + "".join(lines)).encode("utf-8", "surrogateescape"))
        return {
            "clips": len(rows),
            "seconds": sum(row[1] for row in rows) / self.info.sample_rate,
            "rejected": sum(float(row[2]) - float(row[1]) for row in rejects),
        }

    def _note(self, stem: str) -> Path:
        return self.folder / "parts" / f"{stem}.json"

    def _clips(self, stem: str, path: Source, clips: Sequence[tuple[Clip, str]]) -> Iterator[tuple[str, int, str]]:
        """Write clips; yield name, samples and symbols of each."""
        rate = self.info.sample_rate
        spans = [(round(clip.start * rate), round(clip.end * rate)) for clip, _ in clips]
        for number, ((_, units), samples) in enumerate(zip(clips, _pieces(path, rate, spans), strict=True)):
            name = f"clips/{stem}-{number:05d}.flac"
            try:
                write_flac(self.folder / name, samples, rate)
            except OSError as e:
                raise DataError(f"cannot write {self.folder / name}: {e.strerror or e}") from e
            yield name, len(samples), units


def cut_words(alignment: TextAlignment, min_confidence: float, star: str) -> list[CutWord]:
    """Return the words of a text with what is wrong with each.

    A word that the dictionary cannot spell has no label to learn, and one that was not heard a wrong one. Between words
    with a star between them there may be speech without a label.
    """
    was_heard = alignment.median_confidence >= min_confidence
    times = iter(alignment.transcript.words)
    found = []
    for begins, word in _with_stars(alignment.spelling, star):
        time = next(times)
        reason = ""
        if not was_heard:
            reason = "text not heard"
        elif any(symbol.label == WILDCARD for symbol in word.symbols):
            reason = "cannot be spelled"
        elif not time.interpolated and (time.confidence < min_confidence or is_stretched(time)):
            reason = "not heard"
        found.append(CutWord(time, reason, begins))
    return found


def _with_stars(spelling: SpelledText, star: str) -> Iterator[tuple[bool, SpelledWord]]:
    """Yield each word, and whether a star stands before it."""
    is_after_star = False
    for line in spelling.lines:
        is_after_star |= star in ("lines", "words")
        for word in line:
            if word.is_star:
                is_after_star = True
                continue
            yield is_after_star, word
            is_after_star = False


def _pieces(path: Source, rate: int, spans: Sequence[tuple[int, int]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield samples of a recording from `start` to `end`, spans in order and disjoint; it is read in blocks."""
    held, first = np.zeros(0, dtype=np.float32), 0
    blocks = FileRecording(path).blocks(rate)
    for start, end in spans:
        while first + len(held) < end:
            block = next(blocks, None)
            if block is None:
                break
            drop = min(max(start - first, 0), len(held))
            held, first = np.concatenate([held[drop:], block]), first + drop
        yield held[max(start - first, 0) : end - first]

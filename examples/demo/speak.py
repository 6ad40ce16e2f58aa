"""Speak a small corpus with espeak-ng: clips to train on, three in four transcribed, and clips of other voices to test.

    python examples/demo/speak.py FOLDER

espeak-ng comes from the pip package `espeakng-loader` (GPL-3, extra `demo`) and is called through ctypes. It keeps
state between calls: the same clips come out only for the same sequence of calls in a fresh process. So one process
speaks one corpus, from one thread, in a fixed order. What is not here: training (run.py).
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2v.errors import DataError, MissingPackageError, W2vError
from w2v.rng import numpy_generator

SAMPLE_RATE = 16000

WORDS = (
    *("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
    *("RED", "GREEN", "BLUE", "YELLOW", "BLACK", "WHITE"),
    *("GO", "STOP", "LEFT", "RIGHT", "UP", "DOWN", "OPEN", "CLOSE"),
)
MIN_WORDS, MAX_WORDS = 2, 5

# A voice is an accent plus a variant. The variant makes the speaker, and no variant is both trained and tested on.
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbcwmd")
TRAIN_VARIANTS = (
    *("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m6", "m7"),
    *("Alex", "Alicia", "Andy", "Denis", "Diogo", "Gene", "Henrique", "Jacky", "Lee", "Mario", "Michael", "Mike"),
    *("adam", "announcer", "aunty", "benjamin", "boris", "david", "edward", "grandma", "linda", "max", "michel"),
    *("norbert", "paul", "quincy", "rob", "sandro", "shelby", "steph", "travis", "victor"),
    *("Nguyen", "anika", "ed", "edward2", "iven", "iven2", "iven3", "iven4", "kaukovalta", "miguel", "mike2", "pedro"),
    *("steph3", "Gene2", "RicishayMax", "RicishayMax2"),
)
TEST_VARIANTS = ("m5", "f5", "m8", "belinda", "Reed", "Annie", "robert", "grandpa", "marcelo", "zac")

# Numbers of clips; one in four of `train` has no transcript and serves pretraining alone.
CLIPS = {"train": 4000, "test": 200}
UNTRANSCRIBED_EVERY = 4

# speak_lib.h of espeak-ng 1.52
# Each call speaks before it returns. The other way of handing over samples (1) goes through a thread that is waited for
# with pauses: the same samples, for three times the wall time.
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000  # else a bad data path ends the process
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4

Samples = npt.NDArray[np.int16]
Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """One clip to be spoken.

    Attributes:
        text: upper-case words.
        accent: an espeak-ng voice.
        variant: a file of espeak-ng's `voices/!v`.
        rate: words per minute.
        pitch: 0 to 100; 50 is the variant's own.
        liveliness: range of the pitch, 0 to 100; 50 is the variant's own.
        gain: level of the speech, root mean square of full scale.
        noise: level of white noise relative to the speech, in decibels.
    """

    text: str
    accent: str
    variant: str
    rate: int
    pitch: int
    liveliness: int
    gain: float
    noise: float


class Synthesizer:
    """espeak-ng in this process; make one only.

    Raises:
        MissingPackageError: espeakng-loader is not installed.
        DataError: its library or its data cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as e:
            raise MissingPackageError("espeakng-loader", "demo", "speaking the demo's sentences") from e
        self._data = Path(espeakng_loader.get_data_path())
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as e:
            raise DataError(f"espeak-ng cannot be loaded: {e}") from e
        self.sample_rate = int(
            self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, bytes(self._data), INITIALIZE_DONT_EXIT)
        )
        if self.sample_rate <= 0:
            # espeak-ng holds the path in a buffer of some 200 bytes
            raise DataError(f"espeak-ng does not start with its data at {self._data}; try a folder with a shorter path")
        # Breathy voices draw noise, from a generator that espeak-ng seeds with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._chunks: list[Samples] = []
        # The wrapped callback must outlive every call into the library, so it is kept here.
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(
            self._receive
        )
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def say(self, utterance: Utterance) -> Samples:
        """Return the clip, (S,) at `self.sample_rate`, before noise and gain.

        Raises:
            DataError: the voice does not exist, or espeak-ng refuses the text.
        """
        # An unknown variant is no error to espeak-ng: it silently speaks with the accent's own voice.
        if not (self._data / "voices" / "!v" / utterance.variant).is_file():
            raise DataError(f"espeak-ng has no variant {utterance.variant!r} in {self._data}")
        voice = f"{utterance.accent}+{utterance.variant}"
        self._check(self._library.espeak_SetVoiceByName(voice.encode()), f"voice {voice}")
        for parameter, value in ((RATE, utterance.rate), (PITCH, utterance.pitch), (RANGE, utterance.liveliness)):
            self._check(self._library.espeak_SetParameter(parameter, value, 0), f"parameter {parameter}={value}")
        text = utterance.text.lower().encode()  # some upper-case words would be spelled out
        self._chunks.clear()
        size = ctypes.c_size_t(len(text) + 1)
        self._check(self._library.espeak_Synth(text, size, 0, 1, 0, CHARS_UTF8, None, None), repr(utterance.text))
        if not self._chunks:
            raise DataError(f"espeak-ng spoke nothing for {utterance.text!r} with voice {voice}")
        return np.concatenate(self._chunks)

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status != 0:
            raise DataError(f"espeak-ng refuses {what} (status {status})")


def sentences(num: int, rng: np.random.Generator) -> list[str]:
    """Return `num` different sentences of 2 to 5 words."""
    found: dict[str, None] = {}
    while len(found) < num:
        found[" ".join(rng.choice(WORDS, size=rng.integers(MIN_WORDS, MAX_WORDS + 1)))] = None
    return list(found)


def plan(clips: Mapping[str, int], seed: int) -> dict[str, list[Utterance]]:
    """Return what is spoken, by set; no sentence comes twice, so those of `test` are new as well as its voices."""
    rng = numpy_generator("demo", seed)
    texts = iter(sentences(sum(clips.values()), rng))
    planned: dict[str, list[Utterance]] = {}
    for name, num_clips in clips.items():
        variants = TEST_VARIANTS if name == "test" else TRAIN_VARIANTS
        # Numbers of accents and of variants are walked through together, shifted by one accent at each round.
        voices = (
            (ACCENTS[(i + i // len(variants)) % len(ACCENTS)], variants[i % len(variants)]) for i in range(num_clips)
        )
        planned[name] = [
            Utterance(
                text,
                accent,
                variant,
                rate=int(rng.integers(130, 211)),
                pitch=int(rng.integers(25, 76)),
                liveliness=int(rng.integers(20, 81)),
                gain=float(10 ** rng.uniform(-1.6, -1.0)),
                noise=float(rng.uniform(-40, -25)),
            )
            for text, (accent, variant) in zip(itertools.islice(texts, num_clips), voices)
        ]
    return planned


def record(samples: Samples, sample_rate: int, utterance: Utterance, rng: np.random.Generator) -> Audio:
    """Bring a clip to 16 kHz and to its level, and add its noise."""
    import soxr

    audio = np.asarray(soxr.resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE), dtype=np.float32)
    audio *= utterance.gain / max(float(np.sqrt(np.mean(np.square(audio)))), 1.0)
    noise = rng.standard_normal(len(audio), dtype=np.float32) * (utterance.gain * 10 ** (utterance.noise / 20))
    return np.clip(audio + noise, -1, 1)


def speak(folder: Path, clips: Mapping[str, int] = CLIPS, seed: int = 1) -> Iterator[Path]:
    """Speak the corpus and yield each file once it is written; call this once per process.

    Writes `SET/VOICE/NUMBER.wav` and `SET/transcripts.tsv` (path TAB UPPER-CASE WORDS) for each set.

    Args:
        folder: where to write.
        clips: number of clips by set; the set called `test` is spoken by the test voices.
        seed: other seeds give other sentences, rates, pitches and noise.

    Raises:
        MissingPackageError: espeakng-loader or soundfile is not installed.
        DataError: espeak-ng does not do what it is told.
    """
    try:
        import soundfile
    except ImportError as e:
        raise MissingPackageError("soundfile", "demo", "writing the demo's speech") from e
    synthesizer = Synthesizer()
    for name, utterances in plan(clips, seed).items():
        rng = numpy_generator("demo", "noise", seed, name)
        lines = []
        for i, utterance in enumerate(utterances):
            audio = record(synthesizer.say(utterance), synthesizer.sample_rate, utterance, rng)
            path = folder / name / f"{utterance.accent}_{utterance.variant}" / f"{i:04d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")
            if name == "test" or i % UNTRANSCRIBED_EVERY:
                lines.append(f"{path.relative_to(folder / name).as_posix()}\t{utterance.text}\n")
            yield path
        (folder / name / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")


def main() -> int:
    """Speak the corpus of the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Speak the demo's corpus.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    for name, num_clips in CLIPS.items():
        parser.add_argument(f"--{name}", type=int, default=num_clips, help=f"number of clips (default: {num_clips})")
    arguments = parser.parse_args()
    clips = {name: getattr(arguments, name) for name in CLIPS}
    try:
        written = sum(1 for _ in speak(arguments.folder, clips, arguments.seed))
    except W2vError as e:
        print(f"speak.py: {e}", file=sys.stderr)
        return e.exit_code
    print(f"{written} clips in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

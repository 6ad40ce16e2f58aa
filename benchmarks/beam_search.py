"""Beam search with a 4-gram: time and word errors of ours, in numpy and compiled, flashlight-text's and pyctcdecode's.

    python benchmarks/beam_search.py ../shared/data --peer PYTHON [--agreement 500] [--rounds 3]

`--peer` is the python of an environment with pyctcdecode 0.5.0, kenlm and numpy below 2. The emissions are noise
around random alignments of real sentences (`tests/noisy_emissions.py`), of which the best path alone gets hardly a
word; the model is estimated from text that holds the sentences. Times are CPU seconds of one thread, the sides take
turns, and of the rounds the median counts. A real-time factor is seconds per second of speech, at 20 ms a frame.
Results: `beam_search.md`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/helpers")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from noisy_emissions import noisy_log_probs  # noqa: E402
from torch import Tensor  # noqa: E402

from w2v.data.dictionary import Dictionary  # noqa: E402
from w2v.decoders import DecoderConfig, build_decoder, compiled_search, kenlm  # noqa: E402
from w2v.decoders.base import Decoder  # noqa: E402
from w2v.functional.edit_distance import edit_distance  # noqa: E402
from w2v.lm.arpa import write_arpa  # noqa: E402
from w2v.lm.kneser_ney import estimate  # noqa: E402
from w2v.lm.ngram_counts import count_ngrams, read_texts  # noqa: E402

DICTIONARY = Dictionary.from_symbols(["|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"])
SECONDS_PER_FRAME = 0.02
WEIGHTS = dict(lm_weight=2.0, word_score=-1.0)
PEER_WEIGHTS = ("0.5", "1")  # alpha and beta: of alpha 0.2, 0.35, 0.5 and 0.87 the best
import_flashlight = kenlm.import_flashlight


def sentences(data: Path, subset: str) -> list[str]:
    """Return the transcripts of a subset."""
    lines = (data / subset / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[1] for line in lines]


def decoder(side: str, model: Path, beam: int) -> Decoder:
    """Return a decoder: `viterbi`, `flashlight`, `own` or `compiled`."""
    if side == "viterbi":
        return build_decoder(DecoderConfig(), DICTIONARY)
    compiled_search.is_installed = lambda: side == "compiled"
    kenlm.import_flashlight = import_flashlight if side == "flashlight" else lambda: None
    return build_decoder(DecoderConfig(w2l_decoder="kenlm", kenlm_model=str(model), beam=beam, **WEIGHTS), DICTIONARY)


def run(side: Decoder, emissions: tuple[Tensor, Tensor]) -> tuple[float, list[str]]:
    """Return CPU seconds and transcripts."""
    start = time.process_time()
    found = side.decode(*emissions)
    return time.process_time() - start, [" ".join(readings[0].words) for readings in found]


def run_alone(side: Decoder, emissions: tuple[Tensor, Tensor]) -> tuple[float, list[str]]:
    """Return CPU seconds and transcripts of clips that do not share a batch."""
    rounds = [run(side, (row[None, :length], length[None])) for row, length in zip(*emissions, strict=True)]
    return sum(seconds for seconds, _ in rounds), [found[0] for _, found in rounds]


def run_peer(command: Sequence[str]) -> tuple[float, list[str]]:
    """Return CPU seconds and transcripts of pyctcdecode."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(output.splitlines()[-1])
    return report["seconds"], report["found"]


def write_emissions(path: Path, emissions: tuple[Tensor, Tensor]) -> None:
    """Write log-probabilities for pyctcdecode, without the special symbols that it does not know."""
    columns = [0, *range(4, len(DICTIONARY))]
    labels = ["", " ", *DICTIONARY.symbols[5:]]
    rows = [row[:length, columns].numpy() for row, length in zip(*emissions, strict=True)]
    np.savez(path, labels=np.array(labels), **{f"clip{i}": row for i, row in enumerate(rows)})


def word_error_rate(found: Sequence[str], references: Sequence[str]) -> float:
    """Return it in percent."""
    errors = sum(edit_distance(one.split(), two.split()) for one, two in zip(found, references, strict=True))
    return 100 * errors / sum(len(reference.split()) for reference in references)


def agreement(data: Path, model: Path, count: int) -> None:
    """Compare our search with flashlight's on many clips."""
    emissions = noisy_log_probs(sentences(data, "libri_extra")[:count], DICTIONARY.symbols, seed=1)
    ours, theirs = (decoder(side, model, 50).decode(*emissions) for side in ("own", "flashlight"))
    pairs = [(mine[0], other[0]) for mine, other in zip(ours, theirs, strict=True)]
    same = [(mine, other) for mine, other in pairs if (mine.words, mine.tokens) == (other.words, other.tokens)]
    most = max(abs(mine.score - other.score) for mine, other in same)
    print(f"agreement: {len(same)} of {len(pairs)} best readings are equal; their scores differ by {most:.1e} at most")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--agreement", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    references = sentences(options.data, "libri_valid")
    emissions = noisy_log_probs(references, DICTIONARY.symbols, seed=0)
    with tempfile.TemporaryDirectory() as name:
        model, words = Path(name) / "4.arpa", Path(name) / "words.txt"
        text = str(options.data / "lm_text" / "librispeech_train_clean_100.txt.gz")
        counts = count_ngrams(read_texts([text]), 4)
        write_arpa(str(model), estimate(counts))
        words.write_text("\n".join(counts.vocabulary[3:]), encoding="utf-8")
        write_emissions(Path(name) / "emissions.npz", emissions)
        sides: dict[str, Callable[[], tuple[float, list[str]]]] = {}
        ours = ("own", "compiled") if importlib.util.find_spec("numba") else ("own",)
        for side, beam in [("viterbi", 1), *((side, beam) for beam in (50, 500) for side in ("flashlight", *ours))]:
            built = decoder(side, model, beam)
            # Opens the files and, once on a machine, compiles.
            run(built, (emissions[0][:1, :9], torch.tensor([9])))
            sides[f"{side}, beam {beam}"] = lambda built=built: run(built, emissions)
            if side in ours and beam == 50:
                sides[f"{side}, beam 50, one clip at a time"] = lambda built=built: run_alone(built, emissions)
        for beam in (100, 50) if options.peer else ():
            command = [options.peer, str(Path(__file__).with_name("pyctcdecode_peer.py"))]
            command += [str(Path(name) / "emissions.npz"), str(model), str(words), str(beam), *PEER_WEIGHTS]
            sides[f"pyctcdecode, beam {beam}"] = lambda command=command: run_peer(command)
        results: dict[str, list[tuple[float, list[str]]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, measure in sides.items():
                results[side].append(measure())
        speech = SECONDS_PER_FRAME * int(emissions[1].sum())
        print(f"{len(references)} clips, {speech:.0f} s of speech, {len(counts.vocabulary) - 3} words")
        print(f"{'':36}WER %  real-time factor (least)")
        for side, rounds in results.items():
            factors = [seconds / speech for seconds, _ in rounds]
            errors = word_error_rate(rounds[0][1], references)
            print(f"{side:34}{errors:7.1f}{statistics.median(factors):11.5f} ({min(factors):.5f})")
        if options.agreement:
            agreement(options.data, model, options.agreement)


if __name__ == "__main__":
    main()

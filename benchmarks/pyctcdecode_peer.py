"""The other side of `beam_search.py`: pyctcdecode 0.5.0, which wants numpy below 2 and so an environment of its own.

    python pyctcdecode_peer.py EMISSIONS.npz MODEL.arpa WORDS.txt BEAM ALPHA BETA

Prints the CPU seconds that decoding took, and the transcripts, as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import numpy as np
from pyctcdecode import build_ctcdecoder


def main() -> None:
    """Decode and report."""
    emissions, model, words, beam, alpha, beta = sys.argv[1:]
    logging.disable(logging.WARNING)
    with np.load(emissions) as file:
        labels = file["labels"].tolist()
        clips = [file[f"clip{i}"] for i in range(len(file.files) - 1)]
    with open(words, encoding="utf-8") as lines:
        unigrams = lines.read().split()
    decoder = build_ctcdecoder(labels, model, unigrams, alpha=float(alpha), beta=float(beta))
    start = time.process_time()
    found = [decoder.decode(clip, beam_width=int(beam)) for clip in clips]
    print(json.dumps({"seconds": time.process_time() - start, "found": found}))


if __name__ == "__main__":
    main()

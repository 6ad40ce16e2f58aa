"""The checkpoints that the original released, by name: its three tables, with the error rates of the papers.

A name is that of the file, without its ending. Opening one downloads it once (`locate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BASE = "https://dl.fbaipublicfiles.com/fairseq/wav2vec"
LETTERS = f"{BASE}/dict.ltr.txt"
"""The dictionary of the fine-tuned ones; its symbols are those that are assumed where there is none."""


@dataclass(frozen=True)
class Released:
    """One checkpoint.

    Attributes:
        model: its name in the original's table.
        split: labels that it was fine-tuned with; empty: none.
        data: recordings that it was pretrained on.
        file: its name under `BASE`.
        wer: word error rate in percent on test-clean / test-other, with the Transformer language model, in the paper
            (tables 1 and 2 of arXiv 2006.11477). Empty where there is none for this file: the figures in the abstract
            of the self-training paper (arXiv 2010.11430) are of other models, which were trained from the beginning
            on the labels that a model like these wrote.
    """

    model: str
    split: str
    data: str
    file: str
    wer: str = ""

    @property
    def name(self) -> str:
        """What opens it."""
        return self.file.rpartition(".")[0]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{BASE}/{self.file}"


_LIBRI, _LIGHT = "Librispeech", "Libri-Light"
WAV2VEC2 = (
    Released("Wav2Vec 2.0 Base", "", _LIBRI, "wav2vec_small.pt"),
    Released("Wav2Vec 2.0 Base", "10 minutes", _LIBRI, "wav2vec_small_10m.pt", "6.9 / 12.9"),
    Released("Wav2Vec 2.0 Base", "100 hours", _LIBRI, "wav2vec_small_100h.pt", "2.6 / 6.3"),
    Released("Wav2Vec 2.0 Base", "960 hours", _LIBRI, "wav2vec_small_960h.pt", "2.1 / 4.8"),
    Released("Wav2Vec 2.0 Large", "", _LIBRI, "libri960_big.pt"),
    Released("Wav2Vec 2.0 Large", "10 minutes", _LIBRI, "wav2vec_big_10m.pt", "6.8 / 10.8"),
    Released("Wav2Vec 2.0 Large", "100 hours", _LIBRI, "wav2vec_big_100h.pt", "2.3 / 5.0"),
    Released("Wav2Vec 2.0 Large", "960 hours", _LIBRI, "wav2vec_big_960h.pt", "2.0 / 4.1"),
    Released("Wav2Vec 2.0 Large (LV-60)", "", _LIGHT, "wav2vec_vox_new.pt"),
    Released("Wav2Vec 2.0 Large (LV-60)", "10 minutes", _LIGHT, "wav2vec_vox_10m_new.pt", "4.8 / 8.2"),
    Released("Wav2Vec 2.0 Large (LV-60)", "100 hours", _LIGHT, "wav2vec_vox_100h_new.pt", "2.0 / 4.0"),
    Released("Wav2Vec 2.0 Large (LV-60)", "960 hours", _LIGHT, "wav2vec2_vox_960h_new.pt", "1.8 / 3.3"),
    Released("Wav2Vec 2.0 Large (LV-60) + Self Training", "10 minutes", _LIGHT, "wav2vec_vox_10m_pl.pt"),
    Released("Wav2Vec 2.0 Large (LV-60) + Self Training", "100 hours", _LIGHT, "wav2vec_vox_100h_pl.pt"),
    Released("Wav2Vec 2.0 Large (LV-60) + Self Training", "960 hours", _LIGHT, "wav2vec_vox_960h_pl.pt"),
)
WAV2VEC = (Released("Wav2Vec large", "", _LIBRI, "wav2vec_large.pt"),)
VQ_WAV2VEC = (
    Released("vq-wav2vec Gumbel", "", _LIBRI, "vq-wav2vec.pt"),
    Released("vq-wav2vec K-means", "", _LIBRI, "vq-wav2vec_kmeans.pt"),
    Released("Roberta on K-means codes", "", _LIBRI, "bert_kmeans.tar"),
)
TABLES = {"wav2vec 2.0": WAV2VEC2, "wav2vec": WAV2VEC, "vq-wav2vec": VQ_WAV2VEC}
RELEASED = {released.name: released for table in TABLES.values() for released in table}


def released_list() -> str:
    """Return the tables as lines of text."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for title, table in TABLES.items():
        rows = [("name", "model", "labels", "recordings", "WER")]
        rows += [(one.name, one.model, one.split or "none", one.data, one.wer or "-") for one in table]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield title
        for row, one in zip(rows, (None, *table), strict=True):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield "  " + "  ".join([*cells, "address" if one is None else one.url])
        yield ""
    yield "WER: percent on Librispeech test-clean / test-other with the Transformer language model, as in the paper"
    yield "(arXiv 2006.11477). A name opens its checkpoint in every program: w2v-transcribe NAME FILE,"
    yield f'w2v.load_model("NAME"), --path NAME. Letters of the fine-tuned ones: {LETTERS}'

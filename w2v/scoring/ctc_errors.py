"""Error counts of CTC outputs during validation, as the original's criterion logs them (`uer`, `raw_wer`, `wer`)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import NOT_SAID, fitting_post_process, post_process
from w2v.functional.ctc_path import best_paths
from w2v.functional.edit_distance import edit_distance
from w2v.types import Hypothesis

UNKNOWN = -1
"""A label that no output is."""


class NBestDecoder(Protocol):
    """The part of `w2v.decoders.Decoder` that is used here (a lower room does not import it)."""

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]: ...


def count_errors(
    scores: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    dictionary: Dictionary,
    symbol: str | None,
    decoder: NBestDecoder | None = None,
) -> dict[str, float]:
    """Compare greedy hypotheses, and those of a decoder, with the references.

    Args:
        scores: (B, T, V) logits or log-probabilities.
        lengths: (B,) true frames.
        targets: (B, L) label ids; `pad` and `eos` do not count.
        target_lengths: (B,).
        dictionary: the labels.
        symbol: `--post-process`, which turns labels into words.
        decoder: the decoder of `--wer-args`; it gets log-probabilities.

    Returns:
        `c_errors`, `c_total`: labels, greedy; `wv_errors`: words, greedy (`raw_wer`); `w_errors`, `w_total`: words of
        `decoder`, else the greedy ones (`wer`).
    """
    sums = dict.fromkeys(("wv_errors", "w_errors", "w_total", "c_errors", "c_total"), 0.0)
    decoded = None
    if decoder is not None:
        decoded = decoder.decode(scores.detach().float().log_softmax(dim=-1).cpu(), lengths)
    ignored = (dictionary.pad, dictionary.eos)
    symbol = None if symbol is None else fitting_post_process(symbol, dictionary.symbols)
    for i, path in enumerate(best_paths(scores, lengths)):
        row = targets[i, : int(target_lengths[i])].tolist()
        labels = [label for label in row if label not in ignored]
        # A label that the dictionary lacks is <unk> here, and no <unk> of the model is right: no text holds \uffff.
        words = post_process(dictionary.string(labels), symbol).replace(NOT_SAID, "\uffff").split()
        greedy = post_process(dictionary.string(path.tokens), symbol).split()
        known = [UNKNOWN if label == dictionary.unk else label for label in labels]
        sums["c_errors"] += edit_distance(known, path.tokens)
        sums["c_total"] += len(labels)
        sums["w_total"] += len(words)
        word_errors = edit_distance(words, greedy)
        sums["wv_errors"] += word_errors
        if decoded is None:
            sums["w_errors"] += word_errors
        else:
            sums["w_errors"] += edit_distance(words, decoded[i][0].words if decoded[i] else [])
    return sums

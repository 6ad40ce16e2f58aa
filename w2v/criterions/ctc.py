"""CTC loss (wav2vec 2.0, section 3.3). Decoding for error rates is the task's business."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.config import arg, parse_literal
from w2v.criterions.base import Criterion, register_criterion
from w2v.errors import DataError
from w2v.types import BLANK, AudioBatch, ClipLosses, CtcOutput, Loss, Value

WerArgs = tuple[str, str | None, float, float]
"""Language model, lexicon or None to derive it, LM weight, word score."""


def _wer_args(value: Any) -> WerArgs:
    """Parse `'("lm.bin", "lexicon.lst", 2, -1)'`."""
    items = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or len(items) != 4:
        raise ValueError(f"must be (language model, lexicon, LM weight, word score), got {value!r}")
    model, lexicon, weight, score = items
    if not isinstance(model, str) or not isinstance(lexicon, (str, type(None))):
        raise ValueError(f"must begin with two file names (the second may be None), got {value!r}")
    return model, lexicon, float(weight), float(score)


@dataclass(frozen=True)
class CtcCriterionConfig:
    """Options of the CTC loss, and of the error rates shown in validation."""

    zero_infinity: bool = arg(False, help="count clips whose text does not fit into their frames as loss 0")
    sentence_avg: bool = arg(False, help="divide gradients by the number of clips instead of target symbols")
    post_process: str = arg(
        "letter", help="how symbols become words: letter, sentencepiece, wordpiece, ...", aliases=("--remove-bpe",)
    )
    wer_args: WerArgs | None = arg(
        None,
        help='decode validation with a language model: \'("LM", "LEXICON", LM weight, word score)\'',
        parse=_wer_args,
    )


@register_criterion("ctc", CtcCriterionConfig)
class CtcCriterion(Criterion):
    """Connectionist temporal classification; `Loss.sums` holds `ntokens` (target symbols) and `nsentences`."""

    config: CtcCriterionConfig

    def forward(self, output: CtcOutput, batch: AudioBatch) -> Loss:
        """Return the summed loss; `sample_size` is the number of target symbols, or of clips.

        Raises:
            DataError: the batch has no labels.
        """
        self.expect(output, CtcOutput, "--criterion ctc needs wav2vec_ctc")
        if batch.targets is None or batch.target_lengths is None:
            raise DataError("--criterion ctc needs labels; give --labels")
        # A CPU tensor: no wait for the device.
        num_tokens = int(batch.target_lengths.sum())
        losses = ctc_losses(
            output.logits, output.lengths, batch.targets, batch.target_lengths, zero_infinity=self.config.zero_infinity
        )
        sample_size = batch.num_items if self.config.sentence_avg else num_tokens
        sums: dict[str, Value] = {"ntokens": num_tokens, "nsentences": batch.num_items}
        counts = {"ntokens": batch.target_lengths, "nsentences": torch.ones_like(batch.target_lengths)}
        sizes = counts["nsentences" if self.config.sentence_avg else "ntokens"]
        return Loss(losses.sum(), sample_size, sums, ClipLosses(losses, sizes, counts))

    def value_names(self) -> frozenset[str]:
        return frozenset({"loss", "ntokens", "nsentences", *(["nll_loss"] if self.config.sentence_avg else [])})

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss per `sample_size`, ntokens, nsentences and nll_loss per symbol, both losses in bits."""
        loss = sums["loss"] / math.log(2)
        values = {
            "loss": loss / max(sums["sample_size"], 1),
            "ntokens": sums["ntokens"],
            "nsentences": sums["nsentences"],
        }
        # Close, not equal: weighed counts (`--subset-weights`) are no whole numbers.
        if not math.isclose(sums["sample_size"], sums["ntokens"]):
            values["nll_loss"] = loss / max(sums["ntokens"], 1)
        return values


def ctc_loss(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, *, zero_infinity: bool
) -> Tensor:
    """Return the summed negative log-likelihood; see `ctc_losses`."""
    return ctc_losses(logits, lengths, targets, target_lengths, zero_infinity=zero_infinity).sum()


def ctc_losses(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, *, zero_infinity: bool
) -> Tensor:
    """Return the negative log-likelihood of each clip (B,), computed in float32.

    Args:
        logits: (B, T, V); the blank is symbol 0.
        lengths: (B,) int64 valid frames, CPU.
        targets: (B, L) int64, padded.
        target_lengths: (B,) int64, CPU.
        zero_infinity: impossible alignments count 0, and so do their gradients.
    """
    if logits.shape[1] == 0:
        # Every clip is too short for a frame; torch's loss wants one. None is counted, and zero gradients flow.
        logits = F.pad(logits, (0, 0, 0, 1))
    # (B, T, V) -> (T, B, V)
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)
    # cuDNN's kernel refuses zero lengths and long targets.
    with torch.backends.cudnn.flags(enabled=False):
        # (T, B, V) and (B, L) -> (B,); torch's reduction="sum" is the sum of these
        return F.ctc_loss(
            log_probs,
            targets,
            lengths,
            target_lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=zero_infinity,
        )

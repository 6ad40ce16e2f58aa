"""The best path of CTC: the most likely symbol of each frame, collapsed (`--w2l-decoder viterbi`)."""

from __future__ import annotations

from torch import Tensor

from w2v.decoders.base import Decoder, DecoderConfig, register_decoder
from w2v.functional.ctc_path import best_paths
from w2v.types import Hypothesis


@register_decoder("viterbi", DecoderConfig)
class ViterbiDecoder(Decoder):
    """Greedy decoding of a whole batch at once; always one hypothesis.

    With no transition scores, Viterbi's path is the largest value of each frame.
    """

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        # Differs from the original, which gives every best path the score 0.
        return [
            [
                Hypothesis(
                    tokens=path.tokens,
                    words=self.words(path.tokens),
                    score=path.score,
                    scores={"emission": path.score},
                    timesteps=path.timesteps,
                )
            ]
            for path in best_paths(log_probs, lengths)
        ]

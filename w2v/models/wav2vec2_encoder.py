"""The encoder of wav2vec 2.0 without a head: what Hugging Face publishes as `Wav2Vec2Model`.

It gives features and is fine-tuned from; there is nothing in it to train by itself.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from w2v.errors import ConfigError
from w2v.models.base import W2vModel, register_model
from w2v.modules.wav2vec2_encoder import Masks, Wav2Vec2Encoder, Wav2Vec2EncoderConfig
from w2v.types import Features


@register_model("wav2vec2_encoder", Wav2Vec2EncoderConfig)
class Wav2Vec2EncoderModel(W2vModel, Wav2Vec2Encoder):
    """Encoder alone.

    Args:
        config: its options.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        Wav2Vec2Encoder.__init__(self, config)
        self.config = config

    def set_num_updates(self, num_updates: int) -> None:
        Wav2Vec2Encoder.set_num_updates(self, num_updates)

    def forward(self, source: Tensor, lengths: Tensor | None, seed: int) -> NoReturn:
        """Refuse: there is no loss without a head.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "--arch wav2vec2_encoder has no head to train; take wav2vec2, or fine-tune wav2vec_ctc from it"
        )

    def extract_features(self, source: Tensor, lengths: Tensor | None) -> Features:
        """Return the contexts of (B, S) samples, without masks."""
        frames = self.frames(source, lengths)
        return Features(self.encode(source, lengths, frames, Masks(), seed=0).context, frames.lengths)

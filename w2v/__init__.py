"""Self-supervised learning of speech: wav2vec, vq-wav2vec and wav2vec 2.0, from raw audio to transcripts."""

__version__ = "0.1.0"

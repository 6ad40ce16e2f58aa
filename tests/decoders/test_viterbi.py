"""Greedy decoding against a loop over frames, and the registry of decoders."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data.dictionary import Dictionary
from w2v.decoders import DECODERS, Decoder, DecoderConfig, build_decoder
from w2v.errors import RegistryError

DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])


@settings(max_examples=60)
@given(
    clips=st.lists(st.lists(st.sampled_from([0, 4, 5, 6]), max_size=12), min_size=1, max_size=5),
    extra=st.integers(0, 3),
)
def test_collapses_as_a_loop_does(clips: list[list[int]], extra: int) -> None:
    width = max(map(len, clips)) + extra
    # Frames of padding hold a symbol that would show if they were read.
    paths = torch.tensor([[*clip, *[6] * (width - len(clip))] for clip in clips], dtype=torch.long)
    scores = torch.randn(len(clips), width, len(DICTIONARY), generator=torch.Generator().manual_seed(0))
    scores.scatter_(2, paths.reshape(len(clips), width, 1), 9.0)
    lengths = torch.tensor([len(clip) for clip in clips])
    found = build_decoder(DecoderConfig(), DICTIONARY).decode(scores, lengths)
    for clip, (hypothesis,) in zip(clips, found, strict=True):
        runs = [list(run) for _, run in itertools.groupby(enumerate(clip), key=lambda item: item[1])]
        kept = [run[0] for run in runs if run[0][1] != 0]
        assert hypothesis.tokens == [symbol for _, symbol in kept]
        assert hypothesis.timesteps == [frame for frame, _ in kept]
        assert hypothesis.score == pytest.approx(9.0 * len(clip))
        text = "".join(DICTIONARY.symbols[symbol] for symbol in hypothesis.tokens)
        assert hypothesis.words == text.replace("|", " ").split()


def test_words_follow_post_process() -> None:
    scores = torch.eye(7)[[5, 0, 6, 4, 5]].unsqueeze(0)
    read = {
        symbol: build_decoder(DecoderConfig(), DICTIONARY, symbol).decode(scores, torch.tensor([5]))[0][0].words
        for symbol in ("letter", None)
    }
    assert read == {"letter": ["AB", "A"], None: ["A", "B", "|", "A"]}


def test_unknown_decoder_and_your_own() -> None:
    with pytest.raises(RegistryError, match="--w2l-decoder: unknown decoder 'kenlmm'; did you mean 'kenlm'"):
        build_decoder(DecoderConfig(w2l_decoder="kenlmm"), DICTIONARY)
    with DECODERS.temporary():

        @DECODERS.register("mine", DecoderConfig)
        class Mine(Decoder):
            pass

        assert isinstance(build_decoder(DecoderConfig(w2l_decoder="mine"), DICTIONARY), Mine)
    assert DECODERS.names() == ["fairseqlm", "kenlm", "viterbi"]

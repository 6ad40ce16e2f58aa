"""A decoder looks back only; word by word with a memory it computes what it computes at once."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from w2v.modules.transformer_decoder import DecoderSpec, TransformerDecoder, sinusoid

SPEC = DecoderSpec(
    layers=3, embed_dim=16, ffn_embed_dim=32, attention_heads=4, activation_fn="relu", dropout=0.0,
    attention_dropout=0.0, activation_dropout=0.0, layer_norm_first=True, layerdrop=0.0, num_words=30, pad=1,
    input_dim=16, output_dim=16, max_positions=12,
)  # fmt: skip
VARIANTS = {
    "plain": SPEC,
    "after": dataclasses.replace(SPEC, layer_norm_first=False, activation_fn="gelu"),
    "learned": dataclasses.replace(SPEC, learned_positions=True, share_embeddings=True, embedding_norm=True),
    "without": dataclasses.replace(SPEC, no_positions=True, final_norm=False, scale_embedding=False),
    "widths": dataclasses.replace(SPEC, input_dim=12, output_dim=20),
    "adaptive": dataclasses.replace(
        SPEC, input_cutoff=(8, 20), softmax_cutoff=(8, 20), tie_weights=True, tie_projections=True
    ),
}


class Joined:
    """The simplest memory: everything, joined."""

    def __init__(self) -> None:
        self.key = self.value = torch.empty(0)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.key.numel():
            key, value = torch.cat([self.key, key], 2), torch.cat([self.value, value], 2)
        self.key, self.value = key, value
        return key, value


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_word_by_word_is_all_at_once(name: str) -> None:
    torch.manual_seed(0)
    decoder = TransformerDecoder(VARIANTS[name]).eval()
    words = torch.randint(4, 30, (5, 15))  # more words than positions
    wanted = decoder(words)
    memories = [Joined() for _ in range(SPEC.layers)]
    for place in range(15):
        found = decoder.step(words[:, place], torch.full((5,), place), memories, None)
        torch.testing.assert_close(found, wanted[:, place], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nothing_comes_from_the_right() -> None:
    decoder = TransformerDecoder(SPEC).eval()
    words = torch.randint(4, 30, (2, 9))
    changed = words.clone()
    changed[:, 6:] = SPEC.pad
    torch.testing.assert_close(decoder(words)[:, :6], decoder(changed)[:, :6])
    torch.testing.assert_close(decoder(words)[:, :6], decoder(words[:, :6]), rtol=1e-5, atol=1e-5)


def test_sinusoids() -> None:
    """Position 0 is `sin` 0 and `cos` 1; the slowest wave is 10000 times as long as the fastest."""
    table = sinusoid(torch.arange(50), 9)
    assert table.shape == (50, 9)
    assert table[0].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0]
    for channel, frequency in ((0, 1.0), (3, 1e-4)):
        for position in (1, 30):
            assert math.isclose(table[position, channel], math.sin(position * frequency), rel_tol=1e-5)
            assert math.isclose(table[position, 4 + channel], math.cos(position * frequency), rel_tol=1e-5)


def test_first_word_stands_at_position_two() -> None:
    """As in the original: positions are counted from the number of the padding symbol, 1, on."""
    decoder = TransformerDecoder(dataclasses.replace(SPEC, layers=0, final_norm=False)).eval()
    words = torch.tensor([[5, 7]])
    wanted = 4.0 * decoder.embed_tokens(words) + sinusoid(torch.tensor([2, 3]), 16)
    torch.testing.assert_close(decoder(words), wanted)


def test_dropped_blocks_get_zero_gradients() -> None:
    decoder = TransformerDecoder(dataclasses.replace(SPEC, layerdrop=0.5, layers=6)).train()
    decoder.set_num_updates(3)
    output = decoder(torch.randint(4, 30, (2, 5)))
    decoder.softmax.log_likelihood(output.flatten(0, 1), torch.randint(30, (10,))).sum().backward()
    sizes = [layer.fc1.weight.grad.abs().max() for layer in decoder.layers]
    assert 0 < sum(size == 0 for size in sizes) < 6
    assert all(parameter.grad is not None for parameter in decoder.parameters())

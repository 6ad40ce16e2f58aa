"""From audio to contexts of its tokens: a quantizer turns frames into codes, a masked language model reads these.

Codes are those of the whole clip; where they are more than the model has positions, it reads them in windows that
overlap, and the middle of each window is kept. Nothing here trains the quantizer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from w2v.data.dictionary import Dictionary
from w2v.errors import ConfigError
from w2v.functional.padding import padding_mask
from w2v.functional.windows import Piece, overlapping_windows
from w2v.models.base import CONTEXT, W2vModel
from w2v.modules.sentence_encoder import SentenceEncoder

CONTEXT_FRAMES = 400
"""Frames at both ends of a window that only serve as context: four seconds, as in w2v-featurize."""
MAX_TOKENS = 1 << 24
FRAMES = ((1, 1, 1),)  # windows here count tokens, not samples


def token_table(symbols: Sequence[str], codebook: tuple[int, int]) -> Tensor:
    """Return (V ** G,) int64: the token of each combination of codes, `<unk>` where the dictionary has none.

    Args:
        symbols: of the dictionary, such as `12-6`.
        codebook: groups G, and codewords V per group.

    Raises:
        ConfigError: no symbol is such a combination, or there are too many combinations.
    """
    groups, size = codebook
    if groups < 1 or size**groups > MAX_TOKENS:
        raise ConfigError(f"{groups} groups of {size} codes are more combinations than {MAX_TOKENS}")
    table = torch.full((size**groups,), Dictionary.unk)
    found = 0
    for number, symbol in enumerate(symbols):
        parts = symbol.split("-")
        codes = [int(part) for part in parts if part.isdecimal() and len(part) < 8]
        if len(parts) == len(codes) == groups and max(codes) < size:
            table[_combined(torch.tensor(codes), size)] = number
            found += 1
    if not found:
        raise ConfigError(
            f"the tokens of the masked language model are no codes of this quantizer ({groups} groups of {size}); "
            "were they made by another model?"
        )
    return table


def _combined(codes: Tensor, size: int) -> Tensor:
    """Return (...,) one number for the (..., G) codes of a frame."""
    number = codes[..., 0]
    for group in range(1, codes.shape[-1]):
        number = number * size + codes[..., group]
    return number


class TokenReader(nn.Module):
    """A quantizer, and the tokens of its codes; both are fixed.

    Args:
        quantizer: a model with a codebook.
        table: (V ** G,) tokens, of `token_table`.
    """

    table: Tensor

    def __init__(self, quantizer: W2vModel, table: Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer.requires_grad_(False)
        self.register_buffer("table", table)

    def train(self, mode: bool = True) -> TokenReader:
        """Stay in evaluation mode: codes have no noise."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (B, T) tokens of (B, S) samples, and (B,) true frames per clip on the CPU.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU, or None.
        """
        codes, frames = self.quantizer.extract_codes(source, lengths)
        # (B, T, G) -> (B, T)
        tokens: Tensor = self.table[_combined(codes, self.quantizer.codebook_size[1])]
        return tokens, frames


def read_tokens(
    encoder: SentenceEncoder, tokens: Tensor, frames: Tensor, *, last: int | None = None, with_ends: bool = True
) -> list[Tensor]:
    """Return what a masked language model makes of the tokens of clips: L + 1 states (B, T, C), and the contexts.

    Args:
        encoder: the model.
        tokens: (B, T); what lies past the end of a clip does not matter.
        frames: (B,) int64 true tokens per clip, CPU.
        last: compute only so many blocks; the contexts are then of no use.
        with_ends: put `<s>` before and `</s>` after a clip, as in training; their frames are not returned.
    """
    width = encoder.spec.max_positions - (2 if with_ends else 0)
    margin = min(CONTEXT_FRAMES, width // 4)
    pieces = [overlapping_windows(int(size), FRAMES, width, margin) for size in frames]
    if max(map(len, pieces), default=1) <= 1:
        return _states(encoder, tokens, frames, last, with_ends=with_ends)
    places = [(row, piece) for row, some in enumerate(pieces) for piece in some]
    parts: list[list[Tensor]] = []
    # As many windows at once as there are clips: memory is that of a batch which fits the table.
    for first in range(0, len(places), len(tokens)):
        parts += _window_states(encoder, tokens, places[first : first + len(tokens)], last, with_ends=with_ends)
    starts = [sum(map(len, pieces[:row])) for row in range(len(pieces) + 1)]
    return [
        pad_sequence(
            [torch.cat([part[level] for part in parts[a:b]]) for a, b in itertools.pairwise(starts)], batch_first=True
        )
        for level in range(len(parts[0]))
    ]


def _window_states(
    encoder: SentenceEncoder, tokens: Tensor, places: Sequence[tuple[int, Piece]], last: int | None, *, with_ends: bool
) -> list[list[Tensor]]:
    """Return, for each window, its kept frames of every state."""
    rows = pad_sequence([tokens[row, piece.start : piece.stop] for row, piece in places], batch_first=True)
    sizes = torch.tensor([piece.num_samples for _, piece in places])
    states = _states(encoder, rows, sizes, last, with_ends=with_ends)
    return [
        [state[number, piece.skip : piece.skip + piece.keep] for state in states]
        for number, (_, piece) in enumerate(places)
    ]


def _states(
    encoder: SentenceEncoder, tokens: Tensor, frames: Tensor, last: int | None, *, with_ends: bool
) -> list[Tensor]:
    padded = padding_mask(frames, tokens.shape[1], tokens.device)
    # (B, T), padded as in training
    tokens = tokens.masked_fill(padded, encoder.spec.pad)
    if not with_ends:
        contexts, states = encoder(tokens, frames, with_layers=True, last=last)
        return [*states, contexts]
    rows = tokens.new_full((len(tokens), tokens.shape[1] + 2), encoder.spec.pad)  # (B, T + 2)
    rows[:, 0] = Dictionary.bos
    rows[:, 1:-1] = tokens
    rows.scatter_(1, (frames + 1)[:, None].to(tokens.device, non_blocking=True), Dictionary.eos)
    contexts, states = encoder(rows, frames + 2, with_layers=True, last=last)
    # Without the frame of <s>; that of </s> lies past the end of the clip.
    return [state[:, 1:-1] for state in (*states, contexts)]


class TokenFeatures(W2vModel):
    """Contexts of tokens as features of audio: `0`: what the blocks read; `1`, `2`, ...: what each returns; `c`.

    Args:
        reader: from audio to tokens.
        encoder: the masked language model.
        with_ends: read tokens between `<s>` and `</s>`.
    """

    def __init__(self, reader: TokenReader, encoder: SentenceEncoder, *, with_ends: bool = True) -> None:
        super().__init__()
        self.reader = reader
        self.encoder = encoder
        self.with_ends = with_ends
        self.conv_layers = reader.quantizer.conv_layers
        self.layers = (*map(str, range(len(encoder.layers) + 1)), CONTEXT)

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute states by number, and `c`, the contexts."""
        tokens, frames = self.reader(source, lengths)
        last = None if CONTEXT in names else max(map(int, names))
        *states, contexts = read_tokens(self.encoder, tokens, frames, last=last, with_ends=self.with_ends)
        return {CONTEXT: contexts, **{str(number): state for number, state in enumerate(states)}}, frames

"""wav2vec 2.0 written out in plain operators, for exporters, which cannot follow the library's own forward pass.

That one plans on the host and has hand-written gradients. A test holds the two together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.errors import CheckpointError
from w2v.models.base import W2vModel
from w2v.models.wav2vec2_encoder import Wav2Vec2Encoder
from w2v.modules.conv_feature_extractor import ConvBlock
from w2v.modules.multihead_attention import MultiheadAttention
from w2v.modules.norms import ChannelLayerNorm, TimeNorm
from w2v.modules.positional_conv import PositionalConv
from w2v.modules.transformer_layer import TransformerLayer

UNWRITTEN = -1e4
"""Log-probability of a symbol in a frame past the end of its clip; finite in half precision."""


class PlainForward(nn.Module):
    """Samples to contexts, or to symbol scores, without masks or dropout.

    Args:
        encoder: a trained encoder.
        proj: output layer of a CTC model, or None.
    """

    def __init__(self, encoder: Wav2Vec2Encoder, proj: nn.Linear | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.proj = proj

    def forward(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute what the model computes.

        Args:
            source: (B, S) samples, prepared as the model wants them.
            lengths: (B,) int64 true samples per clip; None: all samples count.

        Returns:
            (B, T, C) contexts, or (B, T, V) scores; what lies past the end of a clip means nothing.
        """
        encoder = self.encoder
        x, frames = self._convolve(source[:, None], lengths)
        x = encoder.layer_norm(x.transpose(1, 2))
        if encoder.post_extract_proj is not None:
            x = encoder.post_extract_proj(x)
        hidden: Tensor | None = None
        if frames is not None:
            valid = _valid(frames, x.shape[1])  # (B, T)
            # Padding must not reach true frames: neither through the positions nor through attention.
            x = x * valid[:, :, None].to(x.dtype)
            hidden = (~valid)[:, None, None, :].to(x.dtype) * torch.finfo(x.dtype).min  # (B, 1, 1, T)
        transformer = encoder.encoder
        positions = transformer.pos_conv[0]
        assert isinstance(positions, PositionalConv)
        x = x + _positions(positions, x)
        if not transformer.spec.layer_norm_first:
            x = transformer.layer_norm(x)
        for layer in transformer.layers:
            assert isinstance(layer, TransformerLayer)
            x = _block(layer, x, hidden)
        if transformer.spec.layer_norm_first:
            x = transformer.layer_norm(x)
        return x if self.proj is None else self.proj(x)

    def _convolve(self, x: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (B, C, T) of (B, 1, S), and (B,) true frames."""
        for block in self.encoder.feature_extractor.conv_layers:
            assert isinstance(block, ConvBlock)
            conv, norm = block.get_submodule("0"), block._modules.get("2")
            assert isinstance(conv, nn.Conv1d)
            x = F.conv1d(x, conv.weight, conv.bias, block.stride)
            frames = None if frames is None else _frames_after(frames, conv.weight.shape[2], block.stride)
            if isinstance(norm, TimeNorm):
                x = _norm_over_time(norm, x, frames)
            elif isinstance(norm, ChannelLayerNorm):
                x = norm.get_submodule("1")(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x)
        return x, frames


class Recognizer(nn.Module):
    """Raw samples and their true lengths to log-probabilities: what a program needs that prepares nothing itself.

    Args:
        module: with an output layer; its number format is that of the computation, in and out are float32.
        epsilon: added to the variance where clips are normalised; None: they are not.
        blank: symbol of frames past the end of a clip.
    """

    def __init__(self, module: PlainForward, epsilon: float | None, blank: int = 0) -> None:
        super().__init__()
        self.module, self.epsilon, self.blank = module, epsilon, blank

    def forward(self, input_values: Tensor, input_lengths: Tensor) -> Tensor:
        """Return (B, T, V) log-probabilities of (B, S) samples, of which (B,) are true."""
        x = input_values
        if self.epsilon is not None:
            valid = _valid(input_lengths, x.shape[1]).to(x.dtype)  # (B, S)
            count = input_lengths[:, None].to(x.dtype)
            x = (x - (x * valid).sum(1, keepdim=True) / count) * valid
            x = x * torch.rsqrt(x.square().sum(1, keepdim=True) / count + self.epsilon)
        assert self.module.proj is not None
        logits = self.module(x.to(self.module.proj.weight.dtype), input_lengths).float()
        frames = input_lengths
        for block in self.module.encoder.feature_extractor.conv_layers:
            assert isinstance(block, ConvBlock)
            conv = block.get_submodule("0")
            assert isinstance(conv, nn.Conv1d)
            frames = _frames_after(frames, conv.weight.shape[2], block.stride)
        past = ~_valid(frames, logits.shape[1])[:, :, None]  # (B, T, 1)
        blank = torch.full((logits.shape[2],), UNWRITTEN).index_fill(0, torch.tensor([self.blank]), 0.0)
        return torch.where(past, blank, torch.log_softmax(logits, dim=-1))


def _valid(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size): whether a place lies before the end of its clip."""
    return torch.arange(size)[None] < lengths[:, None]


def _frames_after(lengths: Tensor, kernel: int, stride: int) -> Tensor:
    # At least one frame: a softmax over none would be no number, also for the other clips of the batch.
    return (torch.div(lengths - kernel, stride, rounding_mode="trunc") + 1).clamp(min=1)


def _norm_over_time(norm: TimeNorm, x: Tensor, frames: Tensor | None) -> Tensor:
    """Normalise each channel of (B, C, T) over the true frames, in float32: sums over thousands of frames."""
    wide = x.float()
    if frames is None:
        wide = F.instance_norm(wide, weight=norm.weight.float(), bias=norm.bias.float(), eps=norm.eps)
        return wide.to(x.dtype)
    valid = _valid(frames, x.shape[2])[:, None].float()  # (B, 1, T)
    count = frames[:, None, None].float()
    wide = wide - (wide * valid).sum(2, keepdim=True) / count
    scale = torch.rsqrt((wide * valid).square().sum(2, keepdim=True) / count + norm.eps)
    return (wide * scale * norm.weight.float()[:, None] + norm.bias.float()[:, None]).to(x.dtype)


def _positions(module: PositionalConv, x: Tensor) -> Tensor:
    wide = module.weight_v.float()  # a sum over thousands of numbers
    norm = wide.square().sum(dim=(0, 1), keepdim=True).sqrt()
    weight = (wide * (module.weight_g.float() / norm)).to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight, module.bias, padding=module.kernel // 2, groups=module.groups)
    if module.kernel % 2 == 0:
        y = y[:, :, :-1]
    return F.gelu(y).transpose(1, 2)


def _block(layer: TransformerLayer, x: Tensor, hidden: Tensor | None) -> Tensor:
    if layer.spec.layer_norm_first:
        x = x + _attend(layer.self_attn, layer.self_attn_layer_norm(x), hidden)
        result: Tensor = x + layer.fc2(layer.activation(layer.fc1(layer.final_layer_norm(x))))
        return result
    x = layer.self_attn_layer_norm(x + _attend(layer.self_attn, x, hidden))
    return layer.final_layer_norm(x + layer.fc2(layer.activation(layer.fc1(x))))  # type: ignore[no-any-return]


def _attend(attention: MultiheadAttention, x: Tensor, hidden: Tensor | None) -> Tensor:
    batch, frames, width = x.shape
    heads = attention.num_heads
    query, key, value = (
        projection(x).view(batch, frames, heads, width // heads).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = query @ key.transpose(2, 3) * (width // heads) ** -0.5  # (B, H, T, T)
    weights = torch.softmax(scores if hidden is None else scores + hidden, dim=-1)
    result: Tensor = attention.out_proj((weights @ value).transpose(1, 2).reshape(batch, frames, width))
    return result


def plain_forward(model: W2vModel, where: str) -> tuple[PlainForward, str]:
    """Return the model as a graph of plain operators, and what it computes (`logits` or `features`).

    Raises:
        CheckpointError: it has no wav2vec 2.0 encoder, or one with a quantised input.
    """
    for name, module in model.named_modules():
        if isinstance(module, Wav2Vec2Encoder):
            if module.input_quantizer is not None:
                raise CheckpointError(f"--to onnx: {where} has a quantised input, which cannot be exported")
            proj = model.get_submodule("w2v_encoder.proj") if name == "w2v_encoder.w2v_model" else None
            assert proj is None or isinstance(proj, nn.Linear)
            return PlainForward(module, proj).eval(), "features" if proj is None else "logits"
    raise CheckpointError(f"--to onnx: only wav2vec 2.0 can be exported, {where} holds a {type(model).__name__}")

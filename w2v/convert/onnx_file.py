"""Writes CTC models and encoders of wav2vec 2.0 for ONNX runtimes, with free batch size and length.

Clips of a batch must have the same length: an exported model knows no padding, which at inference costs nothing where
clips run one by one. The forward pass is written out once more in plain operators, because exporters cannot follow
the library's own (it plans on the host and has hand-written gradients); a test holds the two together.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.convert.model_file import ModelFile
from w2v.errors import CheckpointError, MissingPackageError
from w2v.files import atomic_path
from w2v.models.base import W2vModel
from w2v.models.wav2vec2_encoder import Wav2Vec2Encoder
from w2v.modules.conv_feature_extractor import ConvBlock
from w2v.modules.multihead_attention import MultiheadAttention
from w2v.modules.norms import ChannelLayerNorm, TimeNorm
from w2v.modules.positional_conv import PositionalConv
from w2v.modules.transformer_layer import TransformerLayer

OPSET = 17
EXAMPLE_SAMPLES = 16_000


class PlainForward(nn.Module):
    """Source (B, S) to contexts (B, T, C), or to symbol scores (B, T, V), without padding, masks or dropout.

    Args:
        encoder: a trained encoder.
        proj: output layer of a CTC model, or None.
    """

    def __init__(self, encoder: Wav2Vec2Encoder, proj: nn.Linear | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.proj = proj

    def forward(self, source: Tensor) -> Tensor:
        """Compute what the model computes for clips of equal lengths."""
        encoder = self.encoder
        x = source[:, None]
        for block in encoder.feature_extractor.conv_layers:
            assert isinstance(block, ConvBlock)
            x = _convolve(block, x)
        x = encoder.layer_norm(x.transpose(1, 2))
        if encoder.post_extract_proj is not None:
            x = encoder.post_extract_proj(x)
        transformer = encoder.encoder
        positions = transformer.pos_conv[0]
        assert isinstance(positions, PositionalConv)
        x = x + _positions(positions, x)
        if not transformer.spec.layer_norm_first:
            x = transformer.layer_norm(x)
        for layer in transformer.layers:
            assert isinstance(layer, TransformerLayer)
            x = _block(layer, x)
        if transformer.spec.layer_norm_first:
            x = transformer.layer_norm(x)
        return x if self.proj is None else self.proj(x)


def _convolve(block: ConvBlock, x: Tensor) -> Tensor:
    conv, norm = block.get_submodule("0"), block._modules.get("2")
    assert isinstance(conv, nn.Conv1d)
    x = F.conv1d(x, conv.weight, conv.bias, block.stride)
    if isinstance(norm, TimeNorm):
        x = F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
    elif isinstance(norm, ChannelLayerNorm):
        x = norm.get_submodule("1")(x.transpose(1, 2)).transpose(1, 2)
    return F.gelu(x)


def _positions(module: PositionalConv, x: Tensor) -> Tensor:
    norm = module.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
    weight = module.weight_v * (module.weight_g / norm)
    y = F.conv1d(x.transpose(1, 2), weight, module.bias, padding=module.kernel // 2, groups=module.groups)
    if module.kernel % 2 == 0:
        y = y[:, :, :-1]
    return F.gelu(y).transpose(1, 2)


def _block(layer: TransformerLayer, x: Tensor) -> Tensor:
    if layer.spec.layer_norm_first:
        x = x + _attend(layer.self_attn, layer.self_attn_layer_norm(x))
        result: Tensor = x + layer.fc2(layer.activation(layer.fc1(layer.final_layer_norm(x))))
        return result
    x = layer.self_attn_layer_norm(x + _attend(layer.self_attn, x))
    return layer.final_layer_norm(x + layer.fc2(layer.activation(layer.fc1(x))))  # type: ignore[no-any-return]


def _attend(attention: MultiheadAttention, x: Tensor) -> Tensor:
    batch, frames, width = x.shape
    heads = attention.num_heads
    query, key, value = (
        projection(x).view(batch, frames, heads, width // heads).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = torch.softmax(query @ key.transpose(2, 3) * (width // heads) ** -0.5, dim=-1)
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


def write_onnx(path: Path, model: W2vModel, file: ModelFile) -> None:
    """Write a graph from `source` (batch, samples) to `logits` or `features` (batch, frames, width).

    Symbols, sample rate and the normalisation flag are in the metadata. A model of more than 2 GB cannot be written.

    Raises:
        CheckpointError: the model cannot be exported, or the file not be written.
        MissingPackageError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingPackageError("onnx", "onnx", "--to onnx") from e
    module, output = plain_forward(model, file.path)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, EXAMPLE_SAMPLES),),
            buffer,  # type: ignore[arg-type]
            input_names=["source"],
            output_names=[output],
            dynamic_axes={"source": {0: "batch", 1: "samples"}, output: {0: "batch", 1: "frames"}},
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_model_from_string(buffer.getvalue())
    task = file.config["task"]
    metadata = {"sample_rate": str(task.get("sample_rate", 16000)), "normalize": str(file.normalize).lower()}
    if file.symbols is not None:
        metadata["symbols"] = "\n".join(file.symbols)
    for name, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = name, value
    try:
        with atomic_path(path) as part:
            part.write_bytes(graph.SerializeToString())
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be written: {e.strerror or e}") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own log lines away."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

"""What every audio model, one of a plugin too, promises: `extract_features`, `extract_codes` and their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from every_model import KINDS, NAMES, clips, make
from torch import Tensor, nn

from w2v.errors import ArgumentError, ConfigError
from w2v.functional.conv_spec import ConvLayer, frame_lengths, receptive_field
from w2v.models import MODELS, W2vModel
from w2v.models.base import layer_choice
from w2v.types import Features

LENGTHS = [3000, 1750, 2465]  # the last ends with a frame
BLOCKS = ("1", "2", "3")


def test_every_model_that_reads_audio_is_among_them() -> None:
    ours = {MODELS.get(arch).cls for arch, _ in KINDS.values() if arch in MODELS.names()}
    assert {entry.cls for entry in map(MODELS.get, MODELS.names()) if entry.cls.reads == "audio"} <= ours


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_all_layers_by_one_call(name: str) -> None:
    model = make(name)
    source, lengths = clips(LENGTHS)
    got = model.extract_features(source, lengths, layers=model.layers)
    frames = frame_lengths(lengths, model.conv_layers)
    assert got.lengths is not None
    assert torch.equal(got.lengths, frames)
    assert len(got.layers) == len(model.layers)
    for layer, part in zip(model.layers, got.layers, strict=True):
        alone = model.extract_features(source, lengths, layer=layer)
        assert alone.features.shape[:2] == (3, int(frames.max()))
        torch.testing.assert_close(part, alone.features, rtol=0, atol=0)
        if layer.isdecimal():
            by_number = model.extract_features(source, lengths, layer=int(layer))
            assert torch.equal(by_number.features, alone.features)
    default = model.extract_features(source, lengths)
    assert torch.equal(default.features, got.layers[model.layers.index("c")])
    assert not default.layers


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_clip_alone_and_in_a_batch(name: str) -> None:
    model = make(name)
    source, lengths = clips(LENGTHS)
    together = model.extract_features(source, lengths, layers=model.layers)
    for row, length in enumerate(LENGTHS):
        alone = model.extract_features(source[row : row + 1, :length], layers=model.layers)
        assert alone.lengths is None
        for whole, part in zip(together.layers, alone.layers, strict=True):
            torch.testing.assert_close(whole[row, : part.shape[1]], part[0], rtol=1e-4, atol=1e-5)
        full = model.extract_features(source[row : row + 1, :length], [length])
        assert full.lengths is not None
        assert full.lengths.tolist() == [full.features.shape[1]]


@pytest.mark.parametrize("name", [name for name in NAMES if "wav2vec2" in name or "ctc" in name])
@torch.no_grad()
def test_blocks_are_those_that_hooks_see(name: str) -> None:
    model = make(name)
    assert model.layers == ("z", *BLOCKS, "c")
    source, _ = clips([3000])
    seen: list[Tensor] = []
    encoder = next(m for n, m in model.named_modules() if n.endswith("encoder.layers"))
    for block in encoder.children():
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    got = model.extract_features(source, with_layers=True)
    assert len(got.layers) == len(seen) == 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got.layers, seen, strict=True))
    seen.clear()
    model.extract_features(source, layer=2)
    assert len(seen) == 2  # no block beyond the one that was asked for


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_codes(name: str) -> None:
    model = make(name)
    source, lengths = clips(LENGTHS)
    if model.codebook_size == (0, 0):
        with pytest.raises(ConfigError, match="the model has no quantizer"):
            model.extract_codes(source, lengths)
        return
    groups, num_vars = model.codebook_size
    codes, frames = model.extract_codes(source, lengths)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, int(frames.max()), groups)
    assert torch.equal(frames, frame_lengths(lengths, model.conv_layers))
    assert 0 <= int(codes.min()) <= int(codes.max()) < num_vars
    for row, length in enumerate(LENGTHS):
        alone, true = model.extract_codes(source[row : row + 1, :length])
        assert torch.equal(codes[row, : true[0]], alone[0])


@pytest.mark.parametrize("length", [0, 1, 104])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_too_short_has_no_frame(name: str, length: int) -> None:
    model = make(name)
    assert receptive_field(model.conv_layers) == 105
    got = model.extract_features(torch.randn(2, length), layers=model.layers)
    assert all(part.shape[:2] == (2, 0) for part in [got.features, *got.layers])
    source, lengths = clips([500, max(length, 1)])
    assert model.extract_features(source, lengths).lengths.tolist()[1] == 0  # type: ignore[union-attr]
    if model.codebook_size != (0, 0):
        codes, frames = model.extract_codes(torch.randn(2, length))
        assert codes.shape[1] == 0
        assert frames.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["wav2vec_ctc", "wav2vec_ctc_layer_norm"])
def test_scores_of_what_is_too_short_have_no_frame(name: str) -> None:
    output: Any = make(name)(torch.randn(2, 40))
    assert output.logits.shape == (2, 0, 7)
    assert output.lengths.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------ arguments

SOURCE, TRUE = clips([3000, 2000, 1500])
ALSO_RIGHT: dict[str, Any] = {
    "list": TRUE.tolist(), "tuple": tuple(TRUE.tolist()), "array": TRUE.numpy(), "int32": TRUE.int(),
    "floats": TRUE.float(), "doubles": TRUE.double(), "float list": [3000.0, 2000.0, 1500.0],
    "halves": torch.tensor([2000.0, 1500.0, 1000.0]).half(), "big endian": TRUE.numpy().astype(np.int16).tolist(),
}  # fmt: skip
MASK = torch.arange(3000)[None] >= TRUE[:, None]
WRONG: dict[str, tuple[Any, str]] = {
    "padding mask": (MASK, "mask"), "attention mask": ((~MASK).long(), "mask"), "float mask": ((~MASK).float(), "mask"),
    "bools": (torch.tensor([True, True, False]), "mask"), "shares": (TRUE / 3000, "whole numbers"),
    "shares of full clips": ([1.0, 1.0, 1.0], "other units"), "seconds": ([1, 1, 1], "other units"),
    "frames": (frame_lengths(TRUE, make("wav2vec").conv_layers), "other units"),
    "more than there are": (TRUE + 1, "from 0 to 3000"), "negative": ([3000, -1, 5], "from 0 to 3000"),
    "two of three": (TRUE[:2], "3 numbers"), "one": (3000, "3 numbers"), "column": (TRUE[:, None], "mask"),
    "text": ("3000", "one number per clip"), "nan": ([3000.0, float("nan"), 1.0], "whole numbers"),
}  # fmt: skip


def calls(model: W2vModel) -> list[Callable[..., Any]]:
    found: list[Callable[..., Any]] = [model.extract_features]
    if model.codebook_size != (0, 0):
        found.append(model.extract_codes)
    return found


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_other_forms_of_lengths(name: str) -> None:
    model = make(name)
    for call in calls(model):
        for what, given in ALSO_RIGHT.items():
            lengths = given if what != "halves" else given.tolist()
            right = call(SOURCE, torch.tensor(lengths).long())
            got = call(SOURCE, given)
            wanted, found = ((r.features, r.lengths) if isinstance(r, Features) else r for r in (right, got))
            assert torch.equal(wanted[0], found[0])
            assert torch.equal(wanted[1], found[1])


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["wav2vec", "vq_gumbel", "wav2vec2", "wav2vec_ctc", "plugin"])
def test_wrong_lengths_are_named(name: str, what: str) -> None:
    model = make(name)
    given, message = WRONG[what]
    for call in [*calls(model), *([model] if name != "plugin" else [])]:
        with pytest.raises(ArgumentError, match="^lengths must hold the true samples of each clip.*" + message):
            call(SOURCE, given)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(48000, 2), "is turned by source.T"),
        (torch.zeros(16000), r"\(clips, samples\)"),
        (torch.zeros(2, 1, 16000), r"\(clips, samples\)"),
        (torch.zeros(2, 16000, dtype=torch.int16), "floating point"),
        (np.zeros((2, 16000), np.float32), "ndarray"),
        ([0.0] * 16000, "list"),
    ],
)
@pytest.mark.parametrize("name", ["wav2vec", "vq_kmeans", "wav2vec2", "wav2vec_ctc", "plugin"])
def test_wrong_sources_are_named(name: str, source: Any, message: str) -> None:
    model = make(name)
    for call in [*calls(model), *([model] if name != "plugin" else [])]:
        with pytest.raises(ArgumentError, match="^source must be .*" + message):
            call(source)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_layers_are_named(name: str) -> None:
    model = make(name)
    for asked in ({"layer": "x"}, {"layer": 4}, {"layer": 0}, {"layers": ["c", "99"]}, {"layer": "q2"}):
        with pytest.raises(ArgumentError, match=f"^layer must be {layer_choice(model)} for this model, got "):
            model.extract_features(SOURCE, **asked)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ models from outside


class OldPlugin(W2vModel):
    """Written before there were layers: two arguments, and submodules whose names are now attributes of models."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList([nn.Linear(4, 4)])
        self.conv_layers: Any = nn.ModuleList([nn.Conv1d(1, 4, 10, 5)])

    def extract_features(self, source: Tensor, lengths: Tensor | None) -> Features:  # type: ignore[override]
        x = self.conv_layers[0](source[:, None]).transpose(1, 2)
        return Features(self.layers[0](x), None)


class NewPlugin(W2vModel):
    """Says what its layers are, and no more."""

    def __init__(self, layers: tuple[ConvLayer, ...] | None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 10, 5)
        self.layers = ("c", "twice")
        if layers is not None:
            self.conv_layers = layers

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        x = self.conv(nn.functional.pad(source, (0, max(10 - source.shape[1], 0)))[:, None]).transpose(1, 2)
        return {"c": x, "twice": 2 * x}, None if lengths is None else frame_lengths(lengths, [(4, 10, 5)])


def test_submodules_of_a_plugin_are_not_hidden() -> None:
    model = OldPlugin()
    assert isinstance(model.layers, nn.ModuleList)
    assert set(model.state_dict()) == {f"{part}.0.{leaf}" for part in ("layers", "conv_layers") for leaf in
                                       ("weight", "bias")}  # fmt: skip
    assert model.extract_features(SOURCE, None).features.shape == (3, 599, 4)


@pytest.mark.parametrize("layers", [None, ((4, 10, 5),)])
def test_a_plugin_needs_one_method(layers: tuple[ConvLayer, ...] | None) -> None:
    model = NewPlugin(layers)
    assert model.conv_layers == (layers or ())
    got = model.extract_features(SOURCE, TRUE.tolist(), layers=["twice", "c"])
    assert torch.equal(got.layers[0], 2 * got.features)
    assert got.lengths is not None
    assert got.lengths.tolist() == [599, 399, 299]
    assert model.extract_features(torch.zeros(1, 9)).features.shape[1] == (0 if layers else 1)
    with pytest.raises(ArgumentError, match="layer must be c or twice for this model"):
        model.extract_features(SOURCE, layer="z")


def test_a_model_of_text_has_no_features() -> None:
    class Text(W2vModel):
        reads = "text"

    with pytest.raises(NotImplementedError, match="Text has no audio features"):
        Text().extract_features(torch.zeros(1, 100))


# ------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("wav2vec2_encoder", "plugin")])
def test_no_seed_is_needed(name: str) -> None:
    """Evaluation repeats without one; training draws another at each call, from torch's generator."""
    model = make(name, **({"apply_mask": True, "mask_length": 3} if "ctc" in name else {}))
    source, lengths = clips(LENGTHS)

    def logits() -> Tensor:
        if name == "hubert":
            labels = [torch.arange(4 * 500).view(4, 500)[: len(source)] % classes for classes in (7, 5)]
            return model(source, lengths, frame_labels=labels).masked[0].logits.detach()
        result: Any = model(source, lengths)
        return result.logits.detach()

    first, again = logits(), logits()
    assert torch.equal(first, again)
    model.train()
    torch.manual_seed(5)
    first, other = logits(), logits()
    assert first.shape != other.shape or not torch.equal(first, other)
    torch.manual_seed(5)
    assert torch.equal(logits(), first)

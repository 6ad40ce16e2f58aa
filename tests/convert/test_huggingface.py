"""Hugging Face folders, both ways; transformers, where it is installed, is the other implementation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import build_config, to_plain
from w2v.convert import ModelFile, read_model_file
from w2v.convert.fairseq_file import write_fairseq
from w2v.convert.huggingface_config import to_their_config
from w2v.convert.huggingface_folder import write_huggingface
from w2v.convert.huggingface_names import to_our_names, to_their_names
from w2v.convert.symbols import LETTERS
from w2v.convert.w2v_file import write_own
from w2v.errors import CheckpointError
from w2v.inference.load import build_model, load_model
from w2v.models import MODELS
from w2v.models.wav2vec2 import Wav2Vec2Model
from w2v.models.wav2vec_ctc import Wav2VecCtc

FILES = ("w2v2_base", "w2v2_large", "ctc_base", "ctc_large")
TINY = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4,
    "conv_feature_layers": [[16, 10, 5], [16, 3, 2], [16, 2, 2]], "conv_pos": 16, "conv_pos_groups": 4, "final_dim": 8,
    "latent_vars": 5, "latent_groups": 2, "quantize_targets": True,
}  # fmt: skip
KINDS = {
    "group": {"extractor_mode": "default"},
    "group, pre-norm": {"extractor_mode": "default", "layer_norm_first": True},
    "layer": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}


def random_file(kind: str, **options: Any) -> ModelFile:
    """A model of random weights, larger than at initialisation, so that every tensor matters."""
    torch.manual_seed(0)
    pretraining = MODELS.get("wav2vec2")
    sections: dict[str, dict[str, Any]] = {"task": {"_name": "audio_pretraining", "data": ".", "normalize": False}}
    if kind == "wav2vec_ctc":
        encoder = {"_name": "wav2vec2", **options}
        sections["model"] = {"_name": kind, "w2v_args": encoder, "apply_mask": True}
        sections["task"]["labels"] = "ltr"
        model: Any = Wav2VecCtc.build(build_config(MODELS.get(kind).config, sections["model"], "test"), num_classes=32)
    else:
        config: Any = build_config(pretraining.config, options, "test")
        model = Wav2Vec2Model(config)
        sections["model"] = {"_name": "wav2vec2", **to_plain(config)}
    state = {name: tensor + 0.1 * torch.rand_like(tensor) for name, tensor in model.state_dict().items()}
    return ModelFile("random", "w2v", sections, state, list(LETTERS) if kind == "wav2vec_ctc" else None, "the test", 7)


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether names, dtypes and bits agree."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("generation", ["g1_args", "g2_dictconfig", "g3_cfg"])
@pytest.mark.parametrize("name", FILES)
def test_from_fairseq_and_back(golden: Path, tmp_path: Path, generation: str, name: str) -> None:
    pytest.importorskip("safetensors")
    source = read_model_file(golden / "checkpoints" / generation / f"{name}.pt")
    write_huggingface(tmp_path / "folder", source)
    between = read_model_file(tmp_path / "folder")
    write_fairseq(tmp_path / "back.pt", between)
    back = read_model_file(tmp_path / "back.pt")
    for file in (between, back):
        assert same(file.state, source.state)
        assert (file.symbols, file.num_updates, file.normalize) == (
            source.symbols, source.num_updates, source.normalize,
        )  # fmt: skip
        assert build_model(file).model.config == build_model(source).model.config  # all options
    assert list(back.state) == list(between.state)
    assert back.kind == "fairseq, cfg of plain dicts"


@pytest.mark.parametrize("new_weight_norm", [False, True])
@pytest.mark.parametrize("as_bin", [False, True])
@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec_ctc"])
def test_both_spellings_and_both_files(tmp_path: Path, kind: str, as_bin: bool, new_weight_norm: bool) -> None:
    if not as_bin:
        pytest.importorskip("safetensors")
    file = random_file(kind, **TINY)
    write_huggingface(tmp_path, file, new_weight_norm=new_weight_norm, as_bin=as_bin)
    assert (tmp_path / "pytorch_model.bin").exists() == as_bin
    assert same(read_model_file(tmp_path).state, file.state)
    assert same(read_model_file(tmp_path / "config.json").state, file.state)  # the file stands for its folder


def test_the_flags_of_the_folder(tmp_path: Path) -> None:
    for kind, options in KINDS.items():
        file = random_file("wav2vec_ctc", **TINY, **options)
        file.config["task"]["normalize"] = kind == "layer"
        write_huggingface(tmp_path, file, as_bin=True)
        audio = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert (audio["do_normalize"], audio["return_attention_mask"]) == (kind == "layer", kind == "layer")
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["feat_extract_norm"] == ("layer" if kind == "layer" else "group")
        assert config["do_stable_layer_norm"] == (kind != "group")
        assert read_model_file(tmp_path).normalize == (kind == "layer")
        vocabulary = json.loads((tmp_path / "vocab.json").read_text())
        assert vocabulary["<pad>"] == config["pad_token_id"] == 0  # their blank
        assert vocabulary["<s>"] == 1
        assert vocabulary["|"] == LETTERS.index("|")


def their_class(kind: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    return {
        "wav2vec2": transformers.Wav2Vec2ForPreTraining,
        "wav2vec_ctc": transformers.Wav2Vec2ForCTC,
        "wav2vec2_encoder": transformers.Wav2Vec2Model,
    }[kind]


def compare(model: Any, theirs: Any, source: Tensor, lengths: Tensor | None) -> None:
    """Compare all that both compute; with lengths, on the true frames."""
    mask = None if lengths is None else (torch.arange(source.shape[1])[None] < lengths[:, None]).long()
    with torch.inference_mode():
        found = theirs(source, attention_mask=mask)
        features = model.extract_features(source, lengths)
        frames = features.features.shape[1]
        valid = torch.ones(len(source), frames, dtype=torch.bool)
        if features.lengths is not None:
            valid = torch.arange(frames)[None] < features.lengths[:, None]
        if isinstance(model, Wav2VecCtc):
            wanted = [(model(source, lengths, 0).logits, found.logits)]
        elif isinstance(model, Wav2Vec2Model):
            assert model.quantizer is not None
            quantized = model.quantizer(model.layer_norm(model.feature_extractor(source, lengths)))
            wanted = [
                (model.final_proj(features.features), found.projected_states),
                (model.project_q(quantized.x), found.projected_quantized_states),
            ]
        else:
            wanted = [(features.features, found.last_hidden_state)]
    for ours, other in wanted:
        torch.testing.assert_close(ours[valid], other[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec_ctc"])
def test_transformers_reads_our_folders(tmp_path: Path, kind: str, norm: str) -> None:
    pytest.importorskip("safetensors")
    cls = their_class(kind)
    file = random_file(kind, **TINY, **KINDS[norm])
    write_huggingface(tmp_path, file)
    theirs, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    source = torch.randn(3, 4000)
    compare(build_model(file).model, theirs.eval(), source, None)
    if norm == "layer":  # theirs is right about padding there
        source[1, 3000:], source[2, 1500:] = 0, 0
        compare(build_model(file).model, theirs, source, torch.tensor([4000, 3000, 1500]))


def test_transformers_reads_our_vocabulary(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write_huggingface(tmp_path, random_file("wav2vec_ctc", **TINY), as_bin=True)
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
    ids = [LETTERS.index(symbol) for symbol in "HHEL"] + [0] + [LETTERS.index(symbol) for symbol in "LO|YOU"]
    assert processor.batch_decode([ids]) == ["HELLO YOU"]
    assert processor.feature_extractor.sampling_rate == 16000
    assert processor.tokenizer("HELLO").input_ids == [LETTERS.index(symbol) for symbol in "HELLO"]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec_ctc", "wav2vec2_encoder"])
def test_we_read_folders_of_transformers(tmp_path: Path, kind: str, norm: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=[16, 16, 16],
        conv_kernel=[10, 3, 2], conv_stride=[5, 2, 2], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=6, vocab_size=32, feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer",
    )  # fmt: skip
    theirs = their_class(kind)(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.model).__name__ == {
        "wav2vec2": "Wav2Vec2Model", "wav2vec_ctc": "Wav2VecCtc", "wav2vec2_encoder": "Wav2Vec2EncoderModel",
    }[kind]  # fmt: skip
    assert loaded.task.config.normalize == (norm == "layer")
    compare(loaded.model, theirs, torch.randn(2, 3000), None)
    file = read_model_file(tmp_path)
    write_own(tmp_path / "own.pt", file)
    again = load_model(tmp_path / "own.pt")
    assert same(dict(again.model.state_dict()), dict(loaded.model.state_dict()))


@pytest.mark.parametrize("size", ["base", "large"])
def test_real_sizes(size: str) -> None:
    """BASE with group norm; LARGE as published for LibriVox, with layer norm, padded. Nothing is written."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = "wav2vec_ctc" if size == "base" else "wav2vec2"
    options: dict[str, Any] = {"conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"}
    if size == "large":
        options |= {
            "encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096,
            "encoder_attention_heads": 16, "final_dim": 768, "quantize_targets": True, **KINDS["layer"],
        }  # fmt: skip
    with torch.device("meta"):
        encoder: Any = build_config(MODELS.get("wav2vec2").config, options, "test")
        model: Any = Wav2Vec2Model(encoder)
        if kind == "wav2vec_ctc":
            config: Any = build_config(MODELS.get(kind).config, {"w2v_args": to_plain(encoder)}, "test")
            model = Wav2VecCtc.build(config, num_classes=32)
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in model.state_dict().items():
        spread = 0.04 if tensor.dim() > 1 else 0.2
        offset = 0.9 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = torch.empty(tensor.shape).uniform_(-spread, spread, generator=generator).add_(offset)
    section = {"_name": kind, **to_plain(model.config)}
    file = ModelFile("random", "w2v", {"task": {"_name": "audio_pretraining", "data": "."}, "model": section}, state)
    if kind == "wav2vec_ctc":
        file = ModelFile(file.path, file.kind, file.config, state, list(LETTERS))
        file.config["task"]["labels"] = "ltr"
    renamed = to_their_names(state, kind, new_weight_norm=True)
    with torch.device("meta"):
        theirs = their_class(kind)(transformers.Wav2Vec2Config(**to_their_config(file)))
    theirs.load_state_dict(renamed, assign=True)
    assert same(to_our_names(renamed, kind, "test", layer_norm=size == "large"), state)
    source = torch.randn(2, 8000, generator=generator)
    lengths = None
    if size == "large":
        lengths = torch.tensor([8000, 5000])
        source[1, 5000:] = 0
    compare(build_model(file).model, theirs.eval(), source, lengths)


def test_another_order_of_symbols(tmp_path: Path) -> None:
    """Fine-tuned models of users: lower case, the blank last, a space as delimiter, no `<s>` and `</s>`."""
    file = random_file("wav2vec_ctc", **TINY)
    write_huggingface(tmp_path, file, as_bin=True)
    tokens = [" ", *"abcdefghijklmnopqrstuvwxyz'-.", "[UNK]", "[PAD]"]
    assert len(tokens) == 32
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    names = {"pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}, "word_delimiter_token": " "}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "special_tokens_map.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 31}))
    loaded, before = load_model(tmp_path), build_model(file)
    symbols = loaded.task.dictionary.symbols  # type: ignore[attr-defined]
    assert symbols == ["<s>", "<pad>", "</s>", "<unk>", "|", *tokens[1:30]]
    source = torch.randn(1, 4000)
    with torch.inference_mode():
        ours = torch.softmax(loaded.model(source, None, 0).logits, -1)
        theirs = torch.softmax(before.model(source, None, 0).logits, -1)
    for number, symbol in enumerate(symbols):
        token = {"<s>": "[PAD]", "<unk>": "[UNK]", "|": " "}.get(symbol, symbol)
        wanted = theirs[..., tokens.index(token)] if token in tokens else torch.zeros_like(theirs[..., 0])
        torch.testing.assert_close(ours[..., number], wanted, rtol=1e-5, atol=1e-6)


def test_shards(tmp_path: Path) -> None:
    file = random_file("wav2vec2", **TINY)
    write_huggingface(tmp_path, file, as_bin=True)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    (tmp_path / "pytorch_model.bin").unlink()
    places = {name: f"part-{number % 2}.bin" for number, name in enumerate(state)}
    for part in set(places.values()):
        torch.save({name: state[name] for name in state if places[name] == part}, tmp_path / part)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(read_model_file(tmp_path).state, file.state)


def test_equal_widths_need_no_projection(tmp_path: Path) -> None:
    """The original has no projection between equal widths, their classes always have one."""
    options = {**TINY, "conv_feature_layers": [[32, 10, 5], [32, 3, 2]]}
    file = random_file("wav2vec2", **options)
    assert "post_extract_proj.weight" not in file.state
    write_huggingface(tmp_path, file, as_bin=True)
    assert same(read_model_file(tmp_path).state, file.state)
    their_state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    their_state["wav2vec2.feature_projection.projection.bias"][3] = 1
    torch.save(their_state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="to the same width"):
        read_model_file(tmp_path)


def test_what_has_no_counterpart_is_refused(golden: Path, tmp_path: Path) -> None:
    for options, wanted in (
        ({"quantize_targets": False}, "has no quantizer"),
        ({"target_glu": True}, "--target-glu"),
        ({"quantize_input": True}, "--quantize-input"),
    ):
        with pytest.raises(CheckpointError, match=wanted):
            write_huggingface(tmp_path / "x", random_file("wav2vec2", **{**TINY, **options}))
    with pytest.raises(CheckpointError, match=r"only wav2vec 2\.0"):
        write_huggingface(tmp_path / "x", read_model_file(golden / "checkpoints/g3_cfg/w2v1.pt"))
    write_huggingface(tmp_path / "y", random_file("wav2vec2", **TINY), as_bin=True)
    config = json.loads((tmp_path / "y/config.json").read_text())
    for change, wanted in (
        ({"add_adapter": True}, "add_adapter"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"conv_kernel": [3]}, "same length"),
        ({"num_hidden_layers": 3}, r"missing encoder\.layers\.2"),
    ):
        (tmp_path / "y/config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=wanted):
            load_model(tmp_path / "y")

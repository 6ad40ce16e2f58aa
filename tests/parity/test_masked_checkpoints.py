"""Masked language models on disk: the original's generations, our files, and Hugging Face folders, both ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_speech import call

from w2v.checkpoint.torch_file import read_torch_file
from w2v.config import build_config
from w2v.convert import ModelFile, read_model_file
from w2v.convert.masked_model_state import OUTPUT, TOKENS, to_fairseq_names
from w2v.errors import CheckpointError
from w2v.inference.emissions import ctc_info
from w2v.inference.load import LoadedModel, build_model, load_model
from w2v.models import MODELS
from w2v.optim import OPTIMIZERS, build_optimizer
from w2v_cli import convert

FILES = (
    "g1_args/roberta_codes",
    "g1_args/roberta_codes_2019names",
    "g2_dictconfig/roberta_codes",
    "g3_cfg/roberta_codes",
)


def place(golden: Any, name: str) -> Path:
    path: Path = golden / f"beyond/checkpoints/{name}.pt"
    return path


def recorded(golden: Any, name: str) -> dict[str, Any]:
    path = place(golden, name.removesuffix("_2019names"))
    found: dict[str, Any] = torch.load(path.with_suffix(".io.pt"), weights_only=True)
    return found


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@torch.no_grad()
def check_outputs(loaded: LoadedModel, wanted: dict[str, Any]) -> None:
    model: Any = loaded.model
    dictionary: Any = loaded.task.dictionary  # type: ignore[attr-defined]
    tokens, lengths = wanted["tokens"], torch.tensor(wanted["lengths"])
    for row, line in enumerate(wanted["lines"]):
        ids = [dictionary.bos, *dictionary.encode(line), dictionary.eos]
        assert tokens[row, : len(ids)].tolist() == ids
    assert (len(dictionary), dictionary.index("<mask>")) == (wanted["vocab"], wanted["mask"])
    features, states = model.encode(tokens, lengths, with_layers=True)
    true = tokens != dictionary.pad
    close(features[true], wanted["features_BTC"][true])
    for mine, theirs in zip(states, wanted["inner_states_TBC"], strict=True):
        close(mine[true], theirs.transpose(0, 1)[true])
    close(model.encoder.scores(features[true]), wanted["logits_BTV"][true])
    alone, _ = model.encode(tokens[:1, : int(lengths[0])], lengths[:1])
    close(alone, wanted["features_first_alone_BTC"])


def same(ours: ModelFile, theirs: ModelFile) -> bool:
    return ours.state.keys() == theirs.state.keys() and all(
        torch.equal(tensor, theirs.state[name]) for name, tensor in ours.state.items()
    )


@pytest.mark.parametrize("name", FILES)
def test_all_generations_load_and_travel_through_all_formats(golden: Any, tmp_path: Path, name: str) -> None:
    pytest.importorskip("safetensors")
    wanted, source = recorded(golden, name), read_model_file(place(golden, name))
    check_outputs(load_model(place(golden, name)), wanted)
    assert source.num_updates > 0
    before: Path = place(golden, name)
    for kind, target in (
        ("w2v", "own.pt"),
        ("fairseq", "g3/theirs.pt"),
        ("safetensors", "m.safetensors"),
        ("hf", "hf"),
    ):
        path = tmp_path / target
        (tmp_path / "g3").mkdir(exist_ok=True)
        outcome = call(convert.main, [before, path, "--to", kind])
        assert outcome.code == 0, outcome.err
        file = read_model_file(path)
        assert same(file, source)
        assert (file.symbols, file.num_updates) == (source.symbols, source.num_updates)
        assert build_model(file).task.config == build_model(source).task.config
        # The model alone: presets are spelled out on the way.
        assert build_model(file).model.config == build_model(source).model.config
        before = path
    check_outputs(load_model(before), wanted)


@pytest.mark.parametrize("name", [FILES[0], FILES[2]])
def test_the_originals_moments_are_those_of_our_parameters(golden: Any, name: str) -> None:
    content: Any = read_torch_file(place(golden, name))
    saved = content["last_optimizer_state"]
    model = load_model(place(golden, name)).model
    parameters = dict(model.named_parameters())
    assert len(saved["state"]) == len(parameters) == len(content["model"]) - 1  # the shared matrix is one of them
    adam = OPTIMIZERS.get("adam")
    group = saved["param_groups"][0]
    options = {name.replace("betas", "adam_betas").replace("eps", "adam_eps"): group[name] for name in ("betas", "eps")}
    config = build_config(adam.config, {**options, "weight_decay": group["weight_decay"]}, "test")
    optimizer = build_optimizer(adam, config, parameters.values())
    optimizer.load_state_dict(saved)
    torch.manual_seed(1)
    before = [parameter.detach().clone() for parameter in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(group["lr"])
    (first, second), rate = group["betas"], group["lr"]
    for number, (old, parameter) in enumerate(zip(before, parameters.values(), strict=True)):
        entry, gradient = saved["state"][number], parameter.grad
        assert gradient is not None
        mean = first * entry["exp_avg"] + (1 - first) * gradient
        spread = (second * entry["exp_avg_sq"] + (1 - second) * gradient**2).sqrt() + group["eps"]
        step = int(entry["step"]) + 1
        size = rate * (1 - second**step) ** 0.5 / (1 - first**step)
        wanted = old * (1 - rate * group["weight_decay"]) - size * mean / spread
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_names_written_for_fairseq_are_its_own(golden: Any, tmp_path: Path) -> None:
    assert call(convert.main, [place(golden, FILES[0]), tmp_path / "x.pt", "--to", "fairseq"]).code == 0
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    theirs = torch.load(golden / "beyond/roberta.pt", weights_only=True)["head_names"]
    assert sorted(content["model"]) == sorted(theirs)
    symbols = [line.split()[0] for line in (tmp_path / "dict.txt").read_text().splitlines()]
    assert symbols == [
        line.split()[0] for line in (place(golden, FILES[0]).parent / "dict.txt").read_text().splitlines()
    ]
    (tmp_path / "dict.txt").write_text("a 1\n")
    outcome = call(convert.main, [place(golden, FILES[0]), tmp_path / "x.pt", "--to", "fairseq"])
    assert (outcome.code, "is another dictionary than the model's" in outcome.err) == (2, True)


def test_a_model_of_tokens_is_no_onnx_graph_and_writes_no_words(golden: Any, tmp_path: Path) -> None:
    outcome = call(convert.main, [place(golden, FILES[0]), tmp_path / "x.onnx", "--to", "onnx"])
    assert (outcome.code, "which reads no audio" in outcome.err) == (2, True)
    with pytest.raises(CheckpointError, match="is a masked language model, which writes no words"):
        ctc_info(load_model(place(golden, FILES[0])))


def copied(golden: Any, tmp_path: Path) -> Path:
    path = tmp_path / "bert.pt"
    shutil.copy(place(golden, FILES[0]), path)
    return path


def test_the_dictionary_beside_is_required_and_its_size_checked(golden: Any, tmp_path: Path) -> None:
    path = copied(golden, tmp_path)
    rows = recorded(golden, FILES[0])["vocab"]
    with pytest.raises(CheckpointError, match=rf"knows {rows - 1} words .*put the dict\.txt .* beside it"):
        load_model(path)
    lines = (place(golden, FILES[0]).parent / "dict.txt").read_text().splitlines(keepends=True)
    (tmp_path / "dict.txt").write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match=rf"knows {rows - 1} words .*dict\.txt holds {rows - 2}"):
        load_model(path)
    (tmp_path / "other.txt").write_text("".join(lines))
    check_outputs(load_model(path, dictionary=str(tmp_path / "other.txt")), recorded(golden, FILES[0]))


def test_weights_that_should_be_shared_and_differ_are_refused(golden: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    assert call(convert.main, [place(golden, FILES[3]), path, "--to", "fairseq"]).code == 0
    content = torch.load(path, weights_only=True)
    content["model"][OUTPUT] = content["model"][OUTPUT] + 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="should be one tensor, and differ"):
        read_model_file(path)
    content["cfg"]["model"]["untie_weights_roberta"] = True
    torch.save(content, path)
    model: Any = load_model(path).model
    assert torch.equal(model.encoder.lm_head.weight, content["model"][OUTPUT])
    assert torch.equal(model.encoder.sentence_encoder.embed_tokens.weight, content["model"][TOKENS])


@pytest.fixture(scope="module")
def folder(golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("hf") / "bert"
    assert call(convert.main, [place(golden, FILES[2]), path, "--to", "huggingface"]).code == 0
    return path


@torch.no_grad()
def test_transformers_computes_the_same(golden: Any, folder: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    wanted = recorded(golden, FILES[2])
    config = json.loads((folder / "config.json").read_text())
    ours: Any = load_model(folder).model
    assert config["layer_norm_eps"] == 1e-5
    assert config["max_position_embeddings"] == len(ours.encoder.sentence_encoder.embed_positions.weight)
    model, info = transformers.RobertaForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokens = wanted["tokens"]
    true = tokens != 1
    output = model.eval()(input_ids=tokens, attention_mask=true.long(), output_hidden_states=True)
    close(output.logits[true], wanted["logits_BTV"][true])
    for mine, theirs in zip(output.hidden_states, wanted["inner_states_TBC"], strict=True):
        close(mine[true], theirs.transpose(0, 1)[true])
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for row, line in enumerate(wanted["lines"]):
        ids = tokenizer(line)["input_ids"]
        assert ids == tokens[row, : len(ids)].tolist()
        assert len(ids) == wanted["lengths"][row]
    assert tokenizer.mask_token_id == wanted["mask"]
    assert tokenizer("99-99 <mask>")["input_ids"] == [0, 3, wanted["mask"], 2]


@torch.no_grad()
def test_a_model_saved_by_transformers_is_read(golden: Any, folder: Path, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    safetensors: Any = pytest.importorskip("safetensors.torch")
    wanted = recorded(golden, FILES[2])
    model = transformers.RobertaForMaskedLM.from_pretrained(folder)
    # A model that was trained there has learnt a vector of its one segment.
    model.roberta.embeddings.token_type_embeddings.weight.add_(0.1)
    model.save_pretrained(tmp_path)
    shutil.copy(folder / "tokenizer.json", tmp_path)
    assert TOKENS not in safetensors.load_file(tmp_path / "model.safetensors")
    file = read_model_file(tmp_path)
    assert any("segment 0 is not zero" in note for note in file.notes)
    ours: Any = build_model(file).model
    tokens = wanted["tokens"]
    true = tokens != 1
    theirs = model.eval()(input_ids=tokens, attention_mask=true.long()).logits
    features, _ = ours.encode(tokens, torch.tensor(wanted["lengths"]))
    close(ours.encoder.scores(features[true]), theirs[true])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_eps": 1e-12}, "has layer_norm_eps = '1e-12'; only 1e-05 is known here"),
        ({"pad_token_id": 0}, "has pad_token_id = '0'; only 1 is known here"),
        ({"hidden_act": "silu"}, "has hidden_act = 'silu'; only 'gelu' is known here"),
        ({"w2v": 3}, "its key w2v must hold sections"),
    ],
)
def test_other_variants_are_refused(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    shutil.copytree(folder, tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=message):
        read_model_file(tmp_path / "x")


def test_a_tokenizer_of_text_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x/tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}}))
    with pytest.raises(CheckpointError, match="must know tokens whole"):
        read_model_file(tmp_path / "x")


def test_the_published_size_has_the_names_and_shapes_of_the_original(golden: Any) -> None:
    wanted = json.loads((golden / "beyond/roberta_base_codes.shapes.json").read_text())
    entry = MODELS.get("roberta_base")
    config = build_config(entry.config, {**entry.overrides, "max_positions": wanted["max_positions"]}, "test")
    with torch.device("meta"):
        model = entry.cls.build(config, num_words=wanted["vocab"], pad=1, max_positions=512)
    names = to_fairseq_names(model.state_dict())
    shapes = {name.replace("layernorm_embedding", "emb_layer_norm"): list(t.shape) for name, t in names.items()}
    shapes.pop("encoder.sentence_encoder.version")
    assert shapes == wanted["tensors"]


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_dictionary_that_is_named_replaces_that_of_our_files(golden: Any, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"own.{ending}"
    form = "w2v" if ending == "pt" else "safetensors"
    assert call(convert.main, [place(golden, FILES[0]), path, "--to", form]).code == 0
    given = place(golden, FILES[0]).parent / "dict.txt"
    loaded = load_model(path, dictionary=str(given))
    check_outputs(loaded, recorded(golden, FILES[0]))

"""Language models of the original in the layouts of its releases; what they compute is checked by plain arithmetic."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_speech import call

from w2v.convert import read_model_file
from w2v.data.dictionary import Dictionary
from w2v.errors import CheckpointError
from w2v.inference.load import load_language_model, load_model
from w2v.lm.language_model import LanguageModel
from w2v_cli import convert, infer

NUM_WORDS, DIM, HEADS, LAYERS, FFN, CUTOFF, FACTOR = 40, 16, 4, 2, 24, (10, 24), 4
WORDS = [f"w{i}" for i in range(NUM_WORDS - 4)]

ARGS: dict[str, Any] = {
    "arch": "transformer_lm_gbw", "task": "language_modeling", "criterion": "adaptive_loss", "data": "data-bin",
    "sample_break_mode": "eos", "tokens_per_sample": 64, "max_target_positions": 64, "add_bos_token": False,
    "decoder_embed_dim": DIM, "decoder_input_dim": DIM, "decoder_output_dim": DIM, "decoder_ffn_embed_dim": FFN,
    "decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "decoder_normalize_before": True, "dropout": 0.1,
    "attention_dropout": 0.1, "activation_fn": "relu", "relu_dropout": 0.0, "no_decoder_final_norm": True,
    "adaptive_softmax_cutoff": "10,24", "adaptive_softmax_factor": FACTOR, "adaptive_softmax_dropout": 0.0,
    "adaptive_input": True, "adaptive_input_cutoff": "10,24", "adaptive_input_factor": FACTOR,
    "tie_adaptive_weights": True, "tie_adaptive_proj": True, "character_embeddings": False, "self_target": False,
    "no_token_positional_embeddings": False, "share_decoder_input_output_embed": False, "decoder_learned_pos": False,
    "output_dictionary_size": -1, "decoder_layers_to_keep": None, "no_scale_embedding": False,
}  # fmt: skip


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def adaptive_state(final_norm: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a word model with adaptive inputs and softmax, all tied, under the original's names."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {"decoder.version": torch.tensor([3.0])}
    for band, (first, end) in enumerate(((0, 10), (10, 24), (24, NUM_WORDS))):
        width = DIM // FACTOR**band
        state[f"decoder.embed_tokens.embeddings.{band}.0.weight"] = draw(end - first, width)
        state[f"decoder.embed_tokens.embeddings.{band}.1.weight"] = draw(DIM, width)
    state["decoder.embed_tokens._float_tensor"] = torch.zeros(1)
    state["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    for layer in range(LAYERS):
        stem = f"decoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= {f"{stem}.self_attn.{name}.weight": draw(DIM, DIM), f"{stem}.self_attn.{name}.bias": draw(DIM)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            state |= {f"{stem}.{name}.weight": 1 + draw(DIM), f"{stem}.{name}.bias": draw(DIM)}
        state |= {f"{stem}.fc1.weight": draw(FFN, DIM), f"{stem}.fc1.bias": draw(FFN)}
        state |= {f"{stem}.fc2.weight": draw(DIM, FFN), f"{stem}.fc2.bias": draw(DIM)}
    if final_norm:
        state |= {"decoder.layer_norm.weight": 1 + draw(DIM), "decoder.layer_norm.bias": draw(DIM)}
    embeddings = "decoder.embed_tokens.embeddings"
    state["decoder.adaptive_softmax.version"] = torch.tensor([1])
    state["decoder.adaptive_softmax.head.word_proj.weight"] = state[f"{embeddings}.0.0.weight"]
    state["decoder.adaptive_softmax.head.class_proj.weight"] = draw(2, DIM)
    state["decoder.adaptive_softmax.head._float_tensor"] = torch.zeros(1)
    for tail in (0, 1):
        state[f"decoder.adaptive_softmax.tail.{tail}.0.weight"] = state[f"{embeddings}.{tail + 1}.1.weight"]
        state[f"decoder.adaptive_softmax.tail.{tail}.2.weight"] = state[f"{embeddings}.{tail + 1}.0.weight"]
    return state


def plain_log_probs(state: dict[str, Tensor], history: list[int]) -> np.ndarray:
    """Return (V,) log-probabilities after a history, in numpy and float64, position by position and head by head."""
    s = {name: tensor.double().numpy() for name, tensor in state.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / scale * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    stem = "decoder.embed_tokens.embeddings"
    embeddings = [(s[f"{stem}.{band}.0.weight"], s[f"{stem}.{band}.1.weight"]) for band in range(3)]
    table = np.concatenate([words @ projection.T for words, projection in embeddings])
    half = DIM // 2
    angles = (np.arange(len(history)) + 2)[:, None] * np.exp(-math.log(10000) / (half - 1) * np.arange(half))
    x = table[history] * math.sqrt(DIM) + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    for layer in range(LAYERS):
        stem = f"decoder.layers.{layer}"
        y = norm(x, f"{stem}.self_attn_layer_norm")
        q, k, v = (linear(y, f"{stem}.self_attn.{name}_proj").reshape(-1, HEADS, DIM // HEADS) for name in "qkv")
        mixed = np.zeros_like(q)
        for place in range(len(history)):
            for head in range(HEADS):
                weights = softmax(k[: place + 1, head] @ q[place, head] / math.sqrt(DIM // HEADS))
                mixed[place, head] = weights @ v[: place + 1, head]
        x = x + linear(mixed.reshape(-1, DIM), f"{stem}.self_attn.out_proj")
        y = norm(x, f"{stem}.final_layer_norm")
        x = x + linear(np.maximum(linear(y, f"{stem}.fc1"), 0), f"{stem}.fc2")
    if "decoder.layer_norm.weight" in s:
        x = norm(x, "decoder.layer_norm")
    last = x[-1]
    classes = s["decoder.adaptive_softmax.head.class_proj.weight"]
    head = softmax(np.concatenate([embeddings[0][0] @ last, classes @ last]))
    parts = [head[:10]]
    for band in (1, 2):
        words, projection = embeddings[band]
        parts.append(head[9 + band] * softmax(words @ (projection.T @ last)))
    return np.log(np.concatenate(parts))


def write(folder: Path, state: dict[str, Tensor], args: dict[str, Any], generation: int = 1) -> Path:
    """Write a checkpoint of the first or the third generation, and its dictionary."""
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in WORDS))
    content: dict[str, Any] = {"model": state, "optimizer_history": [{"num_updates": 9}]}
    if generation == 1:
        content["args"] = argparse.Namespace(**args)
    else:
        task_names = ("data", "sample_break_mode", "tokens_per_sample", "max_target_positions", "add_bos_token")
        task = {"_name": "language_modeling", **{name: args[name] for name in task_names}}
        model = {name: value for name, value in args.items() if name not in ("arch", "task", "criterion", "data")}
        content |= {"args": None, "cfg": {"model": {"_name": args["arch"], **model}, "task": task, "criterion": None}}
    torch.save(content, folder / "lm.pt")
    return folder / "lm.pt"


def check(model: LanguageModel, state: dict[str, Tensor]) -> None:
    """Compare all next words after some histories, in both ways of scoring."""
    for history in ([], ["w3", "w30"], ["w12", "w12", "w0", "w35", "w7"]):
        numbers = [Dictionary.eos, *map(model.index, history)]
        states = np.array([model.start()])
        for word in numbers[1:]:
            states = model.score(states, np.array([word]))[1]
        found = model.score(np.repeat(states, NUM_WORDS), np.arange(NUM_WORDS))[0]
        np.testing.assert_allclose(found, plain_log_probs(state, numbers), rtol=1e-4, atol=1e-4)
        total = sum(
            plain_log_probs(state, numbers[: place + 1])[word]
            for place, word in enumerate([*numbers[1:], Dictionary.eos])
        )
        assert model.sentence_scores([history])[0] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("generation", [1, 3])
@pytest.mark.parametrize("final_norm", [False, True])
def test_adaptive_word_model(tmp_path: Path, generation: int, final_norm: bool) -> None:
    """The layout of the published word models: adaptive inputs and softmax, everything tied."""
    state = adaptive_state(final_norm)
    path = write(tmp_path, state, {**ARGS, "no_decoder_final_norm": not final_norm}, generation)
    check(load_language_model(path, unknown=None), state)
    loaded = load_model(path)
    # Shared tensors exist once.
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == sum(
        tensor.numel()
        for name, tensor in state.items()
        if not name.endswith(("version", "_float_tensor")) and "softmax.tail" not in name and "word_proj" not in name
    )


def test_a_file_of_2018(tmp_path: Path) -> None:
    """One tensor for queries, keys and values; numbered norms; other names of options."""
    state, old = adaptive_state(), {}
    for name, tensor in state.items():
        if ".q_proj." in name:
            stem, _, kind = name.rpartition(".q_proj.")
            old[f"{stem}.in_proj_{kind}"] = torch.cat([state[f"{stem}.{which}_proj.{kind}"] for which in "qkv"])
        elif ".k_proj." not in name and ".v_proj." not in name and name != "decoder.version":
            name = name.replace("self_attn_layer_norm", "layer_norms.0").replace("final_layer_norm", "layer_norms.1")
            old[name] = tensor
    args = {name: value for name, value in ARGS.items() if name not in ("no_decoder_final_norm", "tie_adaptive_proj")}
    args |= {"no_tie_adaptive_proj": False, "arch": "transformer_lm_of_mine"}
    path = write(tmp_path, old, args)
    check(load_language_model(path, unknown=None), state)
    assert any("transformer_lm_of_mine" in note for note in read_model_file(path).notes)


def test_what_is_refused(tmp_path: Path) -> None:
    state = adaptive_state()
    state["decoder.adaptive_softmax.tail.1.2.weight"] = state["decoder.adaptive_softmax.tail.1.2.weight"] + 1
    with pytest.raises(CheckpointError, match=r"tail\.1\.2\.weight and .*\.2\.0\.weight should be one tensor"):
        load_model(write(tmp_path, state, ARGS))
    state = {name: tensor for name, tensor in adaptive_state().items() if name != "decoder.adaptive_softmax.version"}
    with pytest.raises(CheckpointError, match=r"its adaptive softmax is of the first version"):
        load_model(write(tmp_path, state, ARGS))
    with pytest.raises(CheckpointError, match=r"trained with character_embeddings = 'True'"):
        load_model(write(tmp_path, adaptive_state(), {**ARGS, "character_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"decoder_layers = 1000000 does not fit"):
        load_model(write(tmp_path, adaptive_state(), {**ARGS, "decoder_layers": 10**6}))


def test_what_the_programs_say(tmp_path: Path) -> None:
    """It can be looked at and rewritten as ours; it is no model of speech, and nothing else can be written."""
    path = write(tmp_path, adaptive_state(), ARGS)
    shown = call(convert.main, ["--inspect", path])
    assert shown.code == 0
    assert "text: words" in shown.out
    own = call(convert.main, [path, tmp_path / "own.pt", "--to", "w2v"])
    assert own.code == 0, own.err
    check(load_language_model(tmp_path / "own.pt", unknown=None), adaptive_state())
    for form in ("fairseq", "huggingface", "onnx"):
        refused = call(convert.main, [path, tmp_path / form, "--to", form])
        assert refused.code == 2
        assert f"--to {form}: " in refused.err
    refused = call(infer.main, [tmp_path, "--path", path])
    assert refused.code == 2
    assert "is a language model; name it with --lm-model" in refused.err

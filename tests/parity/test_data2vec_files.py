"""data2vec-audio in the original's layout: features, CTC and fine-tuning, against transformers with the same weights.

The layout is that of the original's later releases: `cfg` of plain dicts, `final_proj` and the teacher's `_ema` beside
the encoder in a pretrained file, the pretrained file's `cfg` as `w2v_args` in a fine-tuned one.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.convert import read_model_file
from w2v.convert.huggingface_folder import read_huggingface, write_huggingface
from w2v.convert.symbols import LETTERS
from w2v.inference.load import load_model
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": [16] * 3,
    "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
    "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7, "pad_token_id": 0,
}  # fmt: skip
# What a pretrained file of the original says of its model, sizes apart, with the options that data2vec alone has.
OPTIONS: dict[str, Any] = {
    "_name": "data2vec_audio", "extractor_mode": "layer_norm", "encoder_layers": 2, "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4, "activation_fn": "gelu", "layer_type": "transformer",
    "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
    "dropout_input": 0.0, "dropout_features": 0.0, "final_dim": 0, "layer_norm_first": False,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] + [(16, 2, 2)]", "conv_bias": False, "feature_grad_mult": 1.0,
    "mask_length": 10, "mask_prob": 0.65, "mask_selection": "static", "mask_other": 0.0, "no_mask_overlap": False,
    "mask_min_space": 1, "mask_channel_length": 10, "mask_channel_prob": 0.0, "mask_channel_before": False,
    "conv_pos": 35, "conv_pos_groups": 4, "pos_conv_depth": 5, "checkpoint_activations": False, "loss_beta": 0.0,
    "loss_scale": None, "average_top_k_layers": 8, "layer_norm_target_layer": False, "instance_norm_target_layer": True,
    "ema_decay": 0.999, "ema_end_decay": 0.9999, "ema_anneal_end_step": 30000, "ema_transformer_only": True,
    "ema_layers_only": True, "max_update": 400000, "min_target_var": 0.1, "min_pred_var": 0.01,
}  # fmt: skip
TASK = {"_name": "audio_pretraining", "data": "/data", "sample_rate": 16000, "normalize": True, "labels": None}


def theirs(head: str) -> Any:
    torch.manual_seed(3)
    model = getattr(transformers, f"Data2VecAudio{head}")(transformers.Data2VecAudioConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return model


def fairseq_file(path: Path, model: Any, folder: Path) -> Path:
    """Write the weights of a transformers model as the original would have written them."""
    model.save_pretrained(folder)
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in LETTERS[4:]))
    state: dict[str, Any] = dict(read_huggingface(folder, str(folder / "dict.ltr.txt")).state)
    pretraining = {"common": {"seed": 1}, "task": TASK, "model": OPTIONS, "criterion": {"_name": "model"}}
    cfg: dict[str, Any] = pretraining
    if "w2v_encoder.proj.weight" in state:
        options = {"_name": "wav2vec_ctc", "w2v_path": "/gone.pt", "apply_mask": True, "w2v_args": pretraining}
        cfg = {
            "task": {**TASK, "_name": "audio_finetuning", "labels": "ltr"},
            "model": {**options, "normalize": True, "data": "/data"},
            "criterion": {"_name": "ctc", "zero_infinity": True, "post_process": "letter"},
        }
    else:  # what predicts the teacher's layers, and the teacher
        state |= {"final_proj.weight": torch.randn(32, 32), "final_proj.bias": torch.randn(32)}
        state["_ema"] = {name: tensor for name, tensor in state.items() if name.startswith("encoder.layers")}
    torch.save({"args": None, "cfg": cfg, "model": state, "optimizer_history": [], "extra_state": {}}, path)
    return path


@torch.no_grad()
def test_features_of_a_pretrained_file(tmp_path: Path) -> None:
    model, source = theirs("Model"), torch.randn(2, 3000)
    path = fairseq_file(tmp_path / "base.pt", model, tmp_path / "theirs")
    loaded = load_model(path)
    assert loaded.task.config.normalize
    expected = model(source, output_hidden_states=True)
    found = loaded.model.extract_features(source, with_layers=True)
    torch.testing.assert_close(found.features, expected.last_hidden_state, atol=1e-4, rtol=0)
    for ours, other in zip(found.layers, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=0)
    file = read_model_file(path)
    assert any("averaged copy" in note for note in file.notes)
    write_huggingface(tmp_path / "ours", file)
    back = transformers.Data2VecAudioModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(back(source).last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=0)


@torch.no_grad()
def test_letters_of_a_fine_tuned_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, source = theirs("ForCTC"), torch.randn(2, 3000)
    path = fairseq_file(tmp_path / "ctc.pt", model, tmp_path / "theirs")
    with caplog.at_level(logging.INFO):
        loaded = load_model(path, dictionary=str(tmp_path / "theirs/dict.ltr.txt"))
    torch.testing.assert_close(loaded.model(source).logits, model(source).logits, atol=1e-4, rtol=0)
    assert loaded.task.dictionary.symbols == LETTERS
    write_huggingface(tmp_path / "ours", read_model_file(path, dictionary=str(tmp_path / "theirs/dict.ltr.txt")))
    back = transformers.Data2VecAudioForCTC.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(back(source).logits, model(source).logits, atol=1e-4, rtol=0)


def test_fine_tuning_from_a_pretrained_file(tmp_path: Path) -> None:
    """`--w2v-path` takes the encoder; nothing of it is left at its initialisation, and its gradients reach it."""
    path = fairseq_file(tmp_path / "base.pt", theirs("Model"), tmp_path / "theirs")
    task = AudioPretrainingTask(AudioPretrainingConfig(data=".", labels="ltr", normalize=True))
    file, options = task._read_pretrained(str(path))
    model = Wav2VecCtc.build(
        Wav2VecCtcConfig(apply_mask=False, layerdrop=0.0), num_classes=32, pretrained_config=options,
        pretrained_state=file.state,
    )  # fmt: skip
    encoder = model.w2v_encoder.w2v_model.state_dict()
    assert set(encoder) == set(file.state)
    assert all(torch.equal(tensor, file.state[name]) for name, tensor in encoder.items())
    model.train()
    model(torch.randn(2, 3000), None, 1).logits.sum().backward()
    assert encoder["encoder.pos_conv.0.0.weight"].shape == (32, 8, 7)
    assert model.w2v_encoder.w2v_model.encoder.pos_conv[0][0].weight.grad is not None

"""`docs/tokens.md`: its commands run one after the other, small, and its Python says what it should."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_speech import call, prepare

from w2v.checkpoint.file import load_checkpoint
from w2v.inference.emissions import ctc_info
from w2v.inference.load import load_model

pytest.importorskip("soundfile")

TEXT = (Path(__file__).resolve().parents[2] / "docs/tokens.md").read_text(encoding="utf-8")
TRAIN = ["--cpu", "--no-bf16", "--num-workers", "0", "--log-interval", "1", "--no-epoch-checkpoints"]
SMALL: dict[str, list[str]] = {
    "vq": [
        *("--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 2), (16, 4, 2), (16, 4, 2)]"),
        *("--conv-aggregator-layers", "[(16, 2, 1), (16, 3, 1)]", "--vq-vars", "8", "--batch-audio", "4s"),
        *("--max-update", "2", "--max-tokens", "64000", "--max-sample-size", "16000", "--warmup-updates", "1"),
    ],
    "bert": [
        *("--encoder-layers", "2", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64"),
        *("--encoder-attention-heads", "4", "--max-update", "2", "--update-freq", "1", "--max-tokens", "2000"),
        *("--warmup-updates", "1", "--max-positions", "120"),
    ],
    "ctc": ["--max-update", "2", "--max-tokens", "64000"],
}


def test_commands_and_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    labelled = prepare(tmp_path / "toy", 14, num_words=(3, 5), valid_percent=0.3)
    monkeypatch.chdir(tmp_path)
    shutil.copytree("toy/audio", "speech")
    shutil.move(labelled, "labelled")
    shutil.copy(sorted(Path("speech").glob("*/*.wav"))[0], "speech/talk.wav")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", TEXT, re.DOTALL)
    # Commands come first, so that what the Python between them opens is there.
    for command in (line for kind, block in blocks if kind == "sh" for line in block.splitlines()):
        program, *words = shlex.split(command)
        words += SMALL.get(words[words.index("--save-dir") + 1], []) + TRAIN if program == "w2v-train" else []
        words += ["--cpu"] if program in ("w2v-tokenize", "w2v-featurize", "w2v-infer") else []
        outcome = call(import_module(f"w2v_cli.{program.removeprefix('w2v-')}").main, words)
        assert outcome.code == 0, f"{command}: {outcome.err}"
    names: dict[str, Any] = {}
    for example in (block for kind, block in blocks if kind == "python"):
        exec(compile(example, "docs/tokens.md", "exec"), names)
    check(names)


def check(names: dict[str, Any]) -> None:
    line = Path("tokens/train.src").read_text().splitlines() + Path("tokens/valid.src").read_text().splitlines()
    assert " ".join(names["codes"]) in line
    assert names["frames"].shape == names["first"].shape == (len(names["codes"]), 32)
    assert len(names["codes"]) > 118  # more than the table holds, so these were windows
    assert np.abs(names["frames"] - names["first"]).max() > 0.01
    written = np.load("features/talk.npy")
    np.testing.assert_allclose(written, names["frames"], rtol=1e-4, atol=1e-5)
    assert len(names["guessed"]) == 5
    assert load_model("bert-hf").task.dictionary.symbols == names["dictionary"].symbols  # type: ignore[attr-defined]
    state = load_checkpoint(Path("ctc/checkpoint_last.pt"))
    before = load_model("bert/checkpoint_best.pt").model.state_dict()
    assert {name.split(".")[0] for name in state["model"]} == {"reader", "w2v_encoder"}
    key = "sentence_encoder.layers.0.fc1.weight"
    moved = (state["model"][f"w2v_encoder.{key}"] - before[f"encoder.{key}"]).abs().max()
    assert 0 < float(moved) < 0.1
    # Times of words count codes: 10 ms each.
    assert ctc_info(load_model("ctc/checkpoint_last.pt")).stride == 160
    hypotheses = next(Path("results").glob("hypo.word*")).read_text().splitlines()
    assert len(hypotheses) == len(Path("labelled/valid.tsv").read_text().splitlines()) - 1


def test_h5_features_of_batches_are_those_of_single_clips(tmp_path: Path) -> None:
    """Also: layers by number, without `<s>` and `</s>`, and what does not fit."""
    h5py: Any = pytest.importorskip("h5py")
    import soundfile
    import torch
    from every_model import make

    from w2v.checkpoint.file import save_checkpoint
    from w2v.config import to_plain
    from w2v.models.token_features import read_tokens, token_table
    from w2v_cli import featurize

    quantizer: Any = make(
        "vq_kmeans", conv_feature_layers="[(16, 10, 5), (16, 8, 4), (16, 4, 2), (16, 4, 2), (16, 4, 2)]"
    )
    task = {"_name": "audio_pretraining", "data": "."}
    config = {"model": {**to_plain(quantizer.config), "_name": "wav2vec"}, "task": task}
    common = {"w2v_version": "0", "trainer": {}}
    save_checkpoint(tmp_path / "vq.pt", {**common, "config": config, "model": quantizer.state_dict(), "task": {}})
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *(f"{a}-{b}" for a in range(6) for b in range(5)), "<mask>"]
    bert = roberta(len(symbols))
    config = {"model": {**to_plain(bert.config), "_name": "roberta"}, "task": {"_name": "masked_lm", "data": "."}}
    content = {**common, "config": config, "model": bert.state_dict(), "task": {"dictionary": symbols}}
    save_checkpoint(tmp_path / "bert.pt", content)
    (tmp_path / "clips").mkdir()
    rng = np.random.default_rng(1)
    for name, size in (("a", 9000), ("b", 5000), ("c", 12345)):
        soundfile.write(tmp_path / f"clips/{name}.wav", 0.3 * rng.normal(size=size), 16000, subtype="FLOAT")

    def features(output: str, *more: Any) -> dict[str, Any]:
        words = ["-i", tmp_path / "clips", "-o", tmp_path / output, "--model", tmp_path / "vq.pt", "--cpu", *more]
        outcome = call(featurize.main, [*words, "--bert", tmp_path / "bert.pt", "--format", "h5"])
        assert outcome.code == 0, outcome.err
        found = {}
        for path in (tmp_path / output).glob("*.h5context"):
            with h5py.File(path) as file:
                rate, frames, width = np.asarray(file["info"]).tolist()
                assert rate == 100
                found[path.stem] = np.asarray(file["features"]).reshape(int(frames), int(width))
        return found

    for layer in ("0", "1", "2", "c"):
        single = features(f"single{layer}", "--layer", layer, "--max-tokens", 0)
        together = features(f"batch{layer}", "--layer", layer, "--max-tokens", 100_000)
        for name in ("a", "b", "c"):
            np.testing.assert_allclose(single[name], together[name], rtol=1e-5, atol=1e-5)
            # By hand: codes, ids, the model.
            source = torch.from_numpy(soundfile.read(tmp_path / f"clips/{name}.wav", dtype="float32")[0])[None]
            with torch.no_grad():
                codes = quantizer.extract_codes(source)[0]
                lines = [f"{a}-{b}" for a, b in codes[0].tolist()]
                ids = [symbols.index(code) if code in symbols else 3 for code in lines]
                assert token_table(symbols, (2, 6))[codes[0, :, 0] * 6 + codes[0, :, 1]].tolist() == ids
                states = bert.encode(torch.tensor([[0, *ids, 2]]), torch.tensor([len(ids) + 2]), with_layers=True)
            wanted = states[0] if layer == "c" else states[1][int(layer)]
            np.testing.assert_allclose(single[name], wanted[0, 1:-1].numpy(), rtol=1e-5, atol=1e-5)
    bare = features("bare", "--bert-no-bos")
    with torch.no_grad():
        wanted = read_tokens(
            bert.encoder.sentence_encoder, torch.tensor([ids]), torch.tensor([len(ids)]), with_ends=False
        )
    np.testing.assert_allclose(bare["c"], wanted[-1][0].numpy(), rtol=1e-5, atol=1e-5)
    words = ["-i", tmp_path / "clips", "-o", tmp_path / "x", "--cpu"]
    for more, message in (
        (["--model", tmp_path / "bert.pt", "--bert", tmp_path / "bert.pt"], "the model has no quantizer"),
        (["--model", tmp_path / "vq.pt", "--bert", tmp_path / "vq.pt"], "must be a masked language model"),
        (["--model", tmp_path / "vq.pt", "--bert", tmp_path / "bert.pt", "--layer", "z"], "a number from 0 to 2"),
        (["--model", tmp_path / "vq.pt", "--bert-no-bos"], "--bert-no-bos needs --bert"),
    ):
        outcome = call(featurize.main, [*words, *more])
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err


def roberta(num_words: int) -> Any:
    import torch

    from w2v.config import build_config
    from w2v.models.roberta import RobertaConfig, RobertaModel

    torch.manual_seed(3)
    sizes = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4}
    config = build_config(RobertaConfig, {**sizes, "max_positions": 200}, "test")
    return RobertaModel.build(config, num_words=num_words, pad=1, max_positions=200).eval()

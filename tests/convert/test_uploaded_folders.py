"""Folders as people upload them, against transformers: audio settings, vocabularies, what is missing or no model."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from w2v.convert import read_model_file
from w2v.convert.huggingface_folder import write_huggingface
from w2v.convert.locate import fingerprint, locate
from w2v.convert.symbols import find_symbols
from w2v.data.audio import normalize
from w2v.data.dictionary import Dictionary, write_dictionary
from w2v.data.post_process import post_process
from w2v.errors import CheckpointError, ConfigError, DataError
from w2v.inference.load import build_model, load_model
from w2v.lm.ngram_model import open_ngram_model
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

transformers = pytest.importorskip("transformers")

LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
STANDARD = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {c: i + 4 for i, c in enumerate(LETTERS)}
STANDARD_TOKENS = dict(
    unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", word_delimiter_token="|"
)
BRACKETS = {**STANDARD_TOKENS, "unk_token": "[UNK]", "pad_token": "[PAD]"}
LOWER = {c: i for i, c in enumerate(LETTERS.lower())}
N = len(LOWER)
EXTRACTOR = dict(
    feature_extractor_type="Wav2Vec2FeatureExtractor", feature_size=1, sampling_rate=16000, padding_value=0.0,
    do_normalize=True, return_attention_mask=True,
)  # fmt: skip


def config_of(**options: Any) -> Any:
    small = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, do_stable_layer_norm=True, conv_bias=True,
        feat_extract_norm="layer", vocab_size=32, pad_token_id=0,
    )  # fmt: skip
    return transformers.Wav2Vec2Config(**{**small, **options})


def save(folder: Path, name: str = "Wav2Vec2ForCTC", **options: Any) -> Path:
    torch.manual_seed(1)
    getattr(transformers, name)(config_of(**options)).save_pretrained(folder)
    return folder


def dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def ctc(folder: Path, vocabulary: dict[str, int], tokens: dict[str, Any], size: int | None = None, **more: Any) -> Path:
    save(folder, vocab_size=size or max(vocabulary.values()) + 1, **more)
    dump(folder / "vocab.json", vocabulary)
    dump(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", **tokens})
    dump(folder / "preprocessor_config.json", EXTRACTOR)
    return folder


# ---------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize(
    ("processor", "older", "normalized", "rate"),
    [
        (dict(do_normalize=False), None, False, 16000),
        (dict(sampling_rate=8000), None, True, 8000),
        (dict(do_normalize=False), dict(do_normalize=True), False, 16000),
        (None, dict(sampling_rate=8000, do_normalize=False), False, 8000),
        (None, None, True, 16000),
    ],
)
@pytest.mark.parametrize("below", [False, True])
def test_settings_of_the_audio(
    processor: dict[str, Any] | None, older: dict[str, Any] | None, normalized: bool, rate: int, below: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = save(tmp_path / "checkpoint-500" if below else tmp_path)
    if processor is not None:
        dump(
            tmp_path / "processor_config.json", dict(feature_extractor={**EXTRACTOR, **processor}, processor_class="P")
        )
    if older is not None:
        dump(tmp_path / "preprocessor_config.json", {**EXTRACTOR, **older})
    file = read_model_file(folder)
    task = file.config["task"]
    assert (file.normalize, task["sample_rate"], task["normalize_epsilon"]) == (normalized, rate, 1e-7)
    assert any("is assumed" in note for note in file.notes) == (processor is None and older is None)


def test_another_feature_extractor_is_refused(tmp_path: Path) -> None:
    dump(save(tmp_path) / "preprocessor_config.json", dict(feature_extractor_type="WhisperFeatureExtractor"))
    with pytest.raises(CheckpointError, match="WhisperFeatureExtractor; only Wav2Vec2FeatureExtractor"):
        read_model_file(tmp_path)


@pytest.mark.parametrize("loudness", [1e-1, 4e-3, 1e-4])
def test_quiet_clips_enter_as_loud_as_there(loudness: float) -> None:
    clip = (loudness * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    theirs = transformers.Wav2Vec2FeatureExtractor(**EXTRACTOR)(clip, sampling_rate=16000, return_tensors="np")
    np.testing.assert_allclose(normalize(clip, 1e-7), theirs.input_values[0], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- vocabularies

# name -> vocabulary, outputs, tokenizer, blank, and what our names stand for where they differ from theirs
VARIANTS: dict[str, tuple[dict[str, int], int, dict[str, Any], int, dict[str, str]]] = {
    "standard": (STANDARD, 32, STANDARD_TOKENS, 0, {}),
    "hole": (LOWER | {"[UNK]": N + 1, "[PAD]": N + 2}, N + 3, BRACKETS, N + 2, {"<unk>": "[UNK]"}),
    "more outputs": (LOWER | {"[UNK]": N, "[PAD]": N + 1}, N + 9, BRACKETS, N + 1, {"<unk>": "[UNK]"}),
    "no-break space": (
        LOWER | {"\xa0": N, "[UNK]": N + 1, "[PAD]": N + 2}, N + 3, BRACKETS, N + 2,
        {"<U+00A0>": "\xa0", "<unk>": "[UNK]"},
    ),
    "two pads": (
        STANDARD | {"[UNK]": 32, "[PAD]": 33}, 34, BRACKETS, 33,
        {"<pad:0>": "<pad>", "<unk:3>": "<unk>", "<unk>": "[UNK]"},
    ),
    "bos renamed": (
        STANDARD | {"[BOS]": 32}, 33, STANDARD_TOKENS | dict(bos_token="[BOS]"), 0, {"<s:1>": "<s>", "<pad>": "[BOS]"},
    ),
    "lower case": (STANDARD, 32, STANDARD_TOKENS | dict(do_lower_case=True), 0, {}),
    "hyphens between words": (STANDARD, 32, STANDARD_TOKENS | dict(replace_word_delimiter_char="-"), 0, {}),
    "no delimiter": (
        {c: i for i, c in enumerate("\u4eca\u5929\u6c14\u5f88\u597d")} | {"[UNK]": 5, "[PAD]": 6}, 7, BRACKETS, 6,
        {"<unk>": "[UNK]"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_texts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    vocabulary, size, tokens, blank, renamed = VARIANTS[name]
    file = read_model_file(ctc(tmp_path, vocabulary, tokens, size, pad_token_id=blank))
    symbols = list(file.symbols or ())
    assert len(Dictionary.from_symbols(symbols)) == len(symbols)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    row_of = their_rows(tmp_path, file)
    rng, tokens_of = np.random.default_rng(0), set(tokens.values())
    said = [i for i, symbol in enumerate(symbols) if symbol not in ("<s>", "</s>")]
    inner = {token: number for token, number in vocabulary.items() if token in tokens_of}
    for _ in range(30):
        ids = rng.choice(said, 12).tolist()
        ids = [i for i in ids if row_of[i] is not None and row_of[i] != inner.get(tokens["bos_token"])]
        ours = post_process(" ".join(symbols[i] for i in ids), file.config["criterion"].get("post_process", "letter"))
        if renamed:
            ours = re.sub("|".join(map(re.escape, renamed)), lambda found: renamed[found[0]], ours)
        expected = theirs.decode([row_of[i] for i in ids], group_tokens=False)
        # Newer versions call the first outputs after the vocabulary <s> and </s>. How texts end does not matter.
        if size > max(vocabulary.values()) + 1:
            expected = re.sub("</?s>", "[UNK]", expected)
        assert ours.strip().strip("-").lower() == expected.strip().strip("-").lower()


def their_rows(folder: Path, file: Any) -> list[int | None]:
    """Return the row of their output layer that each of our rows is."""
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(folder).lm_head.weight.detach()
    ours = file.state["w2v_encoder.proj.weight"]
    found = [torch.nonzero((theirs == row).all(dim=1))[:, 0].tolist() for row in ours]
    return [rows[0] if rows else None for rows in found]


def test_a_space_that_was_kept_is_the_word_mark(tmp_path: Path) -> None:
    vocabulary = {(" " if c == "|" else c): i for c, i in LOWER.items()} | {"[UNK]": N, "[PAD]": N + 1}
    file = read_model_file(ctc(tmp_path, vocabulary, BRACKETS, pad_token_id=N + 1))
    assert "|" in (file.symbols or ())
    assert file.config["criterion"]["post_process"] == "letter"


def test_another_word_delimiter_beside_a_bar(tmp_path: Path) -> None:
    vocabulary = {("/" if c == "|" else c): i for c, i in LOWER.items()} | {"|": N, "[UNK]": N + 1, "[PAD]": N + 2}
    file = read_model_file(ctc(tmp_path, vocabulary, BRACKETS | dict(word_delimiter_token="/"), pad_token_id=N + 2))
    symbols = list(file.symbols or ())
    assert (symbols[4], symbols[-1]) == ("|", "<U+007C>")
    rows = their_rows(tmp_path, file)
    assert (rows[4], rows[len(symbols) - 1]) == (vocabulary["/"], vocabulary["|"])


PHONES = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "n": 4, "a\u026a": 5, "s": 6}
PHONE_TOKENS = dict(
    STANDARD_TOKENS, tokenizer_class="Wav2Vec2PhonemeCTCTokenizer", word_delimiter_token=None,
    phone_delimiter_token=" ", do_phonemize=False,
)  # fmt: skip


def test_the_kind_of_the_tokenizer_travels(tmp_path: Path) -> None:
    file = read_model_file(ctc(tmp_path / "a", PHONES, PHONE_TOKENS))
    assert file.config["criterion"]["post_process"] == "none"
    write_huggingface(tmp_path / "b", file)
    assert (
        json.loads((tmp_path / "b/tokenizer_config.json").read_text())["tokenizer_class"]
        == PHONE_TOKENS["tokenizer_class"]
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "b").decode([4, 5, 6]) == "n a\u026a s"
    assert read_model_file(tmp_path / "b").config["criterion"]["post_process"] == "none"
    assert read_model_file(tmp_path / "b").symbols == file.symbols


# ---------------------------------------------------------------------------------------------- where labels are


def test_labels_of_a_trainers_checkpoint(tmp_path: Path) -> None:
    folder = ctc(tmp_path / "run", STANDARD, STANDARD_TOKENS)
    below = save(folder / "checkpoint-7")
    assert read_model_file(below).symbols_from == str(folder / "vocab.json")
    moved = shutil.copytree(below, tmp_path / "alone" / "checkpoint-7")
    assert "standard letter" in read_model_file(moved).symbols_from
    shutil.rmtree(moved)
    save(moved, pad_token_id=31)
    dump(folder / "vocab.json", {token: 31 - number for token, number in STANDARD.items()})
    with pytest.raises(CheckpointError, match=r"its blank is another symbol.*--dict \(dict.ltr.txt, or vocab.json\)"):
        read_model_file(moved)
    assert read_model_file(moved, dictionary=str(folder / "vocab.json")).symbols[4:] == list(LETTERS[::-1])


def test_the_folder_of_the_data_comes_first(tmp_path: Path) -> None:
    places = [tmp_path / "data", tmp_path / "above" / "model", tmp_path / "above"]
    for number, place in enumerate(places):
        place.mkdir(parents=True, exist_ok=True)
        write_dictionary(
            place / "dict.ltr.txt", {letter: 50 - i for i, letter in enumerate(LETTERS[number:] + LETTERS[:number])}
        )
    checkpoint = places[1] / "checkpoint_best.pt"
    for number, place in enumerate(places):
        symbols, source = find_symbols(checkpoint, 32, given=None, inside=None, data=str(places[0]))
        assert (symbols[4], source) == (LETTERS[number], str(place / "dict.ltr.txt"))
        (place / "dict.ltr.txt").unlink()
    write_dictionary(places[0] / "dict.ltr.txt", {"A": 1})
    with pytest.raises(CheckpointError, match=r"dict.ltr.txt holds 5\)"):
        find_symbols(checkpoint, 32, given=None, inside=None, data=str(places[0]))


# ---------------------------------------------------------------------------------------------- messages

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 377000000\n"


@pytest.mark.parametrize("name", ["m/model.safetensors", "model.pt", "m/config.json", "one.safetensors"])
def test_pointers_are_told_from_damage(name: str, tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer .*git lfs pull"):
        read_model_file(tmp_path / "m" if name.startswith("m/") else tmp_path / name)
    (tmp_path / "lm.arpa").write_text(POINTER)
    with pytest.raises(DataError, match="Git LFS pointer"):
        open_ngram_model(str(tmp_path / "lm.arpa"))
    with pytest.raises(DataError, match="Git LFS pointer"):
        Dictionary.from_file(tmp_path / "lm.arpa")


def test_adapters_say_what_they_are(tmp_path: Path) -> None:
    dump(tmp_path / "adapter_config.json", dict(peft_type="LORA", base_model_name_or_path="some/base"))
    with pytest.raises(CheckpointError, match=r"LoRA adapter of some/base .*merge_and_unload"):
        read_model_file(tmp_path)


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ctc(tmp_path_factory.mktemp("uploaded") / "m", STANDARD, STANDARD_TOKENS)


def edited(folder: Path, file: str, **changes: Any) -> None:
    dump(folder / file, {**json.loads((folder / file).read_text()), **changes})


def replaced(folder: Path, *names: str) -> None:
    """Put other files in the place of the weights."""
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(64))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tf_model.h5"], "TensorFlow: .*from_tf=True"),
        (["flax_model.msgpack"], "Flax: .*from_flax=True"),
        (["model.gguf"], "a GGUF model: take the model that it was made from"),
        (["onnx/model.onnx"], "onnx/model.onnx holds an ONNX graph"),
        (["openvino_model.xml"], "OpenVINO"),
        (["model-00001-of-00002.safetensors"], r"shards without the index .*index.json"),
        (["adapter_model.safetensors"], "holds neither model.safetensors nor pytorch_model.bin$"),
    ],
)
def test_other_weights_are_named(names: list[str], said: str, uploaded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uploaded, tmp_path / "m")
    replaced(folder, *names)
    with pytest.raises(CheckpointError, match=said):
        read_model_file(folder)
    dump(folder / "adapter_config.json", dict(peft_type="LORA", base_model_name_or_path="some/base"))
    with pytest.raises(CheckpointError, match="LoRA adapter of some/base"):  # beside a config.json, too
        read_model_file(folder)


def test_a_folder_without_a_configuration(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder without config.json$"):
        read_model_file(tmp_path)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"; name a checkpoint in it: checkpoint_best.pt, checkpoint_last"):
        read_model_file(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_quantised_weights_are_not_taken_as_they_are(dtype: torch.dtype, uploaded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uploaded, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if "feed_forward" in name)
    save_file({**state, name: state[name].to(dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"its weights are quantised \((u?int|float)\d+.*dequantize"):
        read_model_file(folder)
    edited(folder, "config.json", quantization_config=dict(quant_method="bitsandbytes"))
    with pytest.raises(CheckpointError, match=r"quantised \(bitsandbytes"):
        read_model_file(folder)
    # What holds no such word: a file of another kind.
    plain = read_model_file(uploaded)
    broken = {**plain.state, "w2v_encoder.proj.weight": plain.state["w2v_encoder.proj.weight"].to(torch.int8)}
    with pytest.raises(CheckpointError, match=r"proj.weight has whole numbers \(int8\) in place of weights"):
        build_model(dataclasses.replace(plain, state=broken))


@pytest.mark.parametrize(
    "part", ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"]
)
def test_a_part_of_a_folder_names_it(part: str, uploaded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uploaded, tmp_path / "m")
    if part not in ("model.safetensors", "config.json"):
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        places = {key: names[number % 2] for number, key in enumerate(state)}
        for name in names:
            save_file({key: state[key] for key, place in places.items() if place == name}, folder / name)
        dump(folder / "model.safetensors.index.json", dict(metadata={}, weight_map=places))
    file, whole = read_model_file(folder / part), read_model_file(uploaded)
    assert file.symbols == whole.symbols
    assert all(torch.equal(tensor, whole.state[name]) for name, tensor in file.state.items())
    assert fingerprint(folder / part) == fingerprint(folder)


def test_a_fast_tokenizer_has_its_symbols_in_another_file(uploaded: Path, tmp_path: Path) -> None:
    """Not the standard letters, whose number fits: the order is another one."""
    folder = shutil.copytree(uploaded, tmp_path / "m")
    (folder / "vocab.json").unlink()
    vocabulary = {token: number if number < 4 else 35 - number for token, number in STANDARD.items()}
    added = [dict(id=0, content="<pad>", special=True)]
    dump(folder / "tokenizer.json", dict(added_tokens=added, model=dict(type="WordLevel", vocab=vocabulary)))
    file = read_model_file(folder)
    assert file.symbols == ["<s>", "<pad>", "</s>", "<unk>", *LETTERS[::-1]]
    dump(folder / "tokenizer.json", dict(model=dict(type="Unigram", vocab=[["a", 0.0]])))
    with pytest.raises(CheckpointError, match="holds no vocabulary of symbols and their numbers; name one with --dict"):
        read_model_file(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(hidden_act="swish"), "m: has hidden_act = 'swish'; known here: gelu"),
        (dict(num_hidden_layers=0), "m: --encoder-layers must be at least 1, got 0"),
        (dict(num_attention_heads=3), "m: --encoder-attention-heads must divide"),
        (dict(do_stable_layer_norm=None), "m: --layer-norm-first needs a value"),
        (dict(architectures=["WhisperForConditionalGeneration"], model_type="whisper"), "holds a Whisper.*by CTC"),
        (dict(architectures=["WavLMForCTC"], model_type="wavlm"), "holds a WavLMForCTC"),
    ],
)
def test_messages_name_the_folder(changes: dict[str, Any], said: str, uploaded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uploaded, tmp_path / "m")
    edited(folder, "config.json", **changes)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)


def test_odd_settings_that_transformers_takes(uploaded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uploaded, tmp_path / "m")
    whole = read_model_file(uploaded)
    edited(folder, "config.json", architectures=[])
    edited(folder, "preprocessor_config.json", feature_extractor_type=None)
    assert read_model_file(folder).symbols == whole.symbols
    dump(folder / "vocab.json", {"eng": STANDARD})  # the only language, which nothing names
    assert read_model_file(folder).symbols == whole.symbols
    dump(folder / "vocab.json", {token: number for token, number in STANDARD.items() if number})
    assert read_model_file(folder).symbols == whole.symbols  # the blank is number 0, which has no name


def test_other_files_are_told_by_how_they_begin(tmp_path: Path) -> None:
    for content, said in (
        (b"<!DOCTYPE html><html>", "a web page"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"GGUF", "a GGUF file"),
        (b"\x1f\x8b\x08", "packed by gzip"), (b"RIFF", "a recording"), (b'{"a": 1}', "JSON"),
    ):  # fmt: skip
        (tmp_path / "x.pt").write_bytes(content.ljust(64, b"0"))
        with pytest.raises(CheckpointError, match=f"it is {said}"):
            read_model_file(tmp_path / "x.pt")
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.add(tmp_path / "x.pt", "x.pt")
    with pytest.raises(CheckpointError, match="a tar archive: unpack it, and name the checkpoint that is in it"):
        read_model_file(tmp_path / "x.tar")
    (tmp_path / "x.onnx").write_text(POINTER)
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        read_model_file(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wav2vec_small_960", "did you mean 'wav2vec_small_960h'"),
        ("wav2vec2-base-960h", "a name on the Hugging Face hub is OWNER/NAME"),
        ("s3://bucket/model.pt", "addresses begin with https://"),
        ("some/where/model.pt", "there is no such checkpoint$"),
    ],
)
def test_what_may_be_meant(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        read_model_file(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://huggingface.co/team/tiny", "team/tiny"),
        ("https://huggingface.co/team/tiny/tree/main", "team/tiny@main"),
        ("https://hf.co/team/tiny/blob/v2/config.json", "team/tiny@v2"),
        (
            "https://huggingface.co/team/tiny/resolve/refs%2Fpr%2F1/pytorch_model.bin?download=true",
            "team/tiny@refs/pr/1",
        ),
        ("hf://team/tiny@v2", "team/tiny@v2"),
        ("team/tiny/", "team/tiny"),
    ],
)
def test_pages_of_the_hub(name: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("w2v.convert.locate._from_hub", lambda text, language: Path(text))
    monkeypatch.chdir(tmp_path)
    assert str(locate(name)) == expected


def test_one_file_on_a_page_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def answer(address: str, timeout: float) -> Any:
        asked.append(address)
        raise OSError("no net")

    monkeypatch.setenv("W2V_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(CheckpointError, match="no net"):
        locate("https://huggingface.co/team/tiny/blob/main/checkpoint_best.pt")
    assert asked == ["https://huggingface.co/team/tiny/resolve/main/checkpoint_best.pt"]


@pytest.mark.parametrize("head", ["SequenceClassification", "AudioFrameClassification", "XVector"])
def test_the_encoder_of_a_classifier(head: str, tmp_path: Path) -> None:
    file = read_model_file(save(tmp_path / "a", f"Wav2Vec2For{head}", num_labels=3, xvector_output_dim=8))
    transformers.Wav2Vec2Model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    expected = read_model_file(tmp_path / "b")
    assert file.name == expected.name == "wav2vec2_encoder"
    assert file.state.keys() == expected.state.keys()
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in file.state.items())
    assert any("without its head" in note for note in file.notes)
    edited(tmp_path / "a", "config.json", architectures=["SomebodysEmotionModel"])  # a class of the uploader's own
    again = read_model_file(tmp_path / "a")
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in again.state.items())
    assert "the encoder of SomebodysEmotionModel, without its head" in again.notes


# ---------------------------------------------------------------------------------------------- any kind


def test_what_fine_tuning_may_start_from(golden: Path) -> None:
    files = golden / "checkpoints" / "g3_cfg"

    def build(name: str) -> Any:
        normalized = read_model_file(files / name).normalize
        config = AudioPretrainingConfig(data=".", labels="ltr", normalize=normalized)
        file, given = AudioPretrainingTask(config)._read_pretrained(str(files / name))
        return Wav2VecCtc.build(
            Wav2VecCtcConfig(), num_classes=32, pretrained_config=given, pretrained_state=file.state
        )

    whole = read_model_file(files / "ctc_base.pt").state
    encoder = build("ctc_base.pt").w2v_encoder.w2v_model.state_dict()
    assert all(torch.equal(tensor, whole[f"w2v_encoder.w2v_model.{name}"]) for name, tensor in encoder.items())
    for name in ("w2v1.pt", "vq_gumbel.pt"):
        with pytest.raises(ConfigError, match=r"--w2v-path: .*wav2vec 2\.0"):
            build(name)


def test_a_fingerprint_is_of_all_that_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    before = fingerprint(folder)
    assert fingerprint(folder / "config.json") == before
    (folder / "README.md").write_text("a model")
    assert fingerprint(folder) == before
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[::-1])
    assert fingerprint(folder) != before
    file = tmp_path / "file.pt"
    file.write_bytes(b"content")
    assert fingerprint(file) == hashlib.blake2b(b"content", digest_size=8).hexdigest()


# ---------------------------------------------------------------------------------------------- hub and addresses


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A server that answers as the hub does, with one model, `team/tiny`, at two revisions."""
    files = {}
    for revision, seed in (("main", 0), ("v2", 31)):
        folder = ctc(tmp_path / "served" / revision, STANDARD, STANDARD_TOKENS, pad_token_id=seed)
        files[revision] = {path.name: path.read_bytes() for path in folder.iterdir()}
    commits = {revision: hashlib.sha1(revision.encode()).hexdigest() for revision in files}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            body, headers, revision = None, {}, ""
            if parts[:4] == ["api", "models", "team", "tiny"]:
                known = [name for name in files if parts[-1] in (name, commits[name])]
                revision = known[0] if known else "main" if len(parts) == 4 else ""
            if parts[:5] == ["api", "models", "team", "tiny", "tree"] and revision:
                tree = [
                    dict(type="file", path=name, size=len(content), oid=hashlib.sha1(content).hexdigest())
                    for name, content in files[revision].items()
                ]
                body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
            elif parts[:4] == ["api", "models", "team", "tiny"] and revision:
                listed = [dict(rfilename=name) for name in files[revision]]
                body = json.dumps(dict(id="team/tiny", sha=commits[revision], siblings=listed)).encode()
                headers = {"Content-Type": "application/json"}
            elif parts[:3] == ["team", "tiny", "resolve"]:
                revision = next((name for name in files if parts[3] in (name, commits[name])), "")
                body = files.get(revision, {}).get(parts[-1])
                headers = {"X-Repo-Commit": commits.get(revision, "")}
            elif parts == ["files", "model.pt"]:
                body = b"no model"
            self.send_response(404 if body is None else 200)
            if body is None and parts[:2] == ["api", "models"]:
                self.send_header("X-Error-Code", "RevisionNotFound" if "tiny" in parts else "RepoNotFound")
            body = body or b""
            for name, value in {
                **headers,
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def inspect(name: str, cache: Path, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `w2v-convert --inspect` with a hub and a cache of its own, which the hub's client reads when imported."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))},
        "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "W2V_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", **more,
    }  # fmt: skip
    command = [sys.executable, "-m", "w2v_cli.convert", "--inspect", name]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.timeout(280)
def test_models_by_their_name_on_the_hub(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    first = inspect("team/tiny", tmp_path / "cache", hub)
    assert first.returncode == 0, first.stderr
    assert "dictionary: 32 symbols" in first.stdout
    other = inspect("team/tiny@v2", tmp_path / "cache", hub)
    assert "put into the order of w2v" in other.stdout
    offline = inspect("team/tiny", tmp_path / "cache", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout, offline.stderr
    for name in ("team/tiny@v9",):
        missing = inspect(name, tmp_path / "cache", hub)
        assert (missing.returncode, missing.stderr.count("\n")) == (2, 1), missing.stderr
    unreached = inspect("team/tiny", tmp_path / "empty", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert (unreached.returncode, unreached.stderr.count("\n")) == (2, 1)
    assert "not in its cache" in unreached.stderr


def test_addresses(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    address = f"{hub}/files/model.pt"
    assert locate(Path(address)).read_bytes() == b"no model"
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        locate(f"{hub}/files/none.pt")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate(address).read_bytes() == b"no model"
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        locate(f"{hub}/files/other.pt")
    assert not list((tmp_path / "cache").glob("*/.*"))


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("checkpoints/best.pt") == Path("checkpoints/best.pt")
    (tmp_path / "team" / "tiny").mkdir(parents=True)
    assert locate("team/tiny") == Path("team/tiny")

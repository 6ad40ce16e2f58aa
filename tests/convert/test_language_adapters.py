"""Models of many languages (MMS) against transformers: adapters, vocabularies, what is said and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import w2v
from w2v.convert import read_model_file
from w2v.convert.huggingface_folder import write_huggingface
from w2v.convert.locate import fingerprint
from w2v.errors import CheckpointError
from w2v.inference.emissions import ctc_info

transformers = pytest.importorskip("transformers")

SPECIALS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
VOCABULARIES = {
    "eng": SPECIALS | {letter: i for i, letter in enumerate("etaoin", 5)},
    "deu-script_latin": SPECIALS | {letter: i for i, letter in enumerate("enisratäö", 5)},
    "rus": SPECIALS | {letter: i for i, letter in enumerate("оеа", 5)},
}
FILES = {"eng": "safetensors", "deu-script_latin": "safetensors", "rus": "bin"}


def randomised(model: Any, seed: int) -> Any:
    """Give adapters and output layer values that matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model._get_adapters().items():
            tensor.normal_(std=1.0 if name.startswith("lm_head") else 0.3)
    return model.eval()


def mms(folder: Path, **options: Any) -> Path:
    """Write a folder as MMS has them: the model with English inside, and a file for each language."""
    small = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, do_stable_layer_norm=True, conv_bias=True,
        feat_extract_norm="layer", adapter_attn_dim=4, pad_token_id=0,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for number, (language, vocabulary) in enumerate(VOCABULARIES.items()):
        torch.manual_seed(7)  # all share the blocks
        config = transformers.Wav2Vec2Config(**{**small, **options}, vocab_size=len(vocabulary))
        model = randomised(transformers.Wav2Vec2ForCTC(config), number)
        if language == "eng":
            model.save_pretrained(folder)
        adapter = {name: tensor.detach().clone() for name, tensor in model._get_adapters().items()}
        if FILES[language] == "bin":
            torch.save(adapter, folder / f"adapter.{language}.bin")
        else:
            from safetensors.torch import save_file

            save_file(adapter, folder / f"adapter.{language}.safetensors", {"format": "pt"})
    write(folder / "vocab.json", VOCABULARIES)
    tokens = dict(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", word_delimiter_token="|")
    # The number that English lacks is a letter of the other one.
    added = {str(len(VOCABULARIES["eng"])): {"content": "<extra>", "special": True}}
    write(
        folder / "tokenizer_config.json",
        dict(tokenizer_class="Wav2Vec2CTCTokenizer", target_lang="eng", added_tokens_decoder=added, **tokens),
    )
    write(folder / "preprocessor_config.json", dict(feature_extractor_type="Wav2Vec2FeatureExtractor"))
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mms(tmp_path_factory.mktemp("mms") / "model")


def logits(folder: Path, language: str | None, clip: torch.Tensor) -> tuple[torch.Tensor, Any]:
    loaded = w2v.load_model(folder, language=language)
    with torch.inference_mode():
        return loaded.model(clip, None, 0).logits[0], loaded


@pytest.mark.parametrize("language", [None, *VOCABULARIES])
def test_equal_to_transformers(folder: Path, language: str | None) -> None:
    """Log-probabilities of every language, symbol by symbol; without `--language` what the model file holds."""
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32))
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    if language is not None:
        theirs.load_adapter(language)
    with torch.inference_mode():
        expected = theirs(clip).logits[0]
    found, loaded = logits(folder, language, clip)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    vocabulary = VOCABULARIES[language or "eng"]
    symbols = ctc_info(loaded).symbols
    ours = {"<s>": "<pad>", "<pad>": "<s>"}
    assert [ours.get(symbol, symbol) for symbol in symbols] == list(vocabulary)
    if language == "eng":  # adapters are there, and count
        plain = transformers.Wav2Vec2ForCTC.from_pretrained(folder, adapter_attn_dim=None).eval()
        with torch.inference_mode():
            assert (plain(clip).logits[0] - expected).abs().max() > 0.1


def test_what_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, other = read_model_file(folder), read_model_file(folder, language="rus")
    assert own.notes[0] == own.language == "its language is eng of 3; --language takes another one"
    assert other.notes[0] == other.language == "its language is rus, from adapter.rus.bin"
    with pytest.raises(CheckpointError, match=r"has no such language; it has deu-script_latin, eng, rus$"):
        read_model_file(folder, language="deu")
    with pytest.raises(CheckpointError, match="must be a code such as eng"):
        read_model_file(folder, language="../eng")
    assert len({fingerprint(folder), *(fingerprint(folder, language) for language in VOCABULARIES)}) == 4


def test_many_languages_are_not_all_listed(tmp_path: Path) -> None:
    folder = mms(tmp_path)
    write(folder / "vocab.json", {f"{a}{b}x": SPECIALS for a in "abcdefgh" for b in "opqrstu"} | VOCABULARIES)
    for path in folder.glob("adapter.*"):  # as a name on the hub: one that is not there has not been fetched
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no such language; it has 59, among them .*deu-script_latin") as caught:
        read_model_file(folder, language="deu-script_latn")
    assert len(str(caught.value)) < 400


def test_models_without_adapters(folder: Path, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--language eng: .* has one language only; leave --language out"):
        read_model_file(golden / "checkpoints/g3_cfg/ctc_base.pt", language="eng")
    one = tmp_path / "one"
    write_huggingface(one, read_model_file(folder, language="deu-script_latin"))
    with pytest.raises(CheckpointError, match="one language only"):
        read_model_file(one, language="deu-script_latin")
    bare = mms(tmp_path / "bare")
    write(bare / "tokenizer_config.json", {})
    with pytest.raises(
        CheckpointError, match=r"vocabularies of 3 languages \(eng, deu-script_latin, rus\).*--language"
    ):
        read_model_file(bare)
    assert read_model_file(bare, language="rus").symbols[-1] == "а"


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = mms(tmp_path / "a")
    other = mms(tmp_path / "b", num_hidden_layers=3)
    (other / "adapter.eng.safetensors").replace(folder / "adapter.eng.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter.eng.safetensors: does not fit the model: encoder.layers.2"):
        read_model_file(folder, language="eng")


def test_one_language_is_a_model_of_its_own(folder: Path, tmp_path: Path) -> None:
    """A folder of one language, written here: transformers opens it, and so do we, with the same numbers."""
    clip = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 5000)).astype(np.float32))
    expected, _ = logits(folder, "deu-script_latin", clip)
    write_huggingface(tmp_path / "deu", read_model_file(folder, language="deu-script_latin"))
    found, _ = logits(tmp_path / "deu", None, clip)
    assert torch.equal(found, expected)
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "deu").eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(clip).logits[0], expected, atol=1e-4, rtol=0)
    from w2v.convert.fairseq_file import write_fairseq

    with pytest.raises(CheckpointError, match="has adapters"):
        write_fairseq(tmp_path / "x.pt", read_model_file(folder))


def test_post_norm_models_have_only_output_layers(tmp_path: Path) -> None:
    """transformers builds no adapters there, and neither do we."""
    folder = mms(tmp_path, do_stable_layer_norm=False, feat_extract_norm="group", conv_bias=False)
    clip = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 5000)).astype(np.float32))
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    theirs.load_adapter("rus")
    with torch.inference_mode():
        torch.testing.assert_close(logits(folder, "rus", clip)[0], theirs(clip).logits[0], atol=1e-4, rtol=0)


def test_of_a_hub_only_the_adapter_asked_for_comes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot(*, repo_id: str, revision: str | None, **patterns: Any) -> str:
        names = [*os.listdir(folder), "language_model/unigrams.txt", "onnx/config.json"]
        for name in hub.utils.filter_repo_objects(names, **patterns):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert read_model_file("team/mms").language.startswith("its language is eng of 3;")
    assert not list(tmp_path.glob("adapter.*"))
    with pytest.raises(CheckpointError, match=r"it has deu-script_latin, eng, rus$"):
        read_model_file("team/mms", language="fra")
    for language in ("rus", "deu-script_latin"):  # the one in torch's format, the other in safetensors
        expected = read_model_file(folder, language=language).symbols
        assert read_model_file("team/mms", language=language).symbols == expected
    fetched = {path.name for path in tmp_path.glob("adapter.*")}
    assert fetched == {"adapter.rus.bin", "adapter.deu-script_latin.safetensors"}


def test_programs_take_a_language(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile = pytest.importorskip("soundfile")
    from w2v_cli import featurize, transcribe

    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", 0.1 * np.random.default_rng(3).standard_normal(32000), 16000)
    texts = {}
    for language in VOCABULARIES:
        assert transcribe.main([str(folder), str(audio / "a.wav"), "--cpu", "--language", language]) == 0
        texts[language] = capsys.readouterr().out.strip()
        (expected,) = w2v.transcribe([audio / "a.wav"], model=w2v.load_model(folder, language=language))
        assert texts[language] == expected.text
    assert len(set(texts.values())) == len(texts)
    assert transcribe.main([str(folder), str(audio / "a.wav"), "--cpu"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == texts["eng"]
    assert "its language is eng of 3; --language takes another one" in said.err
    assert transcribe.main([str(folder), str(audio / "a.wav"), "--language", "fra"]) == 2
    assert "it has deu-script_latin, eng, rus" in capsys.readouterr().err
    # Features are the language's, too, and those of two languages are never mixed.
    arguments = ["-i", str(audio), "-o", str(tmp_path / "f"), "--model", str(folder), "--cpu", "--language"]
    assert featurize.main([*arguments, "rus"]) == 0
    assert featurize.main([*arguments, "eng"]) == 2
    assert "holds features of another --model" in capsys.readouterr().err

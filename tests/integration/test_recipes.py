"""Every command of docs/recipes.md: parsed as it is written, then run with small numbers behind it.

Oracle: the options by their documented meaning; updates made, files written, a word error rate printed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import Outcome, call, write_corpus

from w2v.checkpoint.file import load_checkpoint
from w2v.models.wav2vec2 import Wav2Vec2Config
from w2v.models.wav2vec_ctc import Wav2VecCtcConfig
from w2v.training.options import TrainConfig, parse_train_command
from w2v_cli import infer, labels, manifest, train

soundfile = pytest.importorskip("soundfile")

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
LM = Path(__file__).resolve().parents[1] / "assets" / "lm" / "words.probing.bin"
PROGRAMS = {"w2v-manifest": manifest.main, "w2v-labels": labels.main, "w2v-train": train.main, "w2v-infer": infer.main}
VARIABLES = {"$PORT": "29400", "$ext": "wav", "$valid": "0.1", "$split": "train"}

SMALL = """
--distributed-world-size 1 --cpu --num-workers 1 --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64
--encoder-attention-heads 2 --conv-feature-layers '[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2' --final-dim 16
--max-tokens 64000 --max-sample-size 16000 --min-sample-size 8000 --max-update 3 --log-interval 1 --log-format json
"""
SMALL_CTC = """
--distributed-world-size 1 --cpu --num-workers 1 --max-tokens 100000 --max-update 3 --freeze-finetune-updates 2
--mask-channel-length 8 --validate-after-updates 0 --log-interval 1 --lr 1e-3 --warmup-steps 1
"""


def commands() -> dict[str, list[str]]:
    """Return the commands of the page, by a name made of program and heading."""
    found = {}
    for heading, block in re.findall(r"^## (.*?)\n.*?^```sh\n(.*?)^```", _page(), re.DOTALL | re.MULTILINE):
        words = shlex.split(block.replace("\\\n", " "))
        found[f"{words[0]}: {heading}"] = [VARIABLES.get(word, word) for word in words]
    without_lm = re.search(r"^Without:\n\n```sh\n(.*?)^```", _page(), re.DOTALL | re.MULTILINE)
    assert without_lm is not None
    found["w2v-infer: viterbi"] = shlex.split(without_lm[1].replace("\\\n", " "))
    return found


def _page() -> str:
    return RECIPES.read_text(encoding="utf-8")


def command(name: str) -> list[str]:
    [arguments] = [words for key, words in commands().items() if key.startswith(name)]
    return arguments


def run(name: str, places: Mapping[str, Any], *more: Any) -> Outcome:
    """Run a command of the page with its paths filled in and further arguments behind it."""
    program, *arguments = command(name)
    for place, path in places.items():
        assert any(place in argument for argument in arguments), (place, arguments)
        arguments = [argument.replace(place, str(path)) for argument in arguments]
    return call(PROGRAMS[program], [*arguments, *more])


def test_the_page_holds_the_commands() -> None:
    assert len(commands()) == len(re.findall("```sh", _page())) == 7


# ---------------------------------------------------------------------------------------------- parsed


def parsed(name: str) -> TrainConfig:
    return parse_train_command(command(name)[1:]).config


@pytest.mark.parametrize("name", ["w2v-train: wav2vec 2.0 base", "w2v-train: wav2vec 2.0 large"])
def test_pretraining_commands_mean_what_they_meant(name: str) -> None:
    config, is_base = parsed(name), "base" in name
    model: Any = config.model.config
    assert isinstance(model, Wav2Vec2Config)
    assert model.conv_feature_layers == ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)
    assert model.latent_temp == ((2.0, 0.5, 0.999995) if is_base else (2.0, 0.1, 0.999995))
    assert model.quantize_targets
    sizes = (model.encoder_layers, model.encoder_embed_dim, model.encoder_ffn_embed_dim, model.encoder_attention_heads)
    assert sizes == ((12, 768, 3072, 12) if is_base else (24, 1024, 4096, 16))
    assert (model.final_dim, model.feature_grad_mult) == ((256, 0.1) if is_base else (768, 0.03))
    assert (model.dropout, model.encoder_layerdrop) == ((0.1, 0.05) if is_base else (0.0, 0.0))
    assert config.criterion.config.infonce
    assert config.criterion.config.loss_weights == (0.1, 10.0)
    assert config.criterion.config.log_keys == ("prob_perplexity", "code_perplexity", "temp")
    assert config.optimizer.config.adam_betas == (0.9, 0.98)
    assert config.optimizer.config.adam_eps == 1e-6
    assert config.optimizer.config.weight_decay == 0.01
    assert config.optimization.lr == ((0.0005,) if is_base else (0.0003,))
    assert config.optimization.clip_norm == 25.0
    assert config.lr_scheduler.config.total_num_update == config.optimization.max_update
    assert config.distributed_training.distributed_world_size == (64 if is_base else 128)
    assert config.distributed_training.distributed_port == 29400
    assert config.dataset.max_tokens == (1400000 if is_base else 1200000)
    assert config.task.config.max_sample_size == (250000 if is_base else 320000)
    assert config.common.fp16


def test_the_preset_is_the_large_command() -> None:
    words = command("w2v-train: wav2vec 2.0 large")
    model: Any = parse_train_command(words[1:]).config.model.config
    words[words.index("--arch") + 1] = "wav2vec2_large"
    for flag in ("--encoder-layers", "--encoder-embed-dim", "--encoder-ffn-embed-dim", "--encoder-attention-heads"):
        place = words.index(flag)
        del words[place : place + 2]
    assert parse_train_command(words[1:]).config.model.config == model


def test_the_finetuning_command_means_what_it_meant() -> None:
    config = parsed("w2v-train: CTC")
    model: Any = config.model.config
    assert isinstance(model, Wav2VecCtcConfig)
    assert model.apply_mask
    assert (model.mask_prob, model.mask_channel_prob, model.mask_channel_length) == (0.5, 0.5, 64)
    assert (model.layerdrop, model.activation_dropout, model.feature_grad_mult) == (0.1, 0.1, 0.0)
    assert model.freeze_finetune_updates == 10000
    assert config.criterion.config.wer_args == ("/path/to/lm/4-gram.bin", "/path/to/lexicon", 2.0, -1.0)
    assert config.criterion.config.sentence_avg
    assert config.criterion.config.zero_infinity
    schedule = config.lr_scheduler.config
    assert (schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps) == (8000, 32000, 40000)
    assert schedule.final_lr_scale == 0.05
    assert config.checkpoint.best_checkpoint_metric == "wer"
    assert config.dataset.validate_after_updates == 10000
    assert config.common.seed == 2337
    assert config.task.config.labels == "ltr"


# ------------------------------------------------------------------------------------------------- run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with clips in LibriSpeech's layout, and the manifest that the page's command makes of them."""
    folder = tmp_path_factory.mktemp("recipes")
    texts = write_corpus(folder / "waves", 40, seed=5)
    for name in sorted({name.split("/")[0] for name in texts}):
        chapter = folder / "waves" / name
        lines = [f"{Path(path).stem} {text}" for path, text in texts.items() if path.startswith(f"{name}/")]
        # {speaker}/{chapter}/{speaker}-{chapter}.trans.txt
        (chapter / "7").mkdir()
        for path in chapter.glob("*.wav"):
            path.rename(chapter / "7" / path.name)
        (chapter / "7" / f"{name}-7.trans.txt").write_text("\n".join(lines) + "\n")
    listed = run("w2v-manifest", {"/path/to/waves": folder / "waves", "/manifest/path": folder / "data"})
    assert listed.code == 0, listed.err
    data = folder / "data"
    (data / "valid.tsv").replace(data / "dev_other.tsv")
    (data / "valid.tsv").write_bytes((data / "dev_other.tsv").read_bytes())
    for split in ("train", "dev_other"):
        more = ["--output-name", split, *(["--dict"] if split == "train" else [])]
        written = run("w2v-labels", {"/path/to/tsv": data / f"{split}.tsv", "/output/dir": data}, *more)
        assert written.code == 0, written.err
    return folder


@pytest.fixture(scope="module")
def base(place: Path) -> Outcome:
    places = {"/manifest/path": place / "data", "/model/path": place / "base"}
    return run("w2v-train: wav2vec 2.0 base", places, *shlex.split(SMALL))


@pytest.fixture(scope="module")
def finetuned(place: Path, base: Outcome) -> Outcome:
    lexicon = place / "lexicon"
    lexicon.write_text("A\tA |\nB\tB |\nAB\tA B |\n")
    places = {
        "/path/to/lm/4-gram.bin": LM, "/path/to/lexicon": lexicon, "/path/to/training_data": place / "data",
        "/model/path": place / "ctc", "/path/to/pretrained/model": place / "base/checkpoint_best.pt",
    }  # fmt: skip
    try:
        import flashlight.lib.text  # noqa: F401
    except ImportError:
        pytest.skip("needs flashlight-text and kenlm")
    return run("w2v-train: CTC", places, *shlex.split(SMALL_CTC))


def check_run(outcome: Outcome, save_dir: Path, num_updates: int = 3) -> None:
    assert outcome.code == 0, outcome.err
    lines = outcome.lines("train_inner")
    assert [line["num_updates"] for line in lines] == list(range(1, num_updates + 1))
    assert all(line["loss"] == line["loss"] and line["loss"] < 1e4 for line in lines)
    state = load_checkpoint(save_dir / "checkpoint_last.pt")
    assert state["trainer"]["num_updates"] == num_updates
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())
    assert (save_dir / "checkpoint_best.pt").is_file()


def test_base(place: Path, base: Outcome) -> None:
    check_run(base, place / "base")
    line = base.lines("train_inner")[-1]
    assert {"prob_perplexity", "code_perplexity", "temp", "loss_0", "loss_1", "loss_2", "accuracy"} <= line.keys()
    assert {"gnorm", "lr"} <= line.keys()
    # Where a CPU is slow in float16, another format takes its place, without a loss scale.
    assert ("loss_scale" in line) == ("--fp16: this CPU is slow in it" not in base.out)
    assert line["temp"] == 2.0  # lines show three decimals
    assert line["lr"] == pytest.approx(0.0005 * 3 / 32000, rel=1e-3)


def test_large(place: Path) -> None:
    places = {"/manifest/path": place / "data", "/model/path": place / "large"}
    check_run(run("w2v-train: wav2vec 2.0 large", places, *shlex.split(SMALL)), place / "large")


def test_finetuning(place: Path, finetuned: Outcome) -> None:
    check_run(finetuned, place / "ctc")
    valid = finetuned.lines("dev_other")[-1]
    assert {"dev_other_wer", "dev_other_raw_wer", "dev_other_uer", "dev_other_loss"} <= valid.keys()
    names = {path.name for path in (place / "ctc").glob("*.pt")}
    assert names == {"checkpoint_best.pt", "checkpoint_last.pt"}


def test_finetuning_freezes_the_encoder_for_two_updates(place: Path, finetuned: Outcome) -> None:
    """The third update moves the transformer; the convolutions (`--feature-grad-mult 0.0`) never move."""
    before = load_checkpoint(place / "base/checkpoint_best.pt")["model"]
    after = load_checkpoint(place / "ctc/checkpoint_last.pt")["model"]
    conv, weight = "feature_extractor.conv_layers.0.0.weight", "post_extract_proj.weight"
    assert torch.equal(after[f"w2v_encoder.w2v_model.{conv}"], before[conv])
    assert not torch.equal(after[f"w2v_encoder.w2v_model.{weight}"], before[weight])


@pytest.mark.parametrize("decoder", ["Transcripts", "viterbi"])
def test_infer(decoder: str, place: Path, finetuned: Outcome) -> None:
    assert finetuned.code == 0
    places = {
        "/path/to/data": place / "data", "/path/to/model": place / "ctc/checkpoint_best.pt",
        "/path/to/save/results/for/sclite": place / decoder,
    }  # fmt: skip
    if decoder != "viterbi":
        places["/path/to/kenlm.bin"] = LM
    outcome = run(f"w2v-infer: {decoder}", places, "--cpu")
    assert outcome.code == 0, outcome.err
    assert "WER: " in outcome.out
    files = sorted(path.name for path in (place / decoder).glob("*-checkpoint_best.pt-dev_other.txt"))
    kinds = ["hypo.units", "hypo.word", "ref.units", "ref.word"]
    assert files == [f"{kind}-checkpoint_best.pt-dev_other.txt" for kind in kinds]

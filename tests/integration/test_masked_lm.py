"""Masked language models are trained by the shared trainer, from text and from binarised files, on any of its ways."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import ADAM, COMMON, call

from w2v.checkpoint.file import load_checkpoint
from w2v.data.binarized_file import write_token_file
from w2v.data.dictionary import Dictionary, write_dictionary
from w2v.data.iterator import EpochIterator
from w2v.data.token_text import read_token_text
from w2v.inference.load import load_model
from w2v.tasks.masked_lm import MaskedLmTask, MaskedLmTaskConfig
from w2v_cli import train, visualize

CODES = [f"{first}-{second}" for first in range(4) for second in range(3)]
SIZES = [
    "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-layers", 2, "--encoder-attention-heads", 4,
]  # fmt: skip
TRAINING = [
    "--task", "masked_lm", "--arch", "roberta_base", "--criterion", "masked_lm", *SIZES,
    "--sample-break-mode", "eos", "--tokens-per-sample", 64, "--max-positions", 80, "--mask-prob", 0.4,
    "--mask-multiple-length", 3, "--mask-stdev", 2, "--max-tokens", 512, "--lr", 0.004, "--clip-norm", 0,
    "--lr-scheduler", "polynomial_decay", "--warmup-updates", 20, "--total-num-update", 400, "--log-interval", 5,
    *ADAM, *COMMON,
]  # fmt: skip


def sentences(count: int, seed: int) -> list[str]:
    """Codes that count upwards, each held for one to three frames: a model must look both ways to fill a gap."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        first, length = rng.integers(len(CODES)), rng.integers(8, 16)
        held = np.repeat((first + np.arange(length)) % len(CODES), rng.integers(1, 4, length))
        lines.append(" ".join(CODES[code] for code in held))
    return lines


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    for split, count, seed in (("train", 300, 1), ("valid", 40, 2)):
        (folder / f"{split}.src").write_text("".join(f"{line}\n" for line in sentences(count, seed)))
    write_dictionary(folder / "dict.txt", Counter((folder / "train.src").read_text().split()), padding_factor=8)
    return folder


def run(data: Path, save_dir: Path, *more: Any) -> Any:
    outcome = call(train.main, [data, "--save-dir", save_dir, *TRAINING, *more])
    assert outcome.code == 0, outcome.err
    return outcome


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoint_last.pt")["model"]
    return found


def test_hidden_codes_are_learnt(tmp_path: Path) -> None:
    # One code per line: what is hidden stands anywhere else in the line, and without that it is any of them.
    rng = np.random.default_rng(1)
    for split, count in (("train", 240), ("valid", 36)):
        lines = [" ".join([code] * int(rng.integers(8, 16))) for code in CODES * (count // len(CODES))]
        (tmp_path / f"{split}.src").write_text("\n".join(lines) + "\n")
    write_dictionary(tmp_path / "dict.txt", dict.fromkeys(CODES, 1), padding_factor=8)
    outcome = run(tmp_path, tmp_path / "run", "--max-update", 110, "--dropout", 0, "--attention-dropout", 0)
    lines = outcome.lines("valid")
    assert lines[-1]["valid_loss"] < 0.25 * math.log2(len(CODES)) < lines[0]["valid_loss"] < 1.2 * math.log2(24)
    assert lines[-1]["valid_ppl"] == pytest.approx(2 ** lines[-1]["valid_loss"], abs=0.01)
    best = load_checkpoint(tmp_path / "run/checkpoint_best.pt")
    assert best["config"]["checkpoint"]["best_checkpoint_metric"] == "loss"
    values = {name.removeprefix("train_") for name in outcome.lines("train")[-1]}
    assert {"loss", "ppl"} <= values
    assert not values & {"nll_loss", "ntokens", "nsentences", "accuracy"}
    loaded: Any = load_model(tmp_path / "run/checkpoint_last.pt")
    dictionary = loaded.task.dictionary
    assert dictionary.symbols[-1] == "<mask>"
    assert (len(dictionary) - 1) % 8 == 0
    check_pictures(tmp_path, lines[-1]["valid_ppl"])
    ids = torch.tensor([[dictionary.bos, *dictionary.encode(" ".join(["2-1"] * 9)), dictionary.eos]])
    hidden = ids.clone()
    hidden[0, 4] = len(dictionary) - 1
    with torch.no_grad():
        contexts, _ = loaded.model.encode(hidden, torch.tensor([ids.shape[1]]))
        scores = loaded.model.encoder.scores(contexts)
    assert dictionary.symbols[int(scores[0, 4].argmax())] == "2-1"


def check_pictures(folder: Path, perplexity: float) -> None:
    pytest.importorskip("matplotlib")
    command = ["--checkpoint", folder / "run/checkpoint_last.pt", "--data-dir", folder, "--output-dir", folder / "seen"]
    outcome = call(visualize.main, [*command, "--cpu", "--quiet"])
    assert outcome.code == 0, outcome.err
    said = outcome.out.splitlines()
    # All codes occur equally often, but for the lengths of lines; hidden ones are those of the validation.
    assert said[0].startswith(f"{len(CODES)} of 17 tokens occur; perplexity of single tokens 1")
    assert float(said[1].rpartition(" ")[2]) == pytest.approx(perplexity, abs=0.02)
    with open(folder / "seen/perplexity_by_position.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["hidden tokens"]) for row in rows) == int(said[1].split()[2])
    assert (folder / "seen/token_use.png").stat().st_size > 1000


def test_a_run_in_two_parts_is_one_run(data: Path, tmp_path: Path) -> None:
    more = ["--encoder-layerdrop", 0.2, "--activation-dropout", 0.1, "--sample-break-mode", "complete",
            "--disable-validation", "--update-freq", 2]  # fmt: skip
    run(data, tmp_path / "one", *more, "--max-update", 14)
    run(data, tmp_path / "two", *more, "--max-update", 6)
    run(data, tmp_path / "two", *more, "--max-update", 14, "--num-workers", 1)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    # The shared matrix is one parameter, and has one pair of moments.
    optimizer = load_checkpoint(tmp_path / "two/checkpoint_last.pt")["optimizer"]
    assert len(optimizer["state"]) == len(two)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_two_ranks_make_the_updates_of_one(data: Path, tmp_path: Path) -> None:
    more = ["--max-update", 4]
    run(data, tmp_path / "one", *more, "--update-freq", 2)
    run(data, tmp_path / "two", *more, "--distributed-world-size", 2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [["--bf16"], ["--checkpoint-activations", "--untie-weights-roberta"]])
def test_other_ways_of_training(data: Path, tmp_path: Path, more: list[str]) -> None:
    outcome = run(data, tmp_path, "--max-update", 6, *more)
    assert math.isfinite(outcome.lines("valid")[-1]["valid_loss"])
    assert ("encoder.lm_head.weight" in weights(tmp_path)) == ("--untie-weights-roberta" in more)


def test_binarised_files_train_as_their_text(data: Path, tmp_path: Path) -> None:
    dictionary = Dictionary.from_file(data / "dict.txt")
    folder = tmp_path / "binarised"
    folder.mkdir()
    (folder / "dict.txt").write_bytes((data / "dict.txt").read_bytes())
    for split in ("train", "valid"):
        text = read_token_text(str(data / f"{split}.src"), dictionary)
        # As fairseq-preprocess calls them without --only-source.
        write_token_file(folder / f"{split}.None-None", map(text.sentence, range(len(text))), len(dictionary))
    for name, place in (("text", data), ("files", folder)):
        run(place, tmp_path / name, "--max-update", 3)
    one, two = weights(tmp_path / "text"), weights(tmp_path / "files")
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def make_task(data: Path, **options: Any) -> MaskedLmTask:
    return MaskedLmTask(MaskedLmTaskConfig(data=str(data), sample_break_mode="eos", **options), seed=3)


def test_masks_follow_from_seed_epoch_and_item_alone(data: Path) -> None:
    items = make_task(data, mask_multiple_length=5, mask_stdev=5.0).load_dataset("train")
    batches = [np.arange(start, start + 7) for start in range(0, 70, 7)]
    for workers, rank, ranks, position in ((0, 0, 1, 0), (1, 0, 1, 0), (4, 0, 1, 30), (0, 1, 2, 0)):
        epochs = EpochIterator(items, batches, seed=3, num_workers=workers, rank=rank, world_size=ranks)
        epochs.load_state_dict({**epochs.state_dict(), "epoch": 2, "position": position // 7})
        for ((batch, _),) in epochs.updates(1):
            for row, index in enumerate(batch.indices.tolist()):
                size = int(batch.lengths[row])
                source, targets = items.masked_item(index, 2)
                assert batch.source[row, :size].tolist() == source.tolist()
                assert batch.targets[row, :size].tolist() == targets.tolist()
        epochs.close()
    masks = [items.masked_item(0, epoch)[1].tolist() for epoch in (1, 2, 2)]
    assert masks[1] == masks[2] != masks[0]


def test_validation_has_the_masks_of_the_first_epoch_always(data: Path) -> None:
    from w2v.config.sections import DatasetConfig

    task = make_task(data)
    passes = [list(task.valid_batches("valid", DatasetConfig(max_tokens=600, num_workers=0))) for _ in range(2)]
    for first, second in zip(*passes, strict=True):
        assert torch.equal(first.targets, second.targets)
        index, size = int(first.indices[0]), int(first.lengths[0])
        assert first.targets[0, :size].tolist() == task.load_dataset("valid").masked_item(index, 1)[1].tolist()


def test_long_lines_are_left_out_with_a_count_or_refused(data: Path, tmp_path: Path) -> None:
    outcome = run(
        data, tmp_path / "a", "--max-update", 2, "--max-positions", 28, "--skip-invalid-size-inputs-valid-test"
    )
    assert "left out" in outcome.err + outcome.out
    assert "items of more than --max-positions 28 tokens; the longest has " in outcome.err + outcome.out
    refused = call(train.main, [data, "--save-dir", tmp_path / "b", *TRAINING, "--max-positions", 28])
    assert refused.code == 2
    assert "valid: " in refused.err
    assert "--skip-invalid-size-inputs-valid-test" in refused.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mask-whole-words"], "--mask-whole-words is not supported"),
        (["--mask-prob", "1"], "--mask-prob must lie between 0 and 1, got 1.0"),
        (
            ["--random-token-prob", "0.6", "--leave-unmasked-prob", "0.5"],
            "--random-token-prob and --leave-unmasked-prob",
        ),
        (["--mask-multiple-length", "0"], "--mask-multiple-length must be at least 1"),
        (["--dataset-impl", "fasta"], "--dataset-impl must be one of raw, lazy, cached, mmap, got 'fasta'"),
        (["--quant-noise-pq", "0.1"], "--quant-noise-pq 0.1 is not supported"),
        (["--skip-masking"], "--skip-masking is not supported: it belongs to data2vec"),
        (["--train-subset", "none"], "there is neither none.src nor none.idx with none.bin"),
        (["--criterion", "ctc"], "--criterion ctc needs wav2vec_ctc"),
        (["--encoder-attention-heads", "5"], "--encoder-attention-heads must divide --encoder-embed-dim 32"),
        (["--max-positions", "5"], "more than --max-positions 5 tokens; the longest has"),
        (["--max-tokens", "None"], "--task masked_lm needs --max-tokens"),
        (["--bpe", "gpt2"], "w2v-train has no --bpe"),
    ],
)
def test_what_does_not_fit(data: Path, tmp_path: Path, more: list[str], message: str) -> None:
    outcome = call(train.main, [data, "--save-dir", tmp_path, *TRAINING, "--max-update", 1, *more])
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_tokens_of_another_dictionary_and_forbidden_ones_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_bytes((data / "dict.txt").read_bytes())
    size = len(Dictionary.from_file(data / "dict.txt"))
    write_token_file(tmp_path / "train", [np.array([5, size + 1, 2])], size)
    (tmp_path / "valid.src").write_text("0-0 0-1\n0-0 <mask> 0-1\n")
    outcome = call(train.main, [tmp_path, "--save-dir", tmp_path / "run", *TRAINING])
    assert outcome.code == 2
    assert f"holds the token {size + 1}, dict.txt has {size + 1} with <mask>" in outcome.err
    (tmp_path / "train.idx").unlink()
    (tmp_path / "train.src").write_text("0-0 0-1\n0-0 <mask> 0-1\n")
    outcome = call(train.main, [tmp_path, "--save-dir", tmp_path / "run", *TRAINING, "--max-update", 1])
    assert outcome.code == 2
    assert "the item that begins in sentence 2 holds <mask>, which has a meaning of its own" in outcome.err


def test_published_flags_are_taken_as_they_are(data: Path, tmp_path: Path) -> None:
    flags = [
        "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta_large", "--sample-break-mode", "eos",
        "--tokens-per-sample", 3072, "--max-positions", 6144, "--mask-prob", 0.5, "--mask-multiple-length", 10,
        "--mask-stdev", 10, "--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--adam-eps", 1e-06,
        "--weight-decay", 0.01, "--clip-norm", 0.0, "--lr-scheduler", "polynomial_decay", "--lr", 0.0005,
        "--total-num-update", 250000, "--warmup-updates", 10000, "--max-update", 250000, "--dropout", 0.1,
        "--attention-dropout", 0.1, "--activation-dropout", 0.0, "--max-tokens", 4096, "--update-freq", 4,
        "--seed", 5, "--skip-invalid-size-inputs-valid-test", "--keep-last-epochs", 1, "--num-workers", 4,
        "--pooler-activation-fn", "tanh", "--pooler-dropout", 0.0, "--quant-noise-pq", 0,
        "--quant-noise-pq-block-size", 8, "--quant-noise-scalar", 0, "--leave-unmasked-prob", 0.1,
        "--random-token-prob", 0.1, "--freq-weighted-replacement", "--shorten-method", "truncate",
        "--shorten-data-split-list", "train", "--dataset-impl", "mmap", "--activation-fn", "gelu", "--fp16",
        "--untie-weights-roberta", "--encoder-normalize-before", "--encoder-layerdrop", 0.05,
    ]  # fmt: skip
    outcome = call(train.main, [data, "--save-dir", tmp_path, *flags, "--print-config"])
    assert outcome.code == 0, outcome.err
    for line in ("encoder_layers: 24", "encoder_embed_dim: 1024", "mask_multiple_length: 10", "max_positions: 6144"):
        assert line in outcome.out

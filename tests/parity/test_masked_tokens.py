"""Masks, blocks, dictionaries, files and batches of masked language models, against the original's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.data.batch_sampler import plan_order, shortest_first
from w2v.data.binarized_file import SMALL_VOCABULARY, TokenFile, read_token_file, write_token_file
from w2v.data.dictionary import Dictionary, write_dictionary
from w2v.data.iterator import EpochIterator
from w2v.data.masked_dataset import ItemSpec, MaskedTokenDataset
from w2v.data.token_blocks import token_blocks
from w2v.data.token_masks import Generator, TokenMaskSpec, mask_tokens, replacement_weights, stream_seed
from w2v.data.token_text import encode_line, read_token_text
from w2v.errors import DataError

GENERATIONS = ("v0102", "span_legacy_rng", "head")
OPTIONS = {
    "mask_prob": "prob", "leave_unmasked_prob": "leave_prob", "random_token_prob": "random_prob",
    "mask_multiple_length": "length", "mask_stdev": "stdev",
}  # fmt: skip


def load(golden: Any, name: str) -> Any:
    return torch.load(golden / f"beyond/{name}.pt", weights_only=True)


def mask_spec(config: dict[str, Any], size: int, mask: int, pad: int, counts: Any = None) -> TokenMaskSpec:
    values = {"prob": 0.15, "leave_prob": 0.1, "random_prob": 0.1, "length": 1, "stdev": 0.0}
    values |= {OPTIONS[name]: value for name, value in config.items() if name in OPTIONS}
    weights = replacement_weights(size, 4, counts if config.get("freq_weighted_replacement") else None)
    return TokenMaskSpec(**values, mask=mask, pad=pad, weights=weights)


@pytest.mark.parametrize("rows", ["rows_v0102", "rows_span_legacy_rng", "rows_head_default_rng"])
def test_masks_are_the_originals(golden: Any, rows: str) -> None:
    recorded = load(golden, "mask_tokens")
    items = np.split(recorded["items"].numpy().astype(np.int64), np.cumsum(recorded["lengths"])[:-1])
    make: Any = np.random.default_rng if "default_rng" in rows else np.random.RandomState
    assert recorded[rows]
    for row in recorded[rows]:
        spec = mask_spec(
            row["config"], recorded["vocab"], recorded["mask_idx"], recorded["pad"], recorded["counts"].numpy()
        )
        seeds = [stream_seed(row["seed"], row["epoch"], index) for index in range(len(items))]
        assert seeds == row["rng_seed"]
        found = [mask_tokens(item, spec, make(seed)) for item, seed in zip(items, seeds, strict=True)]
        for side, name in enumerate(("source", "target")):
            assert np.array_equal(np.concatenate([pair[side] for pair in found]), row[name].numpy()), row["config"]


def test_blocks_are_the_originals(golden: Any) -> None:
    for case in load(golden, "token_blocks")["cases"]:
        arguments = np.array(case["sizes"]), case["mode"], case["block_size"] or 0, case["document_sep_len"]
        if case["error"]:
            with pytest.raises(DataError, match=r"^--sample-break-mode complete_doc leaves no block: [^\n]*$"):
                token_blocks(*arguments)
            continue
        blocks = token_blocks(*arguments)
        ends = blocks.starts + blocks.sizes
        assert np.array_equal(np.stack([blocks.starts, ends], 1), case["slice_indices"].numpy())
        table = np.stack([blocks.first, blocks.offsets, blocks.last], 1)
        assert np.array_equal(table, case["block_to_dataset_index"].numpy())
        assert np.array_equal(blocks.sizes, case["block_sizes"].numpy())


def flags_of(options: str) -> dict[str, int]:
    words = options.split()
    given = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    names = {"--padding-factor": "padding_factor", "--thresholdsrc": "threshold", "--nwordssrc": "most"}
    return {"padding_factor": 8, **{names[flag]: value for flag, value in given.items()}}


def test_dictionaries_are_the_originals(golden: Any, tmp_path: Path) -> None:
    counts = Counter((golden / "beyond/codes/train.src").read_text().split())
    for number, case in enumerate(load(golden, "dictionary")["cases"]):
        path = tmp_path / f"{number}.txt"
        write_dictionary(path, counts, **flags_of(case["options"]))
        assert path.read_text() == case["dict_txt"]
        plain = Dictionary.from_file(path)
        assert len(plain) == case["len_before_mask"]
        dictionary = plain.with_mask()
        assert (dictionary.symbols, dictionary.counts) == (case["symbols"], case["counts"])
        assert dictionary.index("<mask>") == case["mask"] == len(dictionary) - 1
        assert dictionary.with_mask() is dictionary
        for line, ended, bare, text in zip(
            case["lines"], case["encoded_append_eos"], case["encoded_no_eos"], case["decoded"], strict=True
        ):
            assert encode_line(line, dictionary) == ended.tolist()
            assert dictionary.encode(line) == bare.tolist()
            assert dictionary.string(ended.tolist()) == text


@pytest.mark.parametrize("kind", ["mmap", "cached"])
def test_binarised_files_hold_the_text(golden: Any, kind: str, tmp_path: Path) -> None:
    codes = golden / "beyond/codes"
    dictionary = Dictionary.from_file(codes / kind / "dict.txt")
    for split, text in (("train", "train"), ("valid", "valid"), ("test", "docs")):
        if not (codes / kind / f"{split}.bin").is_file():
            continue
        found, wanted = read_token_file(codes / kind / split), read_token_text(str(codes / f"{text}.src"), dictionary)
        assert len(found) == len(wanted) == len((codes / f"{text}.src").read_text().splitlines())
        for row in range(len(wanted)):
            assert found.sentence(row).tolist() == wanted.sentence(row).tolist()
        if kind == "mmap":
            write_token_file(tmp_path / split, map(wanted.sentence, range(len(wanted))), len(dictionary))
            for ending in ("bin", "idx"):
                mine, theirs = ((place / f"{split}.{ending}").read_bytes() for place in (tmp_path, codes / kind))
                assert mine == theirs


@pytest.mark.parametrize(("vocabulary", "width", "code"), [(SMALL_VOCABULARY - 1, 2, 8), (SMALL_VOCABULARY, 4, 4)])
def test_large_vocabularies_take_32_bits(tmp_path: Path, vocabulary: int, width: int, code: int) -> None:
    sentences = [np.array([vocabulary, 5, 2]), np.array([2])]
    assert write_token_file(tmp_path / "x", sentences, vocabulary) == 2
    assert (tmp_path / "x.bin").stat().st_size == 4 * width
    assert (tmp_path / "x.idx").read_bytes()[17] == code
    back = read_token_file(tmp_path / "x")
    assert [back.sentence(row).tolist() for row in range(2)] == [sentence.tolist() for sentence in sentences]


def damage(folder: Path, ending: str, change: Any) -> None:
    path = folder / f"train.{ending}"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("kind", "ending", "change", "message"),
    [
        ("mmap", "idx", lambda b: b"RIFF" + b[4:], r"train\.idx: magic: "),
        ("mmap", "idx", lambda b: b[:20], r"train\.idx: header: wants 26 bytes, found 20"),
        ("mmap", "idx", lambda b: b[:-1], r"train\.idx: \d+ sizes and addresses: wants"),
        ("mmap", "idx", lambda b: b[:9] + b"\2" + b[10:], r"train\.idx: version: must be 1, got 2"),
        ("mmap", "idx", lambda b: b[:17] + b"\7" + b[18:], r"train\.idx: type: .* got 7"),
        ("mmap", "idx", lambda b: b[:-8] + b"\1" + bytes(7), r"train\.idx: addresses: must be multiples of 2"),
        ("mmap", "idx", lambda b: b[:29] + b"\xff" + b[30:], r"train\.idx: sizes: must not be negative"),
        ("mmap", "bin", lambda b: b[:-2], r"train\.bin: size: .* wants \d+ bytes, found"),
        ("mmap", "bin", lambda b: b + b[:2], r"train\.bin: size: .* knows of \d+ bytes, found"),
        ("cached", "idx", lambda b: b[:40], r"train\.idx: header: wants 48"),
        ("cached", "idx", lambda b: b[:24] + b"\2" + b[25:], r"train\.idx: element size: must be 4"),
        ("cached", "idx", lambda b: b[:40] + b"\1" + b[41:], r"train\.idx: sizes: must be one per sentence"),
        ("cached", "idx", lambda b: b + b"\0", r"train\.idx: \d+ sentences: wants"),
        ("cached", "idx", lambda b: b[:-8] + b"\1" + bytes(7), r"train\.idx: data offsets: do not agree"),
        ("cached", "bin", lambda b: b[:100], r"train\.bin: size: .* wants \d+ bytes, found 100"),
        ("cached", "bin", lambda b: b"", r"train\.bin: size: "),
    ],
)
def test_damaged_files_are_named_with_the_field(
    golden: Any, tmp_path: Path, kind: str, ending: str, change: Any, message: str
) -> None:
    for name in ("train.bin", "train.idx"):
        (tmp_path / name).write_bytes((golden / f"beyond/codes/{kind}/{name}").read_bytes())
    damage(tmp_path, ending, change)
    with pytest.raises(DataError, match=message) as error:
        read_token_file(tmp_path / "train")
    assert "\n" not in str(error.value)


def test_swapped_files_are_refused(golden: Any, tmp_path: Path) -> None:
    codes = golden / "beyond/codes/mmap"
    (tmp_path / "x.idx").write_bytes((codes / "train.idx").read_bytes())
    (tmp_path / "x.bin").write_bytes((codes / "valid.bin").read_bytes())
    with pytest.raises(DataError, match=r"x\.bin: size: .*is it of another file\?"):
        read_token_file(tmp_path / "x")
    with pytest.raises(DataError, match=r"none\.idx: cannot be read: No such file"):
        read_token_file(tmp_path / "none")


class HeadDataset(MaskedTokenDataset):
    """Draws as the original has since December 2022."""

    @staticmethod
    def generator(seed: int) -> Generator:
        return np.random.default_rng(seed)


def dataset_of(golden: Any, generation: str, entry: dict[str, Any], sentences: TokenFile) -> MaskedTokenDataset:
    options = entry["options"]
    dictionary = Dictionary.from_file(golden / "beyond/codes/mmap/dict.txt").with_mask()
    config: dict[str, Any] = {"mask_prob": 0.5}
    if generation != "v0102":
        config |= {"mask_multiple_length": 10, "mask_stdev": 10}
    kind = HeadDataset if generation == "head" else MaskedTokenDataset
    # The rest of an entry is what its options do not name: the file says what differs from these.
    items = ItemSpec(
        options.get("sample_break_mode", "complete"), options.get("tokens_per_sample", 512),
        options.get("shorten_method", "none"),
    )  # fmt: skip
    masks = mask_spec(config, len(dictionary), dictionary.index("<mask>"), dictionary.pad)
    return kind(sentences, items, masks, entry["seed"])


def stale_rows(generation: str, entry: dict[str, Any], num_rows: int) -> range:
    """Rows of the first batch of epoch 2 that the original's caches served with the mask of epoch 1."""
    options = entry["options"]
    key = entry["split"], options.get("sample_break_mode"), options.get("shorten_method", "none") != "none"
    counts = {("test", "complete", False): 1, ("train", "eos", True): 2}
    if generation != "head":
        counts["train", "eos", False] = 4
    is_small = entry["split"] != "test" or options.get("tokens_per_sample", 512) == 600
    is_listed = not key[2] or options.get("tokens_per_sample") == 100
    return range(counts.get(key, 0) if is_small and is_listed else 0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_batches_are_the_originals(golden: Any, generation: str) -> None:
    compared = 0
    for entry in load(golden, "loader")[generation]:
        sentences = read_token_file(golden / f"beyond/codes/mmap/{entry['split']}")
        clips = dataset_of(golden, generation, entry, sentences)
        assert len(clips) == entry["n_items"]
        assert clips.sizes.tolist() == entry["sizes"].tolist()
        order = shortest_first(clips.sizes, entry["seed"] + (generation != "head"))
        assert order.tolist() == entry["ordered_indices"].tolist()
        plan = plan_order(
            order, clips.sizes, max_tokens=entry["max_tokens"], batch_size=None,
            multiple=entry["required_batch_size_multiple"],
        )  # fmt: skip
        assert [batch.tolist() for batch in plan.batches] == [
            list(map(int, batch)) for batch in entry["frozen_batches"]
        ]
        check_shards(clips, plan.batches, entry)
        epochs = EpochIterator(clips, plan.batches, seed=entry["seed"])
        for recorded in entry["epochs"]:
            assert epochs.epoch == recorded["epoch"]
            batches = [batch for ((batch, is_real),) in epochs.updates(1) if is_real]
            assert [batch.indices.tolist() for batch in batches] == [list(map(int, ids)) for ids in recorded["ids"]]
            if recorded["first_batch"] is not None:
                compared += 1
                check_batch(clips, generation, entry, recorded, batches[0])
            epochs.advance_epoch()
    assert compared > 12


def check_shards(clips: MaskedTokenDataset, batches: Any, entry: dict[str, Any]) -> None:
    for rank, ids in enumerate(entry["two_shards_epoch1"]):
        epochs = EpochIterator(clips, batches, seed=entry["seed"], rank=rank, world_size=2)
        mine = [batch.indices.tolist() for ((batch, is_real),) in epochs.updates(1) if is_real]
        assert mine == [list(map(int, batch)) for batch in ids if len(batch)]


def check_batch(
    clips: MaskedTokenDataset, generation: str, entry: dict[str, Any], recorded: dict[str, Any], batch: Any
) -> None:
    first = recorded["first_batch"]
    assert batch.indices.tolist() == first["id"].tolist()
    assert batch.lengths.tolist() == first["src_lengths"].tolist()
    assert int(batch.lengths.sum()) == first["ntokens"]
    assert batch.num_items == first["nsentences"]
    source, targets = batch.source.clone(), batch.targets.clone()
    if recorded["epoch"] == 2:
        for row in stale_rows(generation, entry, len(source)):
            size = int(batch.lengths[row])
            old = clips.masked_item(int(batch.indices[row]), 1)
            source[row, :size], targets[row, :size] = (torch.from_numpy(part) for part in old)
    assert torch.equal(source, first["src_tokens"]), (json.dumps(entry["options"]), recorded["epoch"])
    assert torch.equal(targets, first["target"])

"""Programs over a corpus that several processes share: what they write is what one process writes, byte for byte.

Ranks of torchrun and Slurm are processes with their variables; runs by hand have `--num-shards` and `--shard-id`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import computed, run_ranks, slurm_rank, torchrun_rank

from w2v.checkpoint.file import save_checkpoint
from w2v.config import build_config, to_plain
from w2v.data.dictionary import Dictionary
from w2v.inference.encode import ClipEncoder
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v_cli import featurize, infer, tokenize

soundfile = pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = [4000, 9000, 2500, 6000, 300, 7000, 2500, 5000, 8000, 3000]
SYMBOLS = ["|", "A", "B", "C"]
CONVS = "[(8, 10, 5), (8, 8, 4), (8, 4, 2), (8, 4, 2), (8, 4, 2)]"


@dataclass(frozen=True)
class Program:
    """A program over clips.

    Attributes:
        main: runs it here.
        module: runs it in a process.
        flags: what it is given, save where results go.
    """

    main: Callable[[list[str]], int]
    module: str
    flags: list[str]

    def here(self, folder: Path, *flags: str) -> int:
        return self.main([*self.flags, *into(self.module, folder), *flags])

    def ranks(self, folder: Path, size: int, **how: Any) -> list[tuple[int, str]]:
        """Run it in as many ranks; return their exit codes and what they said."""
        return run_ranks(self.module, [*self.flags, *into(self.module, folder)], size, folder.parent, **how)


def into(module: str, folder: Path) -> list[str]:
    flag = "--results-path" if module.endswith("infer") else "--output-dir" if "tokenize" in module else "--output"
    return [flag, str(folder)]


@pytest.fixture(autouse=True)
def _as_in_a_rank() -> Iterator[None]:
    """One thread, as the ranks have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Program]:
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for row, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / "audio" / f"{row}.wav", 0.1 * rng.normal(size=length), 16000, subtype="FLOAT")
    lines = [str(tmp_path / "audio"), *(f"{row}.wav\t{length}" for row, length in enumerate(LENGTHS))]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.ltr").write_text("A B |\n" * len(LENGTHS))
    save(tmp_path / "ctc.pt", ctc_model(), "wav2vec_ctc", {"dictionary": Dictionary.from_symbols(SYMBOLS).symbols})
    vq = build_config(Wav2VecConfig, {"conv_feature_layers": CONVS, "conv_aggregator_layers": "[(8, 2, 1)]",
                                      "vq_type": "gumbel", "vq_vars": 6}, "test")  # fmt: skip
    torch.manual_seed(0)
    save(tmp_path / "vq.pt", Wav2VecModel(vq), "wav2vec", {})
    (tmp_path / "audio" / "6.wav").write_bytes(b"no audio")
    manifest, vq_model = str(tmp_path / "test.tsv"), str(tmp_path / "vq.pt")
    return {
        "infer": Program(
            infer.main, "w2v_cli.infer",
            [str(tmp_path), "--path", f"{tmp_path}/ctc.pt", "--batch-size", "2", "--ctm", "--trn", "--cpu"],
        ),
        "tokenize": Program(
            tokenize.main, "w2v_cli.tokenize",
            ["--data-dir", str(tmp_path), "--checkpoint", vq_model, "--splits", "test", "--max-tokens", "16000",
             "--labels", f"{tmp_path}/test.ltr", "--cpu"],
        ),
        "featurize": Program(
            featurize.main, "w2v_cli.featurize",
            ["-i", manifest, "--model", vq_model, "--format", "npy", "--max-tokens", "16000", "--cpu"],
        ),
    }  # fmt: skip


def ctc_model() -> Wav2VecCtc:
    torch.manual_seed(3)
    encoder = Wav2Vec2EncoderConfig(
        encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos=8,
        conv_pos_groups=4, conv_feature_layers=((8, 10, 5), (8, 3, 4), (8, 3, 4)), extractor_mode="layer_norm",
    )  # fmt: skip
    model = Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=4 + len(SYMBOLS), pretrained_config=encoder)
    torch.nn.init.normal_(model.w2v_encoder.proj.weight, std=1.0)
    return model


def save(path: Path, model: Any, name: str, task: dict[str, Any]) -> None:
    config = {
        "common": {}, "task": {"_name": "audio_pretraining", "data": "gone", "labels": "ltr" if task else None},
        "model": {"_name": name, **to_plain(model.config)}, "criterion": {"_name": "ctc"},
    }  # fmt: skip
    save_checkpoint(path, {"config": config, "model": model.state_dict(), "task": task})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("name", "code"), [("infer", 1), ("tokenize", 2)])
def test_ranks_write_what_one_process_writes(
    name: str, code: int, programs: dict[str, Program], tmp_path: Path
) -> None:
    program = programs[name]
    assert program.here(tmp_path / "one") == code
    one = contents(tmp_path / "one")
    assert one
    for size in (2, 3):
        ended = program.ranks(tmp_path / "out", size, slurm=size == 2)
        # What went wrong is told by the first rank.
        assert [found for found, _ in ended] == [code] + [0] * (size - 1), ended
        assert contents(tmp_path / "out") == one
        assert computed(tmp_path) == len(LENGTHS) - 1  # none twice; one cannot be read
        assert ["WER" in text for _, text in ended] == [name == "infer"] + [False] * (size - 1)


@pytest.mark.parametrize(("name", "code"), [("infer", 1), ("tokenize", 2)])
def test_a_run_that_lost_a_rank_resumes(name: str, code: int, programs: dict[str, Program], tmp_path: Path) -> None:
    program = programs[name]
    program.here(tmp_path / "whole")
    ended = program.ranks(tmp_path / "out", 3, kill=1)
    assert ended[1][0] == -9
    assert all("rank 1" in text and "is gone" in text for _, text in (ended[0], ended[2])), ended
    done = {line.split(b"\t")[0] for part in contents(tmp_path / "out").values() for line in part.splitlines()}
    assert 0 < len(done) < len(LENGTHS)
    computed(tmp_path)
    # With another number of ranks: what is done is known by clip.
    assert program.ranks(tmp_path / "out", 2)[0][0] == code
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert computed(tmp_path) <= len(LENGTHS) - len(done)


def test_ranks_that_write_files_of_their_own_need_no_other(
    programs: dict[str, Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs["featurize"]
    program.here(tmp_path / "one")
    one = contents(tmp_path / "one")
    assert len(one) == 1 + len(LENGTHS) - 2  # how they were made; one clip is too short and one cannot be read
    for size, slurm in ((2, True), (3, False)):
        folder = tmp_path / str(size)
        for rank in reversed(range(size)):
            with monkeypatch.context() as variables:
                for name, value in (slurm_rank if slurm else torchrun_rank)(rank, size, 1).items():
                    variables.setenv(name, value)
                before = contents(folder)
                program.here(folder)
                part = contents(folder)
                assert len(before) < len(part)
                # A rank that was lost: the next run of it makes what is missing, and leaves the rest alone.
                lost = next(file for file in part if file.endswith(".npy") and file not in before)
                (folder / lost).unlink()
                kept = {
                    file: (folder / file).stat().st_mtime_ns for file in part if file.endswith("y") and file != lost
                }
                program.here(folder)
                assert {file: (folder / file).stat().st_mtime_ns for file in kept} == kept
        assert contents(folder) == one


@pytest.mark.parametrize("name", ["infer", "tokenize", "featurize"])
def test_runs_by_hand_make_the_whole(
    name: str, programs: dict[str, Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs[name]
    if name == "tokenize":
        program.flags[program.flags.index("--max-tokens") + 1] = "0"
    program.here(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    # Each task of Slurm may be such a run: its variables say nothing then.
    for variable, value in slurm_rank(0, 5, 0).items():
        monkeypatch.setenv(variable, value)
    for shard in (2, 0, 1):
        assert program.here(tmp_path / "out", "--num-shards", "3", "--shard-id", str(shard)) in (0, 1, 2)
    found = contents(tmp_path / "out")
    assert {file: found.get(file) for file in whole} == whole
    assert not [file for file in found if file.endswith(".part")]


def test_a_torn_line_counts_for_nothing(
    programs: dict[str, Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run was ended while it wrote; the same command takes what is whole, and no part of other settings."""
    program, out = programs["tokenize"], tmp_path / "out"
    program.here(tmp_path / "whole")
    real, calls = ClipEncoder.encode_clips, []

    def encode_clips(self: ClipEncoder, clips: Any) -> Any:
        calls.append(len(clips))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, clips)

    monkeypatch.setattr(ClipEncoder, "encode_clips", encode_clips)
    assert program.here(out) == 130
    (part,) = out.glob(".test.src.*.part")
    done = part.read_bytes()
    assert len(done.splitlines()) == sum(calls[:2])
    part.write_bytes(done + b'3\t["1-1 2-')
    key = part.name.split(".")[3]
    (out / part.name.replace(key, "0" * len(key))).write_text('0\t["9-9", ""]\n')
    assert program.here(out) == 2
    assert sum(calls[3:]) == len(LENGTHS) - 1 - sum(calls[:2])
    assert contents(out) == contents(tmp_path / "whole")


def test_a_missing_root_folder_is_one_line(programs: dict[str, Program], tmp_path: Path, capfd: Any) -> None:
    shutil.rmtree(tmp_path / "audio")
    assert programs["tokenize"].here(tmp_path / "none") == 2
    assert "root folder" in capfd.readouterr().err

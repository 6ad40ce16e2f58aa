"""Every program over clips gives the same for clips inside of shards as for their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_files import manifest_program
from toy_speech import call

from w2v.data.manifest import read_manifest, write_manifest
from w2v_cli import align, featurize, infer, labels, transcribe

ENDINGS = (".npy", ".tsv", ".txt")


@pytest.fixture(scope="module")
def clips(data, tmp_path_factory):
    """Five clips of digits: as files, and in tar shards, with their labels."""
    from w2v.data.audio import audio_info

    folder = tmp_path_factory.mktemp("digits")
    pack = data / "digits_valid_seen"
    rows = [line.split("\t") for line in (pack / "transcripts.tsv").read_text().splitlines()[1:6]]
    names = [row[0] for row in rows]
    sizes = [audio_info(str(pack / name)).frames for name in names]
    (folder / "files").mkdir()
    write_manifest(folder / "files/valid.tsv", str(pack), names, sizes)
    (folder / "table.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in rows))
    found = call(labels.main, [folder / "files/valid.tsv", "--output-dir", folder / "files", "--output-name", "valid",
                               "--transcripts", folder / "table.tsv", "--dict"])  # fmt: skip
    assert found.code == 0, found.err
    code, _, err = manifest_program(folder / "files/valid.tsv", "--shards", folder / "shards", "--shard-size", "60K")
    assert code == 0, err
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in ENDINGS
    }


def check_labels(clips: Path, folder: Path) -> None:
    """Labels are those of files, their manifest names the same shards, and its list what these are."""
    for ending in ("ltr", "wrd", "conf"):
        files, shards = (folder / kind / f"labels/own.{ending}" for kind in ("files", "shards"))
        assert files.read_bytes() == shards.read_bytes()
    manifest, whole = read_manifest(folder / "shards/labels/own.tsv"), read_manifest(clips / "shards/valid.tsv")
    assert len(manifest) >= 1
    assert manifest.root == whole.root
    assert {manifest.name(row) for row in range(len(manifest))} <= {whole.name(row) for row in range(len(whole))}
    assert {shard: found.size for shard, found in manifest.identities.items()} == {
        path.name: path.stat().st_size for path in (clips / "shards").glob("*.tar") if path.name in manifest.identities
    }
    assert manifest_program(manifest.source, "--check")[0] == 0


def test_infer_and_labels_of_shards(clips, digits_model, tmp_path):
    said = []
    for kind in ("files", "shards"):
        folder = tmp_path / kind
        found = call(infer.main, [clips / kind, "--path", digits_model, "--gen-subset", "valid", "--results-path",
                                  folder, "--w2l-decoder", "viterbi", "--cpu", "--post-process", "letter",
                                  "--write-labels", folder / "labels/own"])  # fmt: skip
        assert found.code == 0, found.err
        said.append({name: text for name, text in outputs(folder).items() if name.startswith("hypo")})
    assert said[0]
    assert said[0] == said[1]
    check_labels(clips, tmp_path)
    found = call(labels.main, [clips / "shards/valid.tsv", "--output-dir", tmp_path, "--output-name", "again",
                               "--transcripts", clips / "table.tsv"])  # fmt: skip
    assert found.code == 0, found.err
    assert (tmp_path / "again.ltr").read_bytes() == (clips / "files/valid.ltr").read_bytes()


def test_featurize_shards(clips, digits_model, tmp_path):
    for kind in ("files", "shards"):
        found = call(featurize.main, ["--model", digits_model, "--input", clips / kind / "valid.tsv", "--output",
                                      tmp_path / kind, "--format", "npy", "--cpu"])  # fmt: skip
        assert found.code == 0, found.err
    made = [outputs(tmp_path / kind) for kind in ("files", "shards")]
    assert len(made[0]) == 5
    assert made[0] == made[1]


@pytest.mark.parametrize("program", ["align", "transcribe"])
def test_recordings_of_shards(clips, digits_model, tmp_path, program):
    for kind in ("files", "shards"):
        main = {"align": align.main, "transcribe": transcribe.main}[program]
        found = call(main, [digits_model, clips / kind / "valid.tsv", "--output-dir", tmp_path / kind,
                            "--output-format", "tsv", "--cpu"])  # fmt: skip
        assert found.code == 0, found.err
    made = [outputs(tmp_path / kind) for kind in ("files", "shards")]
    assert len(made[0]) >= 5
    assert made[0] == made[1]

"""`w2v-manifest`: list the audio files of a folder in train.tsv and valid.tsv.

The same files, the same arguments and, for the same seed, the same split as the original's `wav2vec_manifest.py`;
in addition headers are read in parallel, files that training could not use go to rejects.tsv with a reason, and the
same command resumes a scan that was interrupted. Clips may lie in shards, or be packed into shards; see `shard_listing`
and `shard_writer`.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.config import ArgumentParser, arg, build_config, byte_size, check_range, str_tuple
from w2v.data.audio import LONGEST, audio_blocks, audio_info
from w2v.data.audio_files import list_audio
from w2v.data.audio_time import audio_time
from w2v.data.kaldi import KaldiFolder, find_kaldi, read_kaldi
from w2v.data.manifest import Manifest, is_listable, make_manifest, read_manifest, write_manifest
from w2v.data.size_check import is_untold
from w2v.errors import DataError
from w2v.files import make_folder, write_atomically
from w2v.shards.member import Source, shown
from w2v.shards.store import ShardStore
from w2v_cli.file_pool import file_pool
from w2v_cli.main import run
from w2v_cli.scan_record import ScanRecord
from w2v_cli.shard_check import check_manifest
from w2v_cli.shard_clips import Clips, Found
from w2v_cli.shard_listing import Shards, find_shards, read_shard, split_of, unpack
from w2v_cli.shard_writer import labels_beside, write_shards

PROGRAM = "w2v-manifest"
RECORD = ".w2v-manifest.scan"  # in --dest while a scan lasts
CHUNK = 64  # files per task: small enough for a smooth bar, large enough that sending them costs nothing
HEADER = 4096  # bytes that a file without samples may have
SERIAL = 1000  # below this many files, starting processes takes longer than reading


@dataclass(frozen=True)
class ManifestConfig:
    """Which files are listed, and where."""

    root: str = arg(
        help="folder with audio files, searched with all its folders; hidden ones are left out. With --ext tar, zip or "
        "parquet: folder or address (s3://, gs://) with shards; or names such as https://host/x-{000..009}.tar. With "
        "--shards or --check also a manifest. Without --ext also a data directory of Kaldi",
        positional=True,
    )
    valid_percent: float = arg(0.01, help="share of files that go to valid.tsv, from 0 to 1 (a fraction)")
    dest: str = arg(".", help="folder to write to; made where it is missing")
    ext: tuple[str, ...] | None = arg(
        None,
        help="endings to look for, separated by commas, in any case (default: all kinds of audio)",
        parse=str_tuple,
    )
    seed: int = arg(42, help="seed of the split: one draw per file, in the order in which the folder lists them")
    path_must_contain: str | None = arg(None, help="leave out files whose full path lacks this text")
    sorted: bool = arg(
        False, help="draw in order of the paths, for the same split on every machine; the original does not"
    )
    sample_rate: int = arg(16000, help="reject other sample rates, in Hz; 0: take any")
    resample: bool = arg(
        False, help="take other rates and several channels, counting samples at --sample-rate; train with --resample"
    )
    channel: int | None = arg(
        None, help="take files with several channels, of which training takes this one, from 1; train with --channel"
    )
    min_samples: int = arg(400, help="reject shorter files; 400 samples give one frame of wav2vec 2.0")
    max_sample_size: int = arg(
        250_000, help="say how much is lost where training crops clips to so many samples, as the recipe does"
    )
    probe: bool = arg(False, help="decode every file to the end instead of reading its header only")
    jobs: int | None = arg(None, help="processes that read headers (default: one per core)")
    shards: str | None = arg(
        None, help="pack the clips into tar shards in this folder, with the labels that lie beside a manifest; the "
        "manifest of the shards goes there, too, or to --dest"
    )  # fmt: skip
    shard_size: int = arg(
        1 << 30,
        help="a shard is closed before it becomes larger, in bytes or as 500M, 1G (default: 1G)",
        parse=byte_size,
    )
    shuffle: bool = arg(
        False,
        help="pack the clips in an order drawn by --seed: with --shuffle-shards training joins neighbours in batches",
    )
    check: bool = arg(
        False, help="read every clip of a manifest and compare shards, checksums, lengths and labels; 1 if any is wrong"
    )
    stream_only: bool = arg(False, help="unpack *.tar.gz to --dest first: clips in them cannot be found otherwise")

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "valid_percent")
        check_range(self, 0, math.inf, "sample_rate", "min_samples")
        check_range(self, 1, math.inf, "jobs", "channel", "max_sample_size", "shard_size")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `w2v-manifest`."""
    return run(lambda: _write(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> ManifestConfig:
    parser = ArgumentParser(prog=PROGRAM, description="List the audio files of a folder in train.tsv and valid.tsv.")
    parser.add_config(ManifestConfig, "options")
    return build_config(ManifestConfig, parser.parse(sys.argv[1:] if argv is None else argv), PROGRAM)


def _write(config: ManifestConfig) -> int:
    if config.check:
        return check_manifest(config.root, config.sample_rate, resample=config.resample)
    if config.shards and config.root.endswith((".tsv", ".tsv.gz")):
        return _pack(config, read_manifest(config.root), Path(config.root).name.partition(".")[0])
    shards = find_shards(config.root, config.ext)
    if shards is not None:
        return _list_shards(config, shards)
    kaldi_folder = find_kaldi(config.root) if config.ext is None else None
    kaldi = read_kaldi(kaldi_folder) if kaldi_folder is not None else None
    root = os.path.realpath(config.root) if kaldi is None else _common_folder(kaldi)
    files, left_out = list_files(config, root, kaldi)
    make_folder(config.dest, "--dest")
    draw = random.Random(config.seed).random
    splits: dict[str, list[tuple[str, Found]]] = {"train": [], "valid": []}
    rejects, draws = [], []
    # Of a recording that is cut into segments, only their lengths count.
    longest = LONGEST if kaldi is None or kaldi.segments is None else math.inf
    key = f"{root!r} {config.sample_rate} {config.resample} {config.channel} {config.min_samples} {config.probe}"
    key += f" {longest}"
    record = ScanRecord(os.path.join(config.dest, RECORD), key)
    with record:
        clips = _clips(zip(files, _scan(config, files, record, longest), strict=True), root, config, kaldi)
        for name, found in clips:
            # A rejected file takes its draw with it, so the split of the others does not depend on rejects.
            draws.append(draw())
            split = "train" if draws[-1] > config.valid_percent else "valid"
            if found.reason:
                rejects.append(f"{_one_line(name)}\t{found.reason}\n")
                draws.pop()
            else:
                splits[split].append((name, found))
    record.remove()
    write_atomically(os.path.join(config.dest, "rejects.tsv"), os.fsencode("".join(rejects)))
    if not draws:
        raise DataError(
            f"none of the {len(rejects)} {'files' if kaldi is None else 'clips'} under {root} can be used; "
            f"{os.path.join(config.dest, 'rejects.tsv')} has the reasons, the first: {rejects[0].rstrip()}"
        )
    notes = _fill_valid(config, splits, draws) + _cropping(config, splits["train"]) + left_out
    for split, rows in splits.items():
        names, sizes = [name for name, _ in rows], [found.samples for _, found in rows]
        if config.shards is None:
            write_manifest(os.path.join(config.dest, f"{split}.tsv"), root, names, sizes)
        elif rows:
            _pack(config, make_manifest(root, names, sizes), split)
    parts = [f"{split}.tsv: {len(rows)} files, {_length(rows)}" for split, rows in splits.items()]
    print("\n".join([f"{'; '.join(parts)}; rejects.tsv: {len(rejects)} files", *notes]), flush=True)
    return 0


def _common_folder(kaldi: KaldiFolder) -> str:
    """Return the deepest folder that all recordings of a data directory lie in."""
    return os.path.commonpath([os.path.dirname(path) for path in kaldi.recordings.values()])


def _clips(
    files: Iterable[tuple[str, Found]], root: str, config: ManifestConfig, kaldi: KaldiFolder | None
) -> Iterator[tuple[str, Found]]:
    """Yield name and length of each clip: of files, or of the segments of a data directory."""
    for path, found in files:
        name = os.path.relpath(path, root)
        if kaldi is None or kaldi.segments is None or found.reason:
            yield name, found
            continue
        info = audio_info(path)
        for segment in kaldi.segments.get(path, ()):
            try:
                clip, samples = segment.clip(name, info.frames, info.sample_rate, found.samples)
            except DataError as e:
                yield f"{name} ({segment.name})", Found(reason=_one_line(str(e)))
                continue
            seconds = samples * found.seconds / found.samples
            yield clip, Found(samples, seconds, _too_long(seconds) or _too_short(config, samples))


def _too_short(config: ManifestConfig, samples: int) -> str:
    """Return why a clip of so many samples is rejected; empty where it is not."""
    least = max(config.min_samples, 1)
    return f"{samples} samples, need at least {least}" if samples < least else ""


def _too_long(seconds: float, longest: float = LONGEST) -> str:
    """Return why a clip of so many seconds is rejected; empty where it is not."""
    if seconds <= longest:
        return ""
    return f"{seconds / 3600:.1f} hours, at most {longest / 3600:g} are read; w2v-segment cuts it into clips"


def _pack(config: ManifestConfig, manifest: Manifest, split: str) -> int:
    """Write the clips of a manifest into shards.

    Raises:
        DataError: labels and manifest differ in length, or something cannot be read or written.
    """
    folder = str(config.shards)
    dest = Path(folder if config.dest == "." else config.dest)
    make_folder(folder, "--shards")
    make_folder(dest, "--dest")
    target = dest / f"{split}.tsv"
    if manifest.source and target.exists() and target.samefile(manifest.source):
        raise DataError(f"{target}: is the manifest that is read, and would be overwritten; give another --dest")
    labels: dict[str, list[str]] = {}
    if manifest.source:
        labels = labels_beside(manifest.source)
        for path in sorted(Path(manifest.source).parent.glob("dict.*.txt")):
            write_atomically(dest / path.name, path.read_bytes())
    for kind, lines in labels.items():
        if len(lines) != len(manifest):
            raise DataError(f"{split}.{kind}: {len(lines)} lines, but the manifest lists {len(manifest)} clips")
    if config.shuffle:
        order = list(range(len(manifest)))
        random.Random(config.seed).shuffle(order)
        manifest = manifest.take(order)
        labels = {kind: [lines[row] for row in order] for kind, lines in labels.items()}
    count = write_shards(manifest, labels, Path(folder), dest, split, config.shard_size)
    kinds = "".join(f", {split}.{kind}" for kind in labels)
    print(f"{split}.tsv{kinds}: {len(manifest)} clips in {count} shards in {folder}", flush=True)
    return 0


def _list_shards(config: ManifestConfig, shards: Shards) -> int:
    """Write manifests of the clips in shards, and what is said in them."""
    make_folder(config.dest, "--dest")
    if config.stream_only:
        shards = unpack(shards, Path(config.dest))
    draw = random.Random(config.seed).random
    store = ShardStore(shards.root)
    splits: dict[str, Clips] = {"train": Clips(), "valid": Clips()}
    rejects: list[str] = []
    for name in shards.names:
        named = split_of(name)
        for clip in read_shard(store, name):
            found = Found(reason=clip.reason) if clip.reason or clip.content is None else examine(config, clip.content)
            split = named or ("train" if draw() > config.valid_percent else "valid")
            if not is_listable(clip.place.name()):
                found = Found(reason="its name holds a tab or a line break")
            if found.reason:
                rejects.append(f"{_one_line(clip.place.name())}\t{found.reason}\n")
            else:
                splits.setdefault(split, Clips()).add(clip, found)
        for clips in splits.values():
            clips.close_shard(name, store)
    write_atomically(os.path.join(config.dest, "rejects.tsv"), os.fsencode("".join(rejects)))
    if not any(len(clips.names) for clips in splits.values()):
        first = (rejects or ["there are none"])[0].rstrip()
        raise DataError(f"none of the clips in {shown(shards.root)} can be used: {first}")
    notes = [clips.write(Path(config.dest), split, shards.root) for split, clips in splits.items()]
    print("; ".join([*notes, f"rejects.tsv: {len(rejects)} clips"]), flush=True)
    empty = next((split for split in ("valid", "train") if not splits[split].names), None)
    if empty is not None:
        print(_of_an_empty(config, empty), flush=True)
    return 0


def _of_an_empty(config: ManifestConfig, split: str) -> str:
    """Return what is to be said of a split without clips."""
    if split == "train":
        return f"--valid-percent {config.valid_percent:g} left train.tsv empty: lower it"
    return "valid.tsv is empty: write another set's manifest over it, or train with --disable-validation"


def _fill_valid(config: ManifestConfig, splits: dict[str, list[tuple[str, Found]]], draws: list[float]) -> list[str]:
    """Move a clip to valid.tsv where the draws gave it none; return what is to be said about an empty one."""
    train, valid = splits["train"], splits["valid"]
    if valid:
        return [] if train else [_of_an_empty(config, "train")]
    if config.valid_percent == 0 or len(train) < 2:
        return [_of_an_empty(config, "valid")]
    # The one nearest to being drawn, so that the other clips stay where the original has them.
    place = draws.index(min(draws))
    valid.append(train.pop(place))
    return [f"--valid-percent {config.valid_percent:g} gave valid.tsv no clip of {len(train) + 1}: it has one"]


def _cropping(config: ManifestConfig, rows: list[tuple[str, Found]]) -> list[str]:
    """Return what cropping in pretraining would lose of long clips, if it is worth a line."""
    samples = [found.samples for _, found in rows]
    long = [size for size in samples if size > config.max_sample_size]
    lost = sum(long) - config.max_sample_size * len(long)
    if lost <= 0.01 * sum(samples):
        return []
    rate = sum(samples) / max(sum(found.seconds for _, found in rows), 1e-9)
    return [
        f"{len(long)} clips are longer than --max-sample-size {config.max_sample_size} "
        f"({config.max_sample_size / rate:.1f} s): cropping loses {audio_time(lost / rate)} of "
        f"{audio_time(sum(samples) / rate)} in each epoch; w2v-segment cuts long recordings"
    ]


def list_files(config: ManifestConfig, root: str, kaldi: KaldiFolder | None = None) -> tuple[list[str], list[str]]:
    """Return the files with the extensions asked for, in the order in which the original lists them.

    Of a data directory of Kaldi, they are its recordings. Also returns one line about each kind of file that is left
    out.

    Differs from the original: a link is listed under its own name, not under that of the file it points to, which
    may lie outside of the root; and a link that leads back up is not followed, over and over.

    Raises:
        DataError: there is no such folder, or no such file in it.
    """
    if kaldi is not None:
        files, notes = list(kaldi.recordings.values()), kaldi.notes()
    elif os.path.isdir(root):
        listing = list_audio(root, config.ext)
        files, notes = listing.files, listing.report()
    else:
        raise DataError(f"{config.root} is not a folder" if os.path.exists(root) else f"no folder {config.root}")
    found = len(files)
    if config.path_must_contain:
        files = [path for path in files if config.path_must_contain in os.path.realpath(path)]
        if len(files) < found:
            notes.append(f"left out {found - len(files)} files without {config.path_must_contain!r} in their path")
    if not files:
        wanted = ", ".join(f"*.{ending.lstrip('.')}" for ending in config.ext or ()) or "of audio"
        if found:
            raise DataError(f"none of the {found} files {wanted} under {root} has {config.path_must_contain!r} in it")
        raise DataError(f"no files {wanted} under {root}; {'; '.join(notes) or 'it holds no files'}")
    return sorted(files) if config.sorted else files, notes


def examine(config: ManifestConfig, path: Source, longest: float = LONGEST) -> Found:
    """Find out whether a file of at most `longest` seconds can be used, and how long it is."""
    if not is_listable(str(path)):
        return Found(reason="its name holds a tab or a line break")
    try:
        info = audio_info(path)
        rate = config.sample_rate or info.sample_rate
        samples = info.frames_at(rate)
        if info.sample_rate != rate and not config.resample:
            return Found(reason=f"sample rate {info.sample_rate} Hz, need {rate} Hz; --resample takes it")
        if config.channel is not None and config.channel > info.channels:
            return Found(reason=f"{info.channels} channels, and no channel {config.channel}")
        if info.channels != 1 and not config.resample and config.channel is None:
            return Found(reason=f"{info.channels} channels, need 1; --resample mixes them, --channel takes one")
        if reason := _too_long(info.frames / info.sample_rate, longest):
            return Found(reason=reason)
        if config.probe:
            blocks = audio_blocks(path, rate, resample=config.resample, channel=config.channel)
            samples = sum(map(len, blocks))  # in a memory that does not grow with the file
    except DataError as e:
        return Found(reason=_one_line(str(e).removeprefix(f"{path}: ")))
    if not samples and isinstance(path, str) and is_untold(path):
        return Found(reason="its header tells of 0 samples, and more follow; repair it (sox --ignore-length FILE NEW)")
    if not samples and isinstance(path, str) and os.path.getsize(path) > HEADER:
        return Found(reason=f"0 samples in a file of {os.path.getsize(path)} bytes: it is cut short, or damaged")
    reason = _too_short(config, samples)
    return Found(reason=reason) if reason else Found(samples, samples / rate)


def _scan(config: ManifestConfig, files: list[str], record: ScanRecord, longest: float) -> Iterator[Found]:
    """Yield what is known or was found out about each file, in order; rejected ones are looked at in every scan."""
    known = record.lengths
    if known:
        print(f"{PROGRAM}: resuming a scan that was interrupted, after {len(known)} files", file=sys.stderr)
    answers = _examine(config, [path for path in files if path not in known], longest)
    for path in files:
        if path in known:
            yield Found(*known[path])
            continue
        found = next(answers)
        if not found.reason:
            record.add(path, found.samples, found.seconds)
        yield found


def _examine(config: ManifestConfig, files: list[str], longest: float) -> Iterator[Found]:
    """Yield what was found out about each file, in order, with a bar on a terminal."""
    from tqdm import tqdm

    jobs = config.jobs or os.cpu_count() or 1
    # disable=None: no bar where stderr is not a terminal.
    bar: Any = tqdm(total=len(files), unit=" files", disable=None, leave=False)
    with bar:
        if jobs == 1 or len(files) < SERIAL:
            for path in files:
                yield examine(config, path, longest)
                bar.update()
            return
        # Processes, not threads: a header takes 50 microseconds, most of them under the interpreter's lock.
        with file_pool(jobs, "audio files") as pool:
            for answers in pool.map(_examine_chunk, *zip(*_chunks(config, files, longest))):
                yield from answers
                bar.update(len(answers))


def _examine_chunk(config: ManifestConfig, paths: list[str], longest: float) -> list[Found]:
    return [examine(config, path, longest) for path in paths]


def _chunks(
    config: ManifestConfig, files: list[str], longest: float
) -> Iterator[tuple[ManifestConfig, list[str], float]]:
    for start in range(0, len(files), CHUNK):
        yield config, files[start : start + CHUNK], longest


def _length(rows: list[tuple[str, Found]]) -> str:
    return audio_time(sum(found.seconds for _, found in rows))


def _one_line(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


if __name__ == "__main__":
    sys.exit(main())

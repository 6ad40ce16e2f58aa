"""Mutated files for every reader of files that may come from strangers: each is read, or refused in one line.

    nice python benchmarks/fuzz.py [--inputs 1000000] [--seed 1] [--readers manifest,literal,...] [--results FILE.json]

Whole files are changed at random (bits, bytes, pieces left out, doubled, moved, joined with other files, numbers and
words that readers trip over) and read under watch. A fault is anything but a result or a `W2vError` of one line that
names the file, and the line where the format has lines: another exception, more than a second of CPU, more memory
than `MEGABYTES`, a program, an import, a socket or a written file. A reader runs in a process of its own, so that a
crash of the interpreter is a fault, too; the input is kept. `fuzz.md` holds what was found;
tests/integration/test_fuzz.py runs a few hundred inputs of each kind.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import gzip
import importlib
import importlib.util
import io
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from w2v.errors import W2vError

SECONDS = 1.0
MEGABYTES = 600
LONGEST_MESSAGE = 1500
ROUND = 10_000  # inputs of one process
WHOLE_FILE = re.compile(
    r"lists no |has \d+ lines, but|is empty|is no ARPA file|damaged gzip|names no |first line|no <|KenLM"
)
"""What is wrong with a file as a whole has no line."""
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "socket.", "pty.", "ctypes.", "exec",
             "pickle.find_class", "import", "os.remove", "os.rename", "os.mkdir", "shutil.")  # fmt: skip
TOKENS = [
    b"0", b"-1", b"1e999", b"nan", b"-inf", b"9" * 19, b"9" * 400, b"18446744073709551616", b"0x10", b"1_0", b"\t",
    b" ", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", "\u2028".encode(), "\u00a0".encode(),
    b"\xef\xbb\xbf", b"..", b"/", b"../", b"/etc/passwd", b"|", b"#", b"#fairseq:overwrite", b"<s>", b"<unk>", b"\\",
    b"\\end\\", b"[", b"]", b"(", b")", b"{", b"}", b"*", b" * 1024", b"+", b",", b":", b"'", b'"', b"&a ", b"*a",
    b"!!python/object:os.system ", b"!!int ", b"!!timestamp 2001-99-99", b"---", b"? ", b"- ", b"%", b"true", b"null",
    b"__import__('os').system('x')", b"lambda: 0", b"cos\nsystem\n", b"(S'x'\ntR.", b"\x80\x02", b"\x80\x05", b".",
    b"R", b"b", b"PK\x01\x02", b"PK\x03\x04", struct.pack("<Q", 2**63), struct.pack("<q", -1),
    struct.pack("<I", 2**32 - 1), struct.pack("<H", 65535),
]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A reader, and what it is fed with.

    Attributes:
        seeds: whole files to begin from.
        read: reads a file; its result is let go.
        share: of all inputs.
        has_lines: whether a refusal must name a line.
        suffix: what the file is called.
        tokens: what is put in besides `TOKENS`.
    """

    seeds: Sequence[bytes]
    read: Callable[[str], object]
    share: float
    has_lines: bool = False
    suffix: str = ""
    tokens: Sequence[bytes] = ()


class FaultError(Exception):
    """A reader did what it must not do."""


# ------------------------------------------------------------------------------------------ inputs


def mutated(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return a file that is one to eight changes away from a seed."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        rng.choice(_CHANGES)(rng, content, seeds, tokens)
    return bytes(content[: 1 << 20])


def _place(rng: random.Random, content: bytearray) -> int:
    # Ends, where headers and directories are, as often as all the rest.
    near = min(len(content), 64)
    return rng.choice((rng.randint(0, len(content)), rng.randint(0, near), len(content) - rng.randint(0, near)))


def _span(rng: random.Random, content: bytearray) -> slice:
    start = _place(rng, content)
    return slice(start, start + rng.choice((1, 2, 4, 8, rng.randint(0, 64), rng.randint(0, len(content)))))


def _flip(rng: random.Random, content: bytearray, *_: object) -> None:
    if content:
        content[min(_place(rng, content), len(content) - 1)] ^= 1 << rng.randrange(8)


def _put(rng: random.Random, content: bytearray, *_: object) -> None:
    if content:
        content[min(_place(rng, content), len(content) - 1)] = rng.randrange(256)


def _insert(rng: random.Random, content: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    place = _place(rng, content)
    content[place:place] = rng.choice(tokens)


def _replace(rng: random.Random, content: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    content[_span(rng, content)] = rng.choice(tokens)


def _overwrite(rng: random.Random, content: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    place, token = _place(rng, content), rng.choice(tokens)
    content[place : place + len(token)] = token


def _delete(rng: random.Random, content: bytearray, *_: object) -> None:
    del content[_span(rng, content)]


def _cut(rng: random.Random, content: bytearray, *_: object) -> None:
    del content[_place(rng, content) :]


def _double(rng: random.Random, content: bytearray, *_: object) -> None:
    piece, place = bytes(content[_span(rng, content)]), _place(rng, content)
    content[place:place] = piece * rng.choice((1, 1, 2, 50))


def _swap(rng: random.Random, content: bytearray, *_: object) -> None:
    lines = bytes(content).split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    content[:] = b"\n".join(lines)


def _splice(rng: random.Random, content: bytearray, seeds: Sequence[bytes], *_: object) -> None:
    other = rng.choice(seeds)
    content[_place(rng, content) :] = other[rng.randint(0, len(other)) :]


def _noise(rng: random.Random, content: bytearray, *_: object) -> None:
    place = _place(rng, content)
    content[place:place] = rng.randbytes(rng.choice((1, 4, 16, 100)))


_CHANGES = (_flip, _put, _insert, _insert, _replace, _overwrite, _delete, _cut, _double, _swap, _splice, _noise)


# ------------------------------------------------------------------------------------------ watching

_watched: list[str] = []
_is_watching = False


def _hook(event: str, arguments: Any) -> None:
    if not _is_watching:
        return
    if event == "exec" and sys._getframe(1).f_code.co_filename == typing.__file__:
        return  # annotations of a config
    if event.startswith(FORBIDDEN):
        _watched.append(f"{event} {str(arguments)[:200]}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _watched.append(f"open for writing {str(arguments)[:200]}")


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Notice what no reader may do."""
    global _is_watching
    _watched.clear()
    _is_watching = True
    try:
        yield
    finally:
        _is_watching = False


def _too_slow(*_: object) -> None:
    raise FaultError(f"took more than {SECONDS} s")


def examine(reader: Reader, path: str) -> str:
    """Read a file under watch; return `read` or `refused`.

    Raises:
        FaultError: the reader did what it must not do.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with watching(), contextlib.redirect_stderr(io.StringIO()):
            reader.read(path)
        outcome, message = "read", ""
    except W2vError as e:
        outcome, message = "refused", str(e)
    except FaultError:
        raise
    except BaseException as e:
        raise FaultError(f"{type(e).__name__}: {str(e)[:300]}") from e
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if _watched:
        raise FaultError(f"did {_watched[0]}")
    if outcome == "refused":
        _check_message(reader, path, message)
    return outcome


def _check_message(reader: Reader, path: str, message: str) -> None:
    if not message or "\n" in message or len(message) > LONGEST_MESSAGE:
        raise FaultError(f"refused in {message.count(chr(10)) + 1} lines of {len(message)} characters: {message[:300]}")
    if path not in message:
        raise FaultError(f"does not name the file: {message[:300]}")
    if reader.has_lines and not re.search(re.escape(path) + r":\d+: ", message) and not WHOLE_FILE.search(message):
        raise FaultError(f"names no line: {message[:300]}")


# ------------------------------------------------------------------------------------------ readers


def readers(folder: Path) -> dict[str, Reader]:
    """Return all readers by name; `folder` is for the seeds of binary formats."""
    return {**_text_readers(folder), **_binary_readers(folder)}


def _text_readers(folder: Path) -> dict[str, Reader]:
    import yaml

    from w2v.config import arg, options_of, parse_literal
    from w2v.config.yaml_file import read_config_file
    from w2v.data.dictionary import Dictionary
    from w2v.data.labels import read_labels
    from w2v.data.manifest import read_manifest
    from w2v.functional.conv_spec import conv_layers
    from w2v.lm.arpa import read_arpa, read_arpa_words
    from w2v.lm.lexicon import read_lexicon
    from w2v.lm.ngram_model import NgramModel
    from w2v.lm.vocabulary import read_vocabulary
    from w2v.training.options import REGISTRIES, ROOT_SECTIONS, parse_train_command

    letters = Dictionary.from_symbols(list("|ABCDEFGHIJKLMNOPQRSTUVWXYZ'"))

    @dataclass(frozen=True)
    class Literals:
        anything: Any = arg((), help="x", parse=parse_literal)
        layers: Any = arg((), help="x", parse=conv_layers)

    flags = options_of(Literals)

    def read_literal(path: str) -> object:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
        try:
            return [flag.convert(text) for flag in flags]
        except W2vError as e:
            raise W2vError(f"{path}: {e}") from e  # a flag has no file

    def read_yaml(path: str) -> object:
        return parse_train_command([*command, "--config", path])

    arpa = b"\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-1.5\t<s>\t-0.3\n-1\tONE\t-0.2\n-0.7\t</s>\n-2\t<unk>\n\n"
    arpa += b"\\2-grams:\n-0.1\t<s> ONE\n-0.25\tONE </s>\n\n\\end\\\n"
    # A KenLM binary without its tables: only the words at its end are read.
    kenlm = b"mmap lm http://kheafield.com/code format version 5\n\0".ljust(88, b"\0")
    kenlm += (
        struct.pack("<B3xfi?3xI", 2, 1.5, 2, True, 1) + struct.pack("<2Q", 3, 2) + bytes(99) + b"<unk>\0<s>\0</s>\0"
    )
    lists = [
        b"[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2", b"(2,0.5,0.999995)", b"{'a': [1, 2.5], 'b': 'x'}",
        b'["prob_perplexity","code_perplexity","temp"]', b"0.0005", b"-1e-3, 4", b"[[1, (2, [3])], true, inf]",
    ]  # fmt: skip
    mappings = [b"a: &a [*a, *a]", b"&a {b: *a}", b"<<: *x", b"? [a]\n: b", b"!!set {a}", b"1: 2", b"  "]
    known = [*ROOT_SECTIONS, *REGISTRIES]
    command = ["/data", "--arch", "wav2vec2", "--criterion", "wav2vec"]
    plain = parse_train_command(command).config.to_plain()
    del plain["common"]["user_dir"]  # a plugin is code, wherever it is named
    config = yaml.safe_dump(plain, sort_keys=False).encode()
    return {
        "literal": Reader(
            lists, read_literal, 0.22, tokens=[b"[[]] * 1024", b"-", b"not ", b"...", b"f'{1}'", b"b''", b"1j"]),
        "manifest": Reader(
            [b"/root\na/b.flac\t16000\nc d.wav\t320\n\xc3\xa9.ogg\t400\n", b"/r\r\na.wav\t12\r\nb\t7", b"/\nx\t0\n"],
            read_manifest, 0.16, has_lines=True),
        "labels": Reader(
            [b"A B | C |\nH E | Y |\nX |\n", b"A\r\nB\r\nC"],
            lambda path: read_labels(path, 3, letters), 0.10, has_lines=True),
        "dictionary": Reader(
            [b"| 94802\nE 51860\nT 38431\n", b"a b 1\n# 2\n<s> 3 #fairseq:overwrite\n"],
            Dictionary.from_file, 0.12, has_lines=True),
        "lexicon": Reader(
            [b"ONE\tO N E |\nTWO T W O |\nTWO\tT O O |\n", b"A A |\n\nI'M I ' M |\n"],
            lambda path: read_lexicon(path, letters.symbols), 0.10, has_lines=True),
        "arpa": Reader(
            [arpa], lambda path: (read_arpa_words(path), NgramModel(path, read_arpa(path))), 0.07, has_lines=True,
            tokens=[b"ngram 3=1\n", b"\\3-grams:\n", b"\\1-grams:", b"-1.5\tTWO\n"]),
        "vocabulary": Reader(
            [kenlm], lambda path: read_vocabulary(path, "--lm-model"), 0.02, suffix=".bin", tokens=[b"<unk>\0"]),
        "arpa.gz": Reader([gzip.compress(arpa, mtime=0)], lambda path: read_arpa(path), 0.02, has_lines=True),
        "yaml": Reader(
            [config], read_yaml, 0.01, tokens=mappings),
        "yaml sections": Reader(
            [config[:400], b"task: {_name: audio_pretraining, data: x}\nmodel: {_name: wav2vec2, dropout: 0.1}\n"],
            lambda path: read_config_file(path, known), 0.02, tokens=mappings),
    }  # fmt: skip


def _binary_readers(folder: Path) -> dict[str, Reader]:
    import torch

    from w2v.checkpoint.torch_file import read_torch_file
    from w2v.convert import read_model_file
    from w2v.convert.safetensors_file import write_safetensors
    from w2v.data.audio import read_audio
    from w2v.inference.emission_file import EmissionFile, EmissionInfo, EmissionWriter
    from w2v.inference.feature_file import read_features, write_features

    state = {"w": torch.arange(6.0).view(2, 3), "b": torch.zeros(3, dtype=torch.float16), "n": 3, "x": [1.5, "t", None]}
    config = {"model": {"_name": "wav2vec2"}, "task": {"_name": "audio_pretraining"}}
    checkpoint = {"format_version": 1, "config": config,
                  "model": {"mask_emb": torch.zeros(4)}, "trainer": {"num_updates": 3}, "task": {}}  # fmt: skip
    archives = []
    for number, content in enumerate((state, checkpoint)):
        for is_zip in (True, False):
            torch.save(content, folder / f"{number}.pt", _use_new_zipfile_serialization=is_zip)
            archives.append((folder / f"{number}.pt").read_bytes())
    archives += _fairseq(folder)
    write_safetensors(folder / "x.safetensors", {"w": torch.arange(6.0)}, {"w2v": json.dumps(
        {"config": config, "symbols": None, "num_updates": 1})})  # fmt: skip
    info = EmissionInfo("m.pt", ["<s>", "<pad>", "</s>", "<unk>", "A"], "letter", "ltr", 16000, 320, 40.0)
    with EmissionWriter(folder / "e.safetensors", info, ["a.wav"]) as writer:
        writer.add("a.wav", 640, torch.zeros(2, 5))
    for kind in ("npy", "safetensors"):
        write_features(folder / f"f.{kind}", torch.zeros(3, 4).numpy(), 50.0, kind)
    seeds = {
        name: (folder / name).read_bytes() for name in ("x.safetensors", "e.safetensors", "f.npy", "f.safetensors")
    }

    def read_emissions(path: str) -> object:
        file = EmissionFile(path)
        return [file.log_probs(name) for name in file.names]

    opcodes = [bytes([code]) for code in range(256)]
    return {
        "checkpoint": Reader(archives, lambda path: read_torch_file(Path(path)), 0.08, suffix=".pt", tokens=opcodes),
        "model": Reader(archives[2:], read_model_file, 0.03, suffix=".pt", tokens=opcodes),
        "safetensors": Reader([seeds["x.safetensors"]], read_model_file, 0.02, suffix=".safetensors"),
        "emissions": Reader(
            [seeds["e.safetensors"]], read_emissions, 0.01, suffix=".safetensors"),
        "features npy": Reader([seeds["f.npy"]], lambda path: read_features(Path(path)), 0.01, suffix=".npy"),
        "features": Reader(
            [seeds["f.safetensors"]], lambda path: read_features(Path(path)), 0.01, suffix=".safetensors"),
        "audio": Reader(_audio(folder), lambda path: read_audio(path, 16000, resample=True), 0.02, suffix=".wav"),
    }  # fmt: skip


def _fairseq(folder: Path) -> list[bytes]:
    """Return a file of the original, with classes of other programs in it."""
    from w2v.config import build_config, to_plain
    from w2v.convert import ModelFile
    from w2v.convert.fairseq_file import write_fairseq
    from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel

    options = {"conv_feature_layers": "[(2, 4, 2)]", "conv_aggregator_layers": "[(2, 2, 1)]", "prediction_steps": 1}
    model = Wav2VecModel(build_config(Wav2VecConfig, options, "fuzz"))
    sections = {"model": {"_name": "wav2vec", **to_plain(model.config)}, "task": {"_name": "audio_pretraining"}}
    path = folder / "fairseq.pt"
    write_fairseq(path, ModelFile(str(path), "w2v", sections, model.state_dict(), None, "", 3))
    return [path.read_bytes()]


def _audio(folder: Path) -> list[bytes]:
    import numpy as np
    import soundfile

    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 500)
    contents = []
    for kind in ("WAV", "FLAC", "OGG", "AIFF", "AU", "W64", "CAF", "NIST", "MP3"):
        soundfile.write(folder / "audio", samples, 44100 if kind == "AIFF" else 16000, format=kind)
        contents.append((folder / "audio").read_bytes())
    return contents


# ------------------------------------------------------------------------------------------ running


def fuzz(name: str, reader: Reader, inputs: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Feed a reader; return how often it read and refused, and what it did wrong."""
    rng = random.Random(f"{name} {seed}")
    tokens = [*TOKENS, *reader.tokens]
    path = folder / f"input{reader.suffix}"
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for content in reader.seeds:  # and so every module that is needed is there
        path.write_bytes(content)
        with contextlib.suppress(W2vError), contextlib.redirect_stderr(io.StringIO()):
            reader.read(str(path))
    for number in range(inputs):
        path.write_bytes(mutated(rng, reader.seeds, tokens))
        try:
            counts[examine(reader, str(path))] += 1
        except FaultError as e:
            counts["faults"] += 1
            faults.append(f"{name}, input {number} of seed {seed}: {e}")
            path.rename(folder / f"fault-{name.replace(' ', '-')}-{seed}-{number}{reader.suffix}")
    return counts, faults


def in_a_process(name: str, inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Call `fuzz` in a process of its own, with limits of memory and time."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        prepare()
        begin = time.process_time()
        counts, faults = fuzz(name, readers(folder)[name], inputs, seed, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        text = json.dumps({**counts, "messages": faults, "cpu": time.process_time() - begin, "peak": peak})
        result.write_text(text)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        kept = folder / f"crash-{name.replace(' ', '-')}-{seed}"
        for path in folder.glob("input*"):
            path.rename(kept)
        return {"faults": 1, "messages": [f"{name}, seed {seed}: the process ended with {status}; its input is {kept}"]}
    answer: dict[str, Any] = json.loads(result.read_text())
    return answer


def warm_up() -> None:
    """Import what readers import late, and rightly."""
    of_json = ("utf-8-sig", "utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le")
    for encoding in (*of_json, "unicode-escape", "raw-unicode-escape"):
        codecs.lookup(encoding)
    importlib.import_module("unicodedata")  # for "\\N{...}" in a literal
    if importlib.util.find_spec("av"):
        for name in ("av", "av.subtitles.stream", "av.subtitles.codeccontext", "av.video.stream"):
            importlib.import_module(name)  # PyAV imports a kind of stream when a file holds one


def prepare() -> None:
    """Set limits and watches for this process."""
    warm_up()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, _too_slow)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEGABYTES << 20),) * 2)
    sys.addaudithook(_hook)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", default="")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/w2v-fuzz"))
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = readers(options.folder)
    if options.readers:
        chosen = {name: chosen[name] for name in options.readers.split(",")}
    total = sum(reader.share for reader in chosen.values())
    table: dict[str, Counter[str]] = {}
    for name, reader in chosen.items():
        left, number = round(options.inputs * reader.share / total), 0
        counts: Counter[str] = Counter()
        while left > 0:
            answer = in_a_process(name, min(left, ROUND), options.seed * 1000 + number, options.folder)
            for message in answer.pop("messages"):
                print(message, flush=True)
            counts["peak"] = max(counts["peak"], answer.pop("peak", 0))
            counts.update(answer)
            left, number = left - ROUND, number + 1
        table[name] = counts
        print(name, dict(counts), flush=True)
        if options.results:
            options.results.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

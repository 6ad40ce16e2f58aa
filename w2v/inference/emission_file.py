"""Emissions on the disk: what an acoustic model made of the clips of a manifest, so that decoding needs no model.

One `.safetensors` file that any reader of that format opens: `log_probs` (frames of all clips, V) float32, `frames` and
`samples` (N,) int64 per clip, `names` (bytes) uint8, the clips' paths with a newline after each. Its metadata are the
fields of `EmissionInfo`. Frames are mapped from the disk, and the file appears whole or not at all. It is read by the
package of that name, and written here: that package writes tensors which are all in memory, and the emissions of a
thousand hours take 23 GB.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.data.manifest import Manifest
from w2v.errors import DataError
from w2v.files import atomic_path
from w2v.types import Emissions

FORMAT = "w2v-emissions"
ROOM = 10**17  # stands for numbers that are not known yet when the header gets its place
DTYPES = {"F32": "<f4", "I64": "<i8", "U8": "u1"}


@dataclass(frozen=True)
class EmissionInfo:
    """What all emissions of a run have in common.

    Attributes:
        model: name of the checkpoint; result files are called after it.
        symbols: what the columns stand for, the four special symbols first.
        post_process: how symbols become words.
        labels: extension of the label files that the model was trained with.
        sample_rate: samples per second.
        stride: samples from one frame to the next; 0: not known.
        offset: samples before the first frame, where a frame stands for the `stride` samples around its centre.
    """

    model: str
    symbols: list[str]
    post_process: str
    labels: str
    sample_rate: int
    stride: int
    offset: float

    def seconds(self, frame: int) -> float:
        """Return when a frame begins."""
        return (self.offset + frame * self.stride) / self.sample_rate


class EmissionWriter:
    """Writes emissions, in any order of the clips; a context, which makes the file if it ends without an error.

    Args:
        path: the file; its folder is made where it is missing.
        info: what goes into the metadata.
        names: paths of the clips that are going to be added.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: str | Path, info: EmissionInfo, names: Sequence[str]) -> None:
        self.path = Path(path)
        self.info = info
        self._names: list[str] = []
        self._frames: list[int] = []
        self._samples: list[int] = []
        self._target = contextlib.ExitStack()
        self._file: BinaryIO
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._target.enter_context(atomic_path(self.path)), "wb")  # noqa: SIM115 - closed by the context
            # Sizes are known at the end; the header has room for the largest.
            self._room = len(self._header(ROOM, len(names), ROOM))
            self._file.write(b"\0" * (8 + self._room))
        except OSError as e:
            raise self._error(e) from e

    def add(self, name: str, num_samples: int, log_probs: Tensor) -> None:
        """Write the (T, V) frames of one clip.

        Raises:
            DataError: the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(log_probs.numpy(), dtype="<f4").data)
        except OSError as e:
            raise self._error(e) from e
        self._names.append(name)
        self._frames.append(len(log_probs))
        self._samples.append(num_samples)

    def _header(self, num_frames: int, num_clips: int, num_bytes: int) -> bytes:
        shapes = {
            "log_probs": ("F32", [num_frames, len(self.info.symbols)]),
            "frames": ("I64", [num_clips]),
            "samples": ("I64", [num_clips]),
            "names": ("U8", [num_bytes]),
        }
        header: dict[str, Any] = {
            "__metadata__": {"format": FORMAT, **{name: json.dumps(value) for name, value in asdict(self.info).items()}}
        }
        start = 0
        for name, (dtype, shape) in shapes.items():
            end = start + int(np.prod([np.dtype(DTYPES[dtype]).itemsize, *shape], dtype=object))
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        return text + b" " * (-len(text) % 8)

    def _finish(self) -> None:
        names = "".join(f"{name}\n" for name in self._names).encode("utf-8", "surrogateescape")
        header = self._header(sum(self._frames), len(self._names), len(names))
        self._file.write(np.array(self._frames + self._samples, dtype="<i8").data)
        self._file.write(names)
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))

    def _error(self, error: OSError) -> DataError:
        return DataError(f"cannot write the emissions {self.path}: {error.strerror or error}")

    def __enter__(self) -> EmissionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                if kind is None:
                    self._finish()
                self._file.close()
            except OSError as e:
                self._target.__exit__(type(e), e, e.__traceback__)
                raise
            self._target.__exit__(kind, error, trace)
        except OSError as e:
            raise self._error(e) from e


class EmissionFile:
    """Emissions of a file.

    Args:
        path: what `EmissionWriter` wrote.

    Attributes:
        path: the file.
        info: what all its emissions have in common.

    Raises:
        DataError: there is no such file, or it is another one.
    """

    def __init__(self, path: str | Path) -> None:
        from safetensors import SafetensorError

        self.path = str(path)
        try:
            self._read()
        except OSError as e:
            raise DataError(f"cannot read the emissions {self.path}: {e.strerror or e}") from e
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            hint = ""
            if self.path.endswith(".npy"):
                hint = "; the original's .npy files are pickled, which lets a file run code: write it anew"
            raise DataError(f"{self.path}: holds no emissions that w2v-infer --dump-emissions wrote{hint}") from e

    def _read(self) -> None:
        from safetensors import safe_open

        with safe_open(self.path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata["format"] != FORMAT:
                raise ValueError(metadata["format"])
            self.info = _checked(
                EmissionInfo(**{item.name: json.loads(metadata[item.name]) for item in fields(EmissionInfo)})
            )
            frames, samples, names = (file.get_tensor(name) for name in ("frames", "samples", "names"))
            # Frames stay on the disk until a clip is asked for.
            self._log_probs = file.get_slice("log_probs")
        self._samples: list[int] = samples.tolist()
        self._starts = np.concatenate([[0], np.cumsum(frames)]).tolist()
        self.names = names.tobytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
        is_whole = len(self.names) == len(frames) == len(samples)
        wanted = [self._starts[-1], len(self.info.symbols)]
        if not is_whole or (len(frames) and frames.min() < 0) or self._log_probs.get_shape() != wanted:
            raise ValueError("sizes do not agree")
        if [self._log_probs.get_dtype(), frames.dtype, samples.dtype, names.dtype] != ["F32", "i8", "i8", "u1"]:
            raise ValueError("other number formats")
        self._places = {name: place for place, name in enumerate(self.names)}

    def num_samples(self, name: str) -> int:
        """Return the samples of a clip."""
        return self._samples[self._places[name]]

    def log_probs(self, name: str) -> Tensor:
        """Return the (T, V) frames of a clip, copied from the disk."""
        place = self._places[name]
        start, stop = self._starts[place : place + 2]
        if start == stop:  # safetensors cuts no empty slice
            return torch.zeros(0, len(self.info.symbols))
        return torch.from_numpy(self._log_probs[start:stop])

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, manifest: Manifest, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[Emissions]:
        """Yield the emissions of batches of clips.

        Args:
            manifest: the clips.
            batches: their lines in the manifest, from 0.

        Raises:
            DataError: the file lacks a clip; all are looked for before the first batch comes.
        """
        for row in (int(row) for batch in batches for row in batch):
            if manifest.title(row) not in self:
                raise DataError(f"{self.path}: has no emissions of {manifest.title(row)} ({manifest.line(row)})")
        for batch in batches:
            names = [manifest.title(int(row)) for row in batch]
            clips = [self.log_probs(name) for name in names]
            yield Emissions(
                rows=batch.tolist(),
                num_samples=[self.num_samples(name) for name in names],
                log_probs=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
                lengths=torch.tensor([len(clip) for clip in clips]),
            )


def merge_emissions(parts: Sequence[Path], target: Path, names: Sequence[str]) -> None:
    """Join the files of several processes into one, in the order of `names`, and remove them.

    Raises:
        DataError: a file cannot be read or written.
    """
    files = [EmissionFile(part) for part in parts]
    where = {name: file for file in files for name in file.names}
    with EmissionWriter(target, files[0].info, names) as writer:
        for name in names:
            writer.add(name, where[name].num_samples(name), where[name].log_probs(name))
    for part in parts:
        part.unlink()


def _checked(info: EmissionInfo) -> EmissionInfo:
    is_text = all(isinstance(text, str) for text in (info.model, info.post_process, info.labels, *info.symbols))
    if not (is_text and type(info.sample_rate) is int and info.sample_rate > 0 and type(info.stride) is int):
        raise ValueError(info)
    return info

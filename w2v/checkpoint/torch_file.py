"""Files of `torch.save`, of today and of before torch 1.6, opened without running what they hold.

Both formats are read here: an archive of stored (never compressed) records, which is mapped into memory, so that
weights nobody asks for are never read; and the older row of pickles with raw storages behind. The pickles go through
`unpickle`, whose first lines say why torch's own reader is not used. TorchScript archives, tar files of torch 0.1 and
compressed archives are refused by name.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from w2v.checkpoint.unpickle import StorageKey, Unpickler, UnsafePickleError
from w2v.errors import CheckpointError
from w2v.files.pointer import refuse_pointer

MAX_RECORDS = 100_000
MAX_PICKLE = 64 << 20
VERIFIED_AT_ONCE = 16 << 20  # bytes
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
OTHER_KINDS = {
    b"<!doctype": "a web page: the address is that of a page, or asks for a login", b"<html": "a web page",
    b"\x89hdf": "an HDF5 file, as Keras writes them", b"gguf": "a GGUF file", b"\x1f\x8b": "packed by gzip",
    b"riff": "a recording", b"flac": "a recording", b"{": "JSON",
}  # fmt: skip
"""What other files begin with, in small letters."""
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")


def read_torch_file(path: Path, *, verify: bool = False, mapped: bool = False) -> Any:
    """Read a file of `torch.save`.

    Args:
        path: the file.
        verify: compare every record with its checksum, which `torch.save` keeps in an archive's directory (CRC-32).
            Reads the whole file, at some 2 GB/s where it is in memory. Without, damage that leaves the structure
            whole goes unnoticed, as in `torch.load`. Files of before torch 1.6 have no checksums.
        mapped: leave tensors in the file, where its format allows: what nobody looks at is never read. Writing to such
            a tensor changes a copy; if the file is cut short meanwhile, the program ends with a bus error.

    Returns:
        Dicts, lists, numbers, text, tensors on the CPU, and `unpickle.Record` for objects of foreign classes.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds what only a program could need.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    refuse_pointer(path, CheckpointError)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < 16:
                raise DamageError("it is empty or cut short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content[:4] == b"PK\x03\x04":
                    return _read_archive(path, content, verify=verify, keep_mapped=mapped)
                return _read_legacy(path, content)
    except UnsafePickleError as e:
        raise CheckpointError(f"{path}: cannot be read: it holds {e}; nothing of it was run") from e
    except (DamageError, struct.error) as e:
        raise CheckpointError(f"{path}: cannot be read, it is damaged or no checkpoint ({e})") from e
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror or e}") from e


class DamageError(Exception):
    """The file breaks its format."""


# ------------------------------------------------------------------------------------------ archives


@dataclass(frozen=True)
class _Entry:
    """A record of an archive: its local header, its size, and the CRC-32 of its content."""

    header: int
    size: int
    checksum: int


class _Archive:
    """The records of a zip file by name; contents are found, never unpacked."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.entries: dict[str, _Entry] = {}
        place, number, length = self._directory()
        if number > MAX_RECORDS:
            raise UnsafePickleError(f"{number} records")
        directory = content[place : place + length]
        place = 0
        for _ in range(number):
            place = self._add(directory, place)

    def _directory(self) -> tuple[int, int, int]:
        """Return where the central directory begins, its number of entries and its length."""
        content = self._content
        end = content.rfind(b"PK\x05\x06", max(0, len(content) - 65_557))
        if end < 0:
            raise DamageError("its end is missing")
        _, _, _, _, number, length, place, _ = _END.unpack_from(content, end)
        if place == 0xFFFFFFFF or number == 0xFFFF or length == 0xFFFFFFFF:
            if end < 20 or content[end - 20 : end - 16] != b"PK\x06\x07":
                raise DamageError("its directory is missing")
            (end64,) = struct.unpack_from("<Q", content, end - 12)
            fields = _END64.unpack_from(content, min(end64, len(content)))
            number, length, place = fields[7], fields[8], fields[9]
        if place + length > len(content):
            raise DamageError("its directory lies outside")
        return place, number, length

    def _add(self, directory: bytes, place: int) -> int:
        fields = _CENTRAL.unpack_from(directory, place)
        signature, flags, method = fields[0], fields[3], fields[4]
        checksum, packed, size, name_length, extra_length, comment_length = fields[7:13]
        header = fields[16]
        if signature != b"PK\x01\x02":
            raise DamageError("its directory is damaged")
        name_at = place + _CENTRAL.size
        name = directory[name_at : name_at + name_length].decode("utf-8", "replace")
        extra = directory[name_at + name_length : name_at + name_length + extra_length]
        if 0xFFFFFFFF in (packed, size, header):
            size, packed, header = _large_sizes(extra, size, packed, header)
        if "/code/" in name or name.endswith("/constants.pkl"):
            raise UnsafePickleError("a TorchScript program (torch.jit), not weights")
        if method != 0 or packed != size or flags & 1:
            raise UnsafePickleError(f"the compressed record {name[:80]!r}")
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\x00" in name or ":" in name:
            raise UnsafePickleError(f"a record with the name {name[:80]!r}")
        if name in self.entries:
            raise UnsafePickleError(f"two records with the name {name[:80]!r}")
        self.entries[name] = _Entry(header, size, checksum)
        return int(name_at + name_length + extra_length + comment_length)

    def find(self, name: str) -> tuple[int, int]:
        """Return where the content of a record begins and ends."""
        entry = self.entries.get(name)
        if entry is None:
            raise DamageError(f"it lacks the record {name[:80]!r}")
        fields = _LOCAL.unpack_from(self._content, min(entry.header, len(self._content)))
        start = entry.header + _LOCAL.size + fields[9] + fields[10]
        if fields[0] != b"PK\x03\x04" or start + entry.size > len(self._content):
            raise DamageError(f"its record {name[:80]!r} is damaged")
        return start, start + entry.size

    def verify(self) -> None:
        """Compare every record with its checksum.

        Raises:
            DamageError: one differs.
        """
        if not any(entry.checksum for entry in self.entries.values()):
            return  # written under `torch.serialization.set_crc32_options(False)`
        for name, entry in self.entries.items():
            start, stop = self.find(name)
            found = 0
            for place in range(start, stop, VERIFIED_AT_ONCE):
                found = zlib.crc32(self._content[place : min(place + VERIFIED_AT_ONCE, stop)], found)
            if found != entry.checksum:
                raise DamageError(f"its record {name[:80]!r} does not fit its checksum")

    def read(self, name: str, limit: int) -> bytes:
        start, stop = self.find(name)
        if stop - start > limit:
            raise UnsafePickleError(f"a record {name[:80]!r} of {stop - start} bytes")
        return self._content[start:stop]


def _large_sizes(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Read the sizes of a record in a file of more than 4 GB."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            numbers = list(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            large = [numbers.pop(0) if n == 0xFFFFFFFF and numbers else n for n in (size, packed, header)]
            return large[0], large[1], large[2]
        place += 4 + length
    raise DamageError("a size is missing")


def _read_archive(path: Path, content: mmap.mmap, *, verify: bool, keep_mapped: bool) -> Any:
    archive = _Archive(content)
    if verify:
        archive.verify()
    roots = [name.removesuffix("data.pkl") for name in archive.entries if name.count("/") == 1]
    roots = [root for root in roots if f"{root}data.pkl" in archive.entries]
    if len(set(roots)) != 1:
        raise DamageError("it holds no data.pkl")
    root = roots[0]
    if f"{root}byteorder" in archive.entries and archive.read(f"{root}byteorder", 16) != b"little":
        raise DamageError("its numbers are big-endian")
    # A private mapping: writing to a tensor changes neither the file nor other readers.
    mapped: torch.UntypedStorage | None = None
    found: dict[str, torch.UntypedStorage] = {}

    def find(storage: StorageKey) -> torch.UntypedStorage:
        nonlocal mapped
        if storage.key not in found:
            start, stop = archive.find(f"{root}data/{storage.key}")
            if storage.numel * storage.dtype.itemsize > stop - start:
                raise UnsafePickleError("a storage larger than its record")
            if mapped is None:
                mapped = _mapped(path, content)
            part = mapped[start:stop]
            # Another writer may not have aligned its numbers, which kernels need.
            if not keep_mapped or start % storage.dtype.itemsize:
                part = part.clone()
            found[storage.key] = part
        return found[storage.key]

    return Unpickler(find).load(archive.read(f"{root}data.pkl", MAX_PICKLE))[0]


# ------------------------------------------------------------------------------------------ before torch 1.6


def _read_legacy(path: Path, content: mmap.mmap) -> Any:
    if content[257:262] == b"ustar":
        raise UnsafePickleError("a tar archive: unpack it, and name the checkpoint that is in it")
    if content[:1] != b"\x80":
        start = content[:16].lower()
        kind = next((kind for magic, kind in OTHER_KINDS.items() if start.startswith(magic)), "no file of torch.save")
        raise DamageError(f"it is {kind}")
    magic, place = Unpickler(_no_storage).load(content)
    protocol, place = Unpickler(_no_storage).load(content, place)
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise UnsafePickleError("a bare pickle, not a file of torch.save")
    system, place = Unpickler(_no_storage).load(content, place)
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise DamageError("its numbers are big-endian")
    made: dict[str, tuple[StorageKey, torch.UntypedStorage]] = {}
    total = 0

    def find(storage: StorageKey) -> torch.UntypedStorage:
        nonlocal total
        if storage.key not in made:
            total += storage.numel * storage.dtype.itemsize
            if total > len(content):
                raise UnsafePickleError("storages larger than the file")
            made[storage.key] = (storage, _storage(storage))
        return made[storage.key][1]

    result, place = Unpickler(find).load(content, place)
    keys, place = Unpickler(_no_storage).load(content, place)
    if not isinstance(keys, list):
        raise DamageError("the list of its storages is missing")
    mapped = _mapped(path, content)
    for key in keys:
        (numel,) = struct.unpack_from("<q", content, place)
        place += 8
        if not isinstance(key, str) or key not in made or made[key][0].numel != numel:
            raise DamageError("its storages do not fit their list")
        target = made[key][1]
        if place + target.nbytes() > len(content):
            raise DamageError("it is cut short")
        target.copy_(mapped[place : place + target.nbytes()])
        place += target.nbytes()
    if len(keys) != len(made):
        raise DamageError("it lacks some of its storages")
    return result


def _mapped(path: Path, content: mmap.mmap) -> torch.UntypedStorage:
    return cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, len(content)))


def _storage(storage: StorageKey) -> torch.UntypedStorage:
    return torch.empty(storage.numel, dtype=storage.dtype).untyped_storage()


def _no_storage(storage: StorageKey) -> torch.UntypedStorage:
    raise UnsafePickleError("a tensor where none belongs")

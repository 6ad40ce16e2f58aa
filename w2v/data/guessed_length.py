"""Files of which libsndfile reads a part only: it takes the first stream of several, or guesses a length.

Joined files (`cat a.ogg b.ogg`) play to their end everywhere else, and of an MP3 of variable bit rate without a table
the length is estimated from its first frames. Joined FLAC files are known by their frames, which count themselves.
"""

from __future__ import annotations

import io
import itertools
import mmap
import struct
from typing import BinaryIO

from w2v.data.joined_flac import Content, next_beginning
from w2v.shards.member import Loaded

MP3_BITRATES = {  # kbit/s by (MPEG 1 or not), layer III
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def is_guessed(path: str | Loaded, container: str) -> bool:
    """Whether a file may hold more than libsndfile will read of it.

    Args:
        path: the file.
        container: libsndfile's name for its kind.
    """
    if container not in ("OGG", "MP3", "MPEG", "FLAC"):
        return False
    if not isinstance(path, str):
        return _is_guess(path.content, container)
    # A map, not the content: of most files a few bytes are looked at.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _is_guess(content, container)


def begins_again(file: BinaryIO | io.BytesIO | io.RawIOBase, start: int) -> bool:
    """Whether what an open file begins with, 8 bytes, stands in it once more, from byte `start` on."""
    file.seek(0)
    head = file.read(8) or b""
    file.seek(start)
    rest = b""
    while block := file.read(1 << 20):
        if head in rest + block:
            return True
        rest = (rest + block)[-7:]
    return False


def _is_guess(content: Content, container: str) -> bool:
    if container == "FLAC":
        return _counts_anew(content)
    return _is_chained(content) if container == "OGG" else _is_more_than_its_table(content)


def _is_chained(content: Content) -> bool:
    """Whether an Ogg stream begins after another one has."""
    place, begun = 0, False
    while content[place : place + 4] == b"OggS" and place + 27 <= len(content):
        begins = bool(content[place + 5] & 2)
        if begins and begun:
            return True
        begun = begun or not begins
        count = content[place + 26]
        place += 27 + count + sum(content[place + 27 : place + 27 + count])
    return False


def _counts_anew(content: Content) -> bool:
    """Whether a FLAC file begins again after its beginning.

    A short file is searched for a second header. Of a long one, frames at a few places are looked at, which count
    themselves: joined files show a number that is not above the one before it, also where all are of one length.
    """
    start = content.find(FLAC_START, 0, 65536)  # behind titles that do not belong there
    if start < 0 or len(content) < start + 42:
        return False
    if len(content) < SEARCHED:
        return next_beginning(content, start + 4) >= 0
    samples = int.from_bytes(content[start + 18 : start + 26], "big") & (1 << 36) - 1
    block = int.from_bytes(content[start + 8 : start + 10], "big")
    places = [int(len(content) * share) for share in (0.2, 0.4, 0.5, 0.6, 0.8)]
    frames = [_flac_frame(content, place, block) for place in places]
    frames.append(_last_flac_frame(content, block))
    found = [frame for frame in frames if frame is not None]
    if any(later[0] <= frame[0] for frame, later in itertools.pairwise(found)):
        return True
    return bool(samples and found and found[-1][1] > samples)


SEARCHED = 1 << 20  # bytes of a file that is searched as a whole, in a tenth of a millisecond
FLAC_START = b"fLaC"
FLAC_HEADER = 16  # bytes at most
CRC8 = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value << 1 ^ 7) & 255 if _value & 128 else _value << 1
    CRC8[_byte] = _value
FLAC_BLOCKS = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


def _flac_frame(content: Content, place: int, block: int) -> tuple[int, int] | None:
    """Return the first sample of the first frame from a place on, and the one after its last; None: there is none."""
    end = min(len(content), place + (1 << 18))
    while (place := content.find(b"\xff", place, end)) >= 0:
        found = _flac_header(content[place : place + FLAC_HEADER], block)
        if found is not None:
            return found
        place += 1
    return None


def _last_flac_frame(content: Content, block: int) -> tuple[int, int] | None:
    """Return the same of the last frame."""
    place, begin = len(content), max(0, len(content) - (1 << 18))
    while (place := content.rfind(b"\xff", begin, place)) >= 0:
        found = _flac_header(content[place : place + FLAC_HEADER], block)
        if found is not None:
            return found
    return None


def _flac_header(head: bytes, block: int) -> tuple[int, int] | None:
    """Return the samples at which a frame begins and ends; None: this is no header, by its checksum."""
    if len(head) < 7 or head[1] & 0xFE != 0xF8 or head[3] & 1 or head[2] & 15 == 15:
        return None
    width = 1 if head[4] < 128 else 8 - (head[4] ^ 255).bit_length()  # as in UTF-8
    if not 1 <= width <= 7 or any(byte & 192 != 128 for byte in head[5 : 4 + width]):
        return None
    number = head[4] if width == 1 else head[4] & 127 >> width
    for byte in head[5 : 4 + width]:
        number = number << 6 | byte & 63
    code, rate, at = head[2] >> 4, head[2] & 15, 4 + width
    more = {6: 1, 7: 2}.get(code, 0)
    size = int.from_bytes(head[at : at + more], "big") + 1 if more else FLAC_BLOCKS.get(code, 0)
    at += more + (1 if rate == 12 else 2 if rate in (13, 14) else 0)
    check = 0
    for byte in head[:at]:
        check = CRC8[check ^ byte]
    if at >= len(head) or check != head[at] or not size:
        return None
    start = number if head[1] & 1 else number * block
    return start, start + size


def _is_more_than_its_table(content: Content) -> bool:
    place = _first_frame(content)
    frame = _frame(content, place)
    if frame is None:
        return False
    _, bitrate, side = frame
    table = content.find(b"Xing", place, place + 4 + side + 4) if side else -1
    table = table if table >= 0 else content.find(b"Info", place, place + 4 + side + 4)
    if table >= 0:
        flags = struct.unpack(">I", content[table + 4 : table + 8])[0]
        at = table + 8 + 4 * (flags & 1)
        told = struct.unpack(">I", content[at : at + 4])[0] if flags & 2 else 0
        return told > 0 and _is_frame(content, place + told)
    if content[place + 36 : place + 40] == b"VBRI":
        told = struct.unpack(">I", content[place + 46 : place + 50])[0]
        return _is_frame(content, place + told)
    while (frame := _frame(content, place)) is not None:  # no table: exact if the bit rate is constant
        if frame[1] != bitrate:
            return True
        place += frame[0]
    return False


def _is_frame(content: Content, place: int) -> bool:
    """Whether another stream, or its title, begins here; behind the last frame there are tags of other kinds."""
    return content[place : place + 3] == b"ID3" or _frame(content, place) is not None


def _first_frame(content: Content) -> int:
    place = 0
    while content[place : place + 3] == b"ID3":
        sizes = content[place + 6 : place + 10]
        place += 10 + sum((byte & 127) << shift for byte, shift in zip(sizes, (21, 14, 7, 0)))
    found = place
    while 0 <= found < min(len(content), place + 65536):
        if _frame(content, found) is not None:
            return found
        found = content.find(b"\xff", found + 1)
    return place


def _frame(content: Content, place: int) -> tuple[int, int, int] | None:
    """Return bytes, kbit/s and bytes of side information of a frame of layer III; None where there is none."""
    head = content[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, rate, bits = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or not 0 < bits < 15:
        return None
    is_first, is_mono = version == 3, head[3] >> 6 == 3
    bitrate = MP3_BITRATES[is_first][bits]
    size = (144 if is_first else 72) * bitrate * 1000 // MP3_RATES[version][rate] + (head[2] >> 1 & 1)
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return size, bitrate, side

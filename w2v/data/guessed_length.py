"""MP3 and Ogg files of which libsndfile reads a part only: it takes the first stream of several, or guesses a length.

Joined files (`cat a.ogg b.ogg`) play to their end everywhere else, and of an MP3 of variable bit rate without a table
the length is estimated from its first frames.
"""

from __future__ import annotations

import mmap
import struct

from w2v.shards.member import Member, Source

MP3_BITRATES = {  # kbit/s by (MPEG 1 or not), layer III
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def is_guessed(path: Source, container: str) -> bool:
    """Whether a file may hold more than libsndfile will read of it.

    Args:
        path: the file.
        container: libsndfile's name for its kind.
    """
    if container not in ("OGG", "MP3", "MPEG"):
        return False
    if not isinstance(path, str):
        whole = path.load().content if isinstance(path, Member) else path.content
        return _is_chained(whole) if container == "OGG" else _is_more_than_its_table(whole)
    # A map, not the content: of most files a few bytes are looked at.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _is_chained(content) if container == "OGG" else _is_more_than_its_table(content)


def _is_chained(content: mmap.mmap | bytes) -> bool:
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


def _is_more_than_its_table(content: mmap.mmap | bytes) -> bool:
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


def _is_frame(content: mmap.mmap | bytes, place: int) -> bool:
    """Whether another stream, or its title, begins here; behind the last frame there are tags of other kinds."""
    return content[place : place + 3] == b"ID3" or _frame(content, place) is not None


def _first_frame(content: mmap.mmap | bytes) -> int:
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


def _frame(content: mmap.mmap | bytes, place: int) -> tuple[int, int, int] | None:
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

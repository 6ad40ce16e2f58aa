"""Speakers by path and by table; ids that sclite takes apart again."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2v.data.speakers import speakers_of, utterance_id
from w2v.errors import ConfigError, DataError

NAMES = ["84/121123/84-121123-0000.flac", "george/vs_george_00000.flac", "alone.wav"]


def test_rules_on_paths() -> None:
    assert speakers_of(NAMES, "parent") == ["121123", "george", "."]
    assert speakers_of(NAMES, "prefix:-") == ["84", "vs_george_00000.flac", "alone.wav"]
    assert speakers_of(["a_b_c.wav", "_x.wav"], "prefix:_") == ["a", "."]


@pytest.mark.parametrize("text", ["{0}\tann\n{1}\tbob\n", "path\tseconds\tspeaker\n{0}\t1.0\tann\n{1}\t2.0\tbob\n"])
def test_a_table(tmp_path: Path, text: str) -> None:
    table = tmp_path / "meta.tsv"
    table.write_text(text.format(*NAMES))
    assert speakers_of(NAMES[:2], str(table)) == ["ann", "bob"]
    with pytest.raises(DataError, match=r"meta\.tsv: has no line for alone\.wav"):
        speakers_of(NAMES, str(table))


def test_bad_rules_are_one_line(tmp_path: Path) -> None:
    for rule in ("prefix:", "folder", str(tmp_path)):
        with pytest.raises(ConfigError, match="--speaker-from must be parent, prefix:MARK or a file"):
            speakers_of(NAMES, rule)
    (tmp_path / "bad.tsv").write_text("path\tspeaker\na.wav\n")
    with pytest.raises(DataError, match=r"bad\.tsv:2: must be a path, a tab and a speaker"):
        speakers_of(NAMES, str(tmp_path / "bad.tsv"))


def test_sclite_sees_the_speaker_before_the_first_mark() -> None:
    assert utterance_id("84", "84/121123/84-121123-0000.flac") == "84-84.121123.84-121123-0000"
    assert utterance_id("van_der-x y", "a/b (1).wav") == "van.der.x.y-a.b..1."

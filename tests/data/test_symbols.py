"""Symbols of transcripts: nothing invisible, special or doubled becomes an output of the model unseen."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from w2v.data.symbols import Cleaning, TextCleaner, dictionary_notes, is_invisible, symbol_notes, symbol_table
from w2v.errors import DataError

INVISIBLE = "\u200f\u200b\u00ad\u200c\ufeff\u2060\u202a\u0007\ufe0f\u3164\U000e0041\u034f"


def test_invisible_letters_are_left_out_and_counted():
    cleaner = TextCleaner()
    assert cleaner.clean(f"A{INVISIBLE}B C", "t:1") == "AB C"
    assert cleaner.clean("A\u200fB", "t:2") == "AB"
    assert set(cleaner.letters) == set("AB C")
    assert "left out invisible U+200F RIGHT-TO-LEFT MARK: 2 times, first in t:1" in cleaner.report()
    assert len(cleaner.report()) == len(INVISIBLE)


@pytest.mark.parametrize("letter", list("aé'ñשё漢กा\u0301 \u3000-9"))
def test_visible_letters(letter):
    assert not is_invisible(letter)


def test_special_words_are_left_out():
    cleaner = TextCleaner()
    assert cleaner.clean("<s> ONE <unk> TWO </s>", "t:4") == "ONE TWO"
    assert cleaner.report() == [f"left out '{name}': 1 times, first in t:4" for name in ("<s>", "<unk>", "</s>")]


def test_a_letter_in_two_forms():
    composed, apart = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    for texts in ([composed, apart], [apart, composed]):
        cleaner = TextCleaner()
        for number, text in enumerate(texts, start=1):
            cleaner.clean(text, f"t:{number}")
        with pytest.raises(
            DataError, match=rf"t:{1 + texts.index(apart)}: 'é' is written in two forms, U\+0065 U\+0301"
        ):
            cleaner.check_forms()
    cleaner = TextCleaner(Cleaning(nfc=True))
    assert cleaner.clean(composed, "") == cleaner.clean(apart, "") == composed
    cleaner.check_forms()
    cleaner = TextCleaner()  # one form throughout, if an unusual one
    cleaner.clean(apart, "")
    cleaner.check_forms()
    angstrom = TextCleaner()
    angstrom.clean("\u212b \u00c5", "t:1")  # two code points that are one letter
    with pytest.raises(DataError, match="two forms"):
        angstrom.check_forms()


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"lower": True}, "ÉTÉ İ", "été i\u0307"),
        ({"upper": True}, "straße", "STRASSE"),
        ({"lower": True, "nfc": True}, "E\u0301", "\u00e9"),
        ({"strip_punctuation": True}, "“Well-known,” he said; don’t! 5 € & 'so' |", "Well known he said don't 5 so"),
        ({"strip_punctuation": True}, "¿Qué? هل؟ 好。 a/b_c…", "Qué هل 好 a b c"),
    ],
)
def test_flags(options, text, expected):
    assert TextCleaner(Cleaning(**options)).clean(text, "t:1") == expected


def test_the_word_mark_is_refused():
    with pytest.raises(DataError, match=r"t:3: the text must not hold '\|'"):
        TextCleaner().clean("A|B", "t:3")


def test_table_and_notes():
    counts = Counter({"|": 40, "e": 30, "E": 9, "a": 20, "\u0430": 6, "\u0301": 7, "7": 8, ",": 9, "'": 6, "\u2019": 6})
    counts |= Counter({"\uff41": 6, "q": 1})
    table = symbol_table(counts)
    assert table[0] == "|\t40\tend of a word"
    assert table[1] == "e\t30\tLATIN SMALL LETTER E"
    assert "\u25cc\u0301\t 7\tCOMBINING ACUTE ACCENT" in table
    notes = "\n".join(symbol_notes(counts, TextCleaner()))
    for line in (
        "rare (fewer than 5 times): q", "digits (write numbers as words): 7",
        "punctuation (--strip-punctuation leaves it out): ,",
        "several apostrophes (--strip-punctuation makes them one): ' ’",
        "both cases, which are two symbols (--lower or --upper): E",
        "marks apart from their letters (--nfc joins them): ◌\u0301",
        "one letter in two forms: \uff41", "letters of several alphabets that look alike: \u0430",
    ):  # fmt: skip
        assert line in notes
    assert symbol_notes(Counter({"|": 9, "A": 9, "'": 9}), TextCleaner()) == []


def test_dictionaries_made_elsewhere():
    ordinary = ["|", "E", "e", "é", "ñ", "ё", "漢", "क", "\u093f", "'", "-", "A", "SIL", "ß", "▁", "▁the"]
    assert dictionary_notes(ordinary) == []
    doubled, unseen, foreign = dictionary_notes([*ordinary, "e\u0301", "E\u200b", "<blank>", "[PAD]"])
    assert doubled == (
        "symbols that are written alike, in two forms (w2v-labels --nfc writes one): U+00E9 and U+0065 U+0301"
    )
    assert "U+0045 U+200B" in unseen
    assert foreign.endswith("the blank is <s>, and '|' ends a word: '<blank>', '[PAD]'")


def test_a_run_names_them(tmp_path, caplog):
    from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

    (tmp_path / "dict.ltr.txt").write_text("<space> 9\nA 9\n")
    task = AudioPretrainingTask(AudioPretrainingConfig(data=str(tmp_path), labels="ltr"))
    assert task.dictionary is task.dictionary
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}/dict.ltr.txt: marks of other programs, which are letters here")

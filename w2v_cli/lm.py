"""`w2v-lm`: n-gram models from text, lexicons, and perplexities of any language model.

Estimation is that of KenLM's `lmplz`, whose flags are understood, too; no package on the index brings such a tool.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.config import ArgumentParser, arg, build_config, check_range, float_tuple
from w2v.data.dictionary import Dictionary
from w2v.data.text import WORD_END
from w2v.data.text_blocks import STDIN
from w2v.errors import ConfigError, DataError
from w2v.files import write_atomically
from w2v.lm.arpa import format_arpa, write_arpa
from w2v.lm.kneser_ney import FALLBACK, MAX_ORDER, check_prune, estimate
from w2v.lm.language_model import LanguageModel
from w2v.lm.lexicon import derive_lexicon
from w2v.lm.ngram_counts import count_ngrams, read_texts
from w2v.lm.ngram_model import is_ngram_file, open_ngram_model
from w2v.lm.perplexity import measure_perplexity
from w2v.lm.vocabulary import read_vocabulary
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging

PROGRAM = "w2v-lm"

logger = logging.getLogger(PROGRAM)


def thresholds(value: Any) -> tuple[int, ...]:
    """Parse what follows `--prune`."""
    words = value.split() if isinstance(value, str) else [str(item) for item in value]
    wrong = next((word for word in words if not re.fullmatch(r"[0-9]{1,18}", word)), None)
    if wrong is not None:
        raise ValueError(f"must be whole numbers, got {wrong!r}; texts are named before it")
    return tuple(map(int, words))


def discounts(value: Any) -> tuple[float, ...]:
    """Parse what follows `--discount-fallback`: up to three numbers, the last of which stands for the rest."""
    items = float_tuple(",".join(value) if isinstance(value, list) else value) if value else FALLBACK
    items = (*items, *[items[-1]] * (3 - len(items)))
    if len(items) > 3 or any(not 0 <= item <= count for count, item in enumerate(items, start=1)):
        raise ValueError("needs up to three discounts, of counts 1, 2 and 3+, from 0 to 1, 2 and 3")
    return items


@dataclass(frozen=True)
class LmConfig:
    """What is read, and what is made of it."""

    texts: tuple[str, ...] = arg(
        (STDIN,),
        help="files with a sentence per line, also gzipped; the standard input where none is given",
        parse=tuple,
        positional=True,
        many=True,
        metavar="TEXT",
    )
    text: str | None = arg(None, help="one more text, as for lmplz")
    order: int = arg(4, help="longest n-grams, in words", aliases=("-o",))
    arpa: str = arg(STDIN, help="file to write; gzipped if its name ends in .gz; -: the standard output")
    prune: tuple[int, ...] = arg(
        (),
        help="leave out n-grams that occur at most so often, by their length; the last number holds for all longer "
        "ones: 0 0 1 leaves out what occurs once, from three words on",
        parse=thresholds,
        many=True,
    )
    limit_vocab: str | None = arg(
        None,
        help="file of words; n-grams with others are left out",
        aliases=("--limit-vocab-file", "--limit_vocab_file"),
    )
    discount_fallback: tuple[float, ...] = arg(
        FALLBACK,
        help="discounts of counts 1, 2 and 3+ for orders of which the text has too few n-grams to estimate them",
        aliases=("--discount_fallback",),
        parse=discounts,
        many=True,
    )
    lexicon: str | None = arg(
        None, help="write a lexicon instead, of the words of texts, word lists or n-gram models, spelled by letters"
    )
    dict: str | None = arg(None, help="with --lexicon: the labels' dictionary; words with other letters are left out")
    perplexity: bool = arg(False, help="print the perplexity of the texts under --lm instead")
    lm: str | None = arg(None, help="with --perplexity: ARPA file, KenLM binary, or checkpoint of a language model")
    quiet: bool = arg(False, help="no progress; only warnings")

    def __post_init__(self) -> None:
        check_range(self, 1, MAX_ORDER, "order")
        check_prune(self.prune, self.order)
        if self.perplexity and self.lexicon:
            raise ConfigError("--perplexity and --lexicon are two tasks; give one")
        for flag, value, goes_with, is_given in (
            ("--lm", self.lm, "--perplexity", self.perplexity),
            ("--dict", self.dict, "--lexicon", self.lexicon),
        ):
            if value and not is_given:
                raise ConfigError(f"{flag} goes with {goes_with}")
        if self.perplexity and not self.lm:
            raise ConfigError("--perplexity needs --lm FILE")

    @property
    def inputs(self) -> tuple[str, ...]:
        """All files to read."""
        if self.text is None:
            return self.texts
        return (*(path for path in self.texts if path != STDIN), self.text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `w2v-lm`."""
    return run(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> LmConfig:
    parser = ArgumentParser(
        prog=PROGRAM, description="Estimate an n-gram model, write a lexicon, or measure perplexity."
    )
    parser.add_config(LmConfig, "options")
    return build_config(LmConfig, parser.parse(sys.argv[1:] if argv is None else argv), PROGRAM)


def _run(config: LmConfig) -> int:
    set_up_logging(is_master=not config.quiet, stream=sys.stderr)
    if config.perplexity:
        _print_perplexity(config)
    elif config.lexicon:
        _write_lexicon(config, config.lexicon)
    else:
        _write_model(config)
    return 0


def _write_model(config: LmConfig) -> None:
    folder = Path(config.arpa).parent
    if config.arpa != STDIN and not folder.is_dir():
        raise ConfigError(f"--arpa: no folder {folder}")
    limit = None
    if config.limit_vocab is not None:
        limit = set(_words_of_texts([config.limit_vocab], allow_reserved=True))
    model = estimate(
        count_ngrams(_show(read_texts(config.inputs), config), config.order),
        prune=config.prune,
        limit=limit,
        fallback=config.discount_fallback,
    )
    if config.arpa == STDIN:
        sys.stdout.buffer.writelines(format_arpa(model))
        sys.stdout.flush()
    else:
        write_arpa(config.arpa, model)
        logger.info("wrote %s", config.arpa)


def _write_lexicon(config: LmConfig, path: str) -> None:
    words: dict[str, None] = {}
    for source in config.inputs:
        if source != STDIN and is_ngram_file(source):
            found = read_vocabulary(source, PROGRAM)
            if found is None:
                raise DataError(f"{source} was built without its words; give the .arpa it was built from")
        else:
            found = _words_of_texts([source])
        words.update(dict.fromkeys(found))
    if not words:
        raise DataError(f"{', '.join(config.inputs)}: no words")
    symbols = Dictionary.from_file(config.dict).symbols if config.dict else [*set().union(*words), WORD_END]
    lexicon = derive_lexicon(list(words), symbols, ", ".join(config.inputs))
    lines = (f"{word}\t{' '.join(letters)}\n" for word, spellings in lexicon.items() for letters in spellings)
    write_atomically(path, "".join(lines).encode())


def _print_perplexity(config: LmConfig) -> None:
    model = _open_model(str(config.lm))
    result = measure_perplexity(model, _show(read_texts(config.inputs, allow_reserved=True), config))
    if not result.tokens:
        raise DataError(f"{', '.join(config.inputs)}: no lines")
    print(
        f"Perplexity including OOVs:\t{result.with_unknown:.10g}\n"
        f"Perplexity excluding OOVs:\t{result.without_unknown:.10g}\n"
        f"OOVs:\t{result.unknown}\nTokens:\t{result.tokens}",
        flush=True,
    )


def _open_model(path: str) -> LanguageModel:
    if not Path(path).is_file():
        raise ConfigError(f"--lm: no file {path}")
    if is_ngram_file(path):
        return open_ngram_model(path, "--lm")
    # Not before: it imports torch, which takes seconds.
    from w2v.inference.load import load_language_model

    return load_language_model(path, unknown=None)


def _words_of_texts(paths: Sequence[str], *, allow_reserved: bool = False) -> list[str]:
    words: dict[bytes, None] = {}
    for block in read_texts(paths, allow_reserved=allow_reserved):
        words.update(dict.fromkeys(block.split()))
    return [word.decode() for word in words]


def _show(blocks: Iterator[bytes], config: LmConfig) -> Iterator[bytes]:
    """Pass a text through, with a bar on a terminal."""
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    with tqdm(unit="B", unit_scale=True, disable=config.quiet or None, leave=False) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))


if __name__ == "__main__":
    sys.exit(main())

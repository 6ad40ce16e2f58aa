"""The flags of `w2v-infer` and `w2v-transcribe` that write labels to train on. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from w2v.config import arg, check_range
from w2v.errors import ConfigError

AGREEMENT = 0.9


def model_and_share(value: Any) -> tuple[str, float]:
    """Parse `MODEL` or `MODEL@0.95`."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return str(value[0]), float(value[1])
    model, mark, share = str(value).rpartition("@")
    try:
        number = float(share)
    except ValueError:
        model, mark, number = str(value), "@", AGREEMENT
    if not mark:
        model, number = str(value), AGREEMENT
    if not model or not 0 <= number <= 1:
        raise ValueError(
            f"must be MODEL or MODEL@SHARE with a share from 0 to 1, such as second.pt@0.95, got {value!r}"
        )
    return model, number


@dataclass(frozen=True)
class LabelFlags:
    """Where labels go, which are kept, and the table from which to take thresholds."""

    write_labels: str | None = arg(
        None,
        help="write what was heard as labels to train on: NAME.tsv, NAME.ltr, NAME.wrd and scores, a line per clip",
        metavar="FOLDER/NAME",
    )
    min_confidence: float | None = arg(None, help="leave out clips of less confidence, from 0 to 1, that of --ctm")
    min_score: float | None = arg(None, help="leave out clips of less log-likelihood per symbol (CTC, at most 0)")
    min_agreement: tuple[str, float] | None = arg(
        None,
        help="leave out clips in which a second model hears something else: least share of equal characters "
        f"(default: {AGREEMENT})",
        parse=model_and_share,
        metavar="MODEL2[@SHARE]",
    )
    min_lm_score: float | None = arg(
        None, help="leave out clips of less log-probability per word in --lm-model, in its own logarithm"
    )
    max_loops: int | None = arg(
        None, help="leave out clips in which some four words occur in a row more often than this: 2, say"
    )
    calibrate: str | None = arg(
        None,
        help="print error rate and share kept at ten thresholds of each score, on labelled clips; without "
        "--write-labels that is all",
        metavar="MANIFEST",
    )

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "min_confidence")
        check_range(self, 0, math.inf, "max_loops")
        filters = ("min_confidence", "min_score", "min_agreement", "min_lm_score", "max_loops")
        given = next((name for name in filters if getattr(self, name) is not None), None)
        if given is not None and self.write_labels is None and self.calibrate is None:
            raise ConfigError(f"--{given.replace('_', '-')} filters labels: give --write-labels FOLDER/NAME, too")
        if self.calibrate is not None and not self.calibrate.endswith(".tsv"):
            raise ConfigError(f"--calibrate must be a manifest NAME.tsv with labels beside it, got {self.calibrate!r}")

    @property
    def is_on(self) -> bool:
        """Whether hypotheses are scored."""
        return self.write_labels is not None or self.calibrate is not None

    @property
    def second_model(self) -> str | None:
        """The model that has to agree."""
        return None if self.min_agreement is None else self.min_agreement[0]

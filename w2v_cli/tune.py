"""`w2v-infer tune`: the language model's weight, the word score and the silence score with the fewest errors.

Every point decodes the same emissions, so the acoustic model runs once at most. Half of the points are spread over
the ranges (a Latin hypercube), the rest come in rounds that close in on the best one so far. The points follow from
`--seed` and not from the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2v.config import arg, check_range, float_pair
from w2v.decoders import Decoder, DecoderConfig, build_decoder
from w2v.errors import ConfigError, W2vError
from w2v.inference.emission_file import EmissionFile
from w2v.inference.load import load_language_model
from w2v.rng import numpy_generator
from w2v.scoring import SCORERS, ScorerConfig, build_scorer
from w2v.types import Emissions
from w2v_cli.decode_workers import WorkerPool, default_workers
from w2v_cli.emission_source import EmissionSource, SourceConfig, open_source
from w2v_cli.infer_flags import parse_flags
from w2v_cli.progress import set_up_logging, show_progress

logger = logging.getLogger("w2v-infer")

PER_ROUND = 8
FIRST_SPREAD, SHRINK = 0.1, 0.7  # of a range: deviation of the first round, and from round to round
WEIGHTS = ("lm_weight", "word_score", "sil_weight")
Point = tuple[float, float, float]
Submit = Callable[[Point], "Future[tuple[float, str]]"]


def weight_range(value: Any) -> tuple[float, float]:
    """Parse `LOW,HIGH`."""
    low, high = float_pair(value)
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"must be LOW,HIGH, got {value!r}")
    return low, high


@dataclass(frozen=True)
class TuneConfig(ScorerConfig):
    """Where the best point is looked for."""

    trials: int = arg(64, help="points that are tried")
    lm_weight_range: tuple[float, float] = arg((0.0, 5.0), help="LOW,HIGH of --lm-weight", parse=weight_range)
    word_score_range: tuple[float, float] = arg((-5.0, 5.0), help="LOW,HIGH of --word-score", parse=weight_range)
    sil_weight_range: tuple[float, float] = arg((-1.0, 1.0), help="LOW,HIGH of --sil-weight", parse=weight_range)
    scoring: str = arg("wer", help="what is made best: wer, cer, bleu, chrf or ter")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "trials")
        SCORERS.get(self.scoring)

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The three ranges, in the order of `WEIGHTS`."""
        return [self.lm_weight_range, self.word_score_range, self.sil_weight_range]


@dataclass(frozen=True)
class Trial:
    """A point that was tried.

    Attributes:
        point: the weights.
        cost: what is to be small; inf where it could not be tried.
        summary: the score in words, or why there is none.
    """

    point: Point
    cost: float
    summary: str


def tune(argv: Sequence[str]) -> int:
    """Look for the best weights, and print the table and the flags.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule, or no point could be tried.
    """
    purpose = "Look for the decoder's weights that give the best score."
    config, tuning, decoder_config = parse_flags(
        argv, "w2v-infer tune", purpose, emissions=SourceConfig, tuning=TuneConfig
    )
    set_up_logging(is_master=not config.quiet, stream=sys.stderr)
    if decoder_config.w2l_decoder == "viterbi":
        raise ConfigError("w2v-infer tune: viterbi has no weights; give --w2l-decoder kenlm --lm-model FILE")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "w2v-infer tune runs in one process, which starts others by --decode-workers; leave torchrun out"
        )
    with contextlib.ExitStack() as stack:
        source = cached_source(config, stack)
        config_of_point = partial(weighed, decoder_config)
        # Opened once, here: workers are forked from this process and share it.
        decoder = build_decoder(
            config_of_point(start_of(decoder_config)), source.dictionary, source.info.post_process, load_language_model
        )
        workers = default_workers(decoder_config) if config.decode_workers is None else config.decode_workers

        def try_point(point: Point) -> tuple[float, str]:
            return score_point(source, decoder.reweighed(config_of_point(point)), tuning)

        submit: Submit = partial(_done_here, try_point)
        if workers:
            submit = stack.enter_context(WorkerPool(try_point, workers)).submit
        trials = sorted(search(tuning, start_of(decoder_config), config.seed, submit), key=lambda trial: trial.cost)
    if math.isinf(trials[0].cost):
        raise ConfigError(f"w2v-infer tune: no point could be tried: {trials[0].summary}")
    print("\n".join(table(trials)))
    return 0


def cached_source(config: SourceConfig, stack: contextlib.ExitStack) -> EmissionSource:
    """Return emissions that lie in a file, computed first where there is none yet.

    Raises:
        ConfigError: there are no labels.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
    source = open_source(config, device)
    if source.references is None:
        raise ConfigError(f"w2v-infer tune needs the labels of {config.gen_subset} in {config.data}: see --labels")
    if config.load_emissions is not None:
        return source
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "emissions"
    if config.dump_emissions is not None:
        path = config.shard_file(config.dump_emissions)

    def size_of(batch: Emissions) -> tuple[int, float]:
        return len(batch.rows), source.seconds(batch)

    for _ in show_progress(source.read(path), size_of, source.work, config.progress_style, config.log_interval):
        pass
    return dataclasses.replace(source, reader=EmissionFile(path))


def start_of(config: DecoderConfig) -> Point:
    """Return the point of the flags."""
    return config.lm_weight, config.word_score, config.sil_weight


def weighed(config: DecoderConfig, point: Point) -> DecoderConfig:
    """Return options with the weights of a point, and no more hypotheses than are scored."""
    weights: dict[str, Any] = dict(zip(WEIGHTS, point, strict=True))
    return dataclasses.replace(config, nbest=config.nbest if config.rescore_lm else 1, **weights)


def score_point(source: EmissionSource, decoder: Decoder, tuning: TuneConfig) -> tuple[float, str]:
    """Decode everything; return a cost, and the score in words."""
    scorer = build_scorer(tuning.scoring, tuning)
    for batch in source.read():
        for row, hypotheses in zip(batch.rows, decoder.decode(batch.log_probs, batch.lengths), strict=True):
            _, reference = source.reference(row) or ("", "")
            texts = (reference, " ".join(hypotheses[0].words))
            scorer.add(*(source.scored_text(text, tuning.scoring) for text in texts))
    score = scorer.score()
    return -score if scorer.larger_is_better else score, scorer.summary()


def search(tuning: TuneConfig, start: Point, seed: int, submit: Submit) -> list[Trial]:
    """Try points, from that of the flags on, and return them in the order in which they were chosen.

    Args:
        tuning: how many points, and where.
        start: the first one.
        seed: of the others.
        submit: returns the cost of a point, and its score in words, once it is there.
    """
    rng = numpy_generator(seed, "tune")
    trials: list[Trial] = []
    points = [start, *spread(tuning.ranges, (tuning.trials - 1) // 2, rng)]
    deviation = FIRST_SPREAD
    while points:
        trials += finished(points, [submit(point) for point in points])
        best = min(trials, key=lambda trial: trial.cost)
        logger.info("%d of %d points, best %s at %s", len(trials), tuning.trials, best.summary, flags(best.point))
        points = around(best.point, tuning.ranges, deviation, min(PER_ROUND, tuning.trials - len(trials)), rng)
        deviation *= SHRINK
    return trials


def spread(ranges: Sequence[tuple[float, float]], number: int, rng: np.random.Generator) -> list[Point]:
    """Return points of a Latin hypercube: each of `number` equal parts of each range holds one point."""
    columns = [
        low + (high - low) * (rng.permutation(number) + rng.random(number)) / max(number, 1) for low, high in ranges
    ]
    return [_rounded(row) for row in zip(*columns, strict=True)]


def around(
    center: Point, ranges: Sequence[tuple[float, float]], deviation: float, number: int, rng: np.random.Generator
) -> list[Point]:
    """Return points near `center`, normally distributed, inside the ranges."""
    low, high = np.array(ranges).T
    drawn = np.array(center) + deviation * (high - low) * rng.standard_normal((max(number, 0), len(ranges)))
    return [_rounded(row) for row in np.clip(drawn, low, high)]


def finished(points: Sequence[Point], futures: Sequence[Future[tuple[float, str]]]) -> Iterator[Trial]:
    """Yield the trials of points; one that fails is named, and the others continue."""
    for point, future in zip(points, futures, strict=True):
        try:
            cost, summary = future.result()
        except W2vError as e:
            logger.warning("%s: %s", flags(point), e)
            cost, summary = math.inf, f"failed: {e}"
        yield Trial(point, cost, summary)


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of the table, best point first, and the flags to paste."""
    titles = [f"--{name.replace('_', '-')}" for name in WEIGHTS]
    yield "  ".join([*titles, "score"])
    for trial in trials:
        cells = [f"{value:g}".rjust(len(title)) for value, title in zip(trial.point, titles, strict=True)]
        yield "  ".join([*cells, trial.summary])
    yield f"best: {flags(trials[0].point)}"


def flags(point: Point) -> str:
    """Return the weights as flags."""
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in zip(WEIGHTS, point, strict=True))


def _rounded(row: Sequence[float]) -> Point:
    lm_weight, word_score, sil_weight = (round(float(value), 3) for value in row)
    return lm_weight, word_score, sil_weight


def _done_here(function: Callable[[Point], tuple[float, str]], point: Point) -> Future[tuple[float, str]]:
    future: Future[tuple[float, str]] = Future()
    try:
        future.set_result(function(point))
    except W2vError as e:
        future.set_exception(e)
    return future

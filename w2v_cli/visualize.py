"""`w2v-visualize`: what a model has learned, in pictures, numbers and sounds; and curves of training runs.

    w2v-visualize --checkpoint checkpoint_best.pt --data-dir speech
    w2v-visualize --checkpoint bert.pt --data-dir tokens
    w2v-visualize curves RUN [RUN ...]

The first writes a folder of pictures, their numbers and one report in HTML; the second, for a masked
language model, the use of tokens and the perplexity by position; the third a picture of curves.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2v.config import ArgumentParser, arg, build_config, check_range, str_tuple
from w2v.config.named_files import check_named_files
from w2v.errors import ConfigError, DataError
from w2v_cli.main import run

if TYPE_CHECKING:
    from w2v.data.manifest import Manifest
    from w2v.inference.load import LoadedModel
    from w2v.inference.survey import Looked, Survey, Viewer
    from w2v.pictures.report import Section
    from w2v_cli.visualization.gallery import Gallery

logger = logging.getLogger("w2v-visualize")

TRANSCRIPTS = "transcripts.tsv"
SAMPLES_PER_TOKEN = 160


@dataclass(frozen=True)
class VisualizeConfig:
    """What is looked at, and where the pictures go."""

    checkpoint: str = arg(
        help="the model: ours, fairseq's or a Hugging Face folder", aliases=("--model", "--path"), reads="model"
    )
    data_dir: str = arg(
        help="folder with audio, or with manifests, or a manifest (.tsv); words come from transcripts.tsv in it "
        "(path TAB WORDS), or from NAME.wrd beside NAME.tsv. Of a masked language model: folder with its valid tokens",
        aliases=("--data",),
    )
    output_dir: str = arg("visualizations", help="folder for pictures, numbers and report.html")
    num_samples: int = arg(10, help="clips, and frames with their neighbours, that are shown one by one")
    max_batches: int = arg(20, help="batches of clips that the other pictures are drawn from")
    max_tokens: int = arg(320_000, help="largest batch: clips x longest clip, in samples")
    seconds: float = arg(6.0, help="what is read of a longer clip; more makes the report larger")
    max_points: int = arg(
        1200, help="frames in a plane and among neighbours, at most 2000 (t-SNE takes most of the time)"
    )
    log: str | None = arg(
        None,
        help="log of the run that made the model, or its folder of TensorBoard events (default: what lies beside the "
        "checkpoint)",
        metavar="PATH",
    )
    reference: tuple[str, ...] = arg((), help="shipped curves to compare with, separated by commas", parse=str_tuple)
    seed: int = arg(1, help="of the draw of clips and frames, and of t-SNE")
    cpu: bool = arg(False, help="never use a GPU")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")
    quiet: bool = arg(False, help="no progress; only warnings and the result")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "num_samples", "max_batches", "max_tokens")
        check_range(self, 0.1, math.inf, "seconds")
        check_range(self, 1, 2000, "max_points")


@dataclass(frozen=True)
class CurvesConfig:
    """Which runs are compared, and where the picture goes."""

    output_dir: str = arg("visualizations", help="folder for curves.png and curves.csv")
    reference: tuple[str, ...] = arg((), help="shipped curves to compare with, separated by commas", parse=str_tuple)
    quantities: tuple[str, ...] = arg(
        (), help="names of values in the log, separated by commas (default: all that are usual)", parse=str_tuple
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: draw_curves(arguments[1:]) if arguments[:1] == ["curves"] else visualize(arguments))


def visualize(argv: Sequence[str]) -> int:
    """Draw what a model has learned.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule, or no clip can be used.
    """
    parser = ArgumentParser(
        prog="w2v-visualize",
        description="Draw what a model has learned. `w2v-visualize curves RUN ...` compares training runs.",
    )
    parser.add_config(VisualizeConfig, "pictures")
    config = build_config(VisualizeConfig, parser.parse(argv), "w2v-visualize")
    check_named_files(config)

    import torch

    from w2v.inference.load import load_model
    from w2v.inference.survey import Viewer
    from w2v.pictures.canvas import drawing_style
    from w2v_cli.progress import set_up_logging
    from w2v_cli.visualization.gallery import Gallery

    set_up_logging(is_master=not config.quiet, stream=sys.stderr)
    with drawing_style():
        gallery = Gallery(Path(config.output_dir))
        loaded = load_model(config.checkpoint, user_dir=config.user_dir)
        if loaded.model.reads not in ("audio", "masked text"):
            raise ConfigError(
                f"--checkpoint {config.checkpoint}: the model reads text; w2v-visualize needs one of speech"
            )
        loaded.model.to("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
        if loaded.model.reads == "masked text":
            lines = draw_tokens(config, gallery, loaded)
        else:
            viewer = Viewer.of(loaded, longest_seconds=config.seconds, max_tokens=config.max_tokens)
            manifest = find_clips(Path(config.data_dir), viewer.clock.sample_rate)
            lines = _Report(config, gallery, viewer, manifest).write()
    for line in lines:
        print(line)
    return 0


def draw_tokens(config: VisualizeConfig, gallery: Gallery, loaded: LoadedModel) -> list[str]:
    """Draw what a masked language model knows of the tokens in `--data-dir`; return lines for the terminal."""
    from w2v.inference.token_survey import survey_tokens
    from w2v_cli.visualization.tokens import token_images

    model: Any = loaded.model
    # --max-tokens counts samples, of which a token stands for 160; one whole item always fits.
    max_tokens = max(config.max_tokens // SAMPLES_PER_TOKEN, model.max_positions)
    folder = Path(config.data_dir)
    survey = survey_tokens(loaded, folder, "valid", max_tokens=max_tokens, max_batches=config.max_batches)
    return token_images(gallery, survey)[1]


def draw_curves(argv: Sequence[str]) -> int:
    """Draw the curves of some runs in one picture.

    Raises:
        W2vError: a run holds no curves.
    """
    from w2v.pictures.canvas import drawing_style
    from w2v.training.curves import read_reference, read_run, reference_names
    from w2v_cli.visualization.curves import curve_image
    from w2v_cli.visualization.gallery import Gallery

    parser = ArgumentParser(
        prog="w2v-visualize curves",
        description="Draw the curves of training runs in one picture. "
        f"Shipped for --reference: {', '.join(reference_names())}.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a log of --log-format json, TensorBoard events, a checkpoint, or the folder of a run; NAME=RUN names it",
    )
    parser.add_config(CurvesConfig, "pictures")
    values = parser.parse(argv)
    runs = list(values.pop("runs", []))
    config = build_config(CurvesConfig, values, "w2v-visualize curves")
    if not runs and not config.reference:
        raise ConfigError("w2v-visualize curves: name at least one RUN, or a curve with --reference")
    points = []
    for name, path in distinct_names(runs):
        points += [point._replace(run=name) for point in read_run(path, name)]
    points += [point for name in config.reference for point in read_reference(name)]
    there = {point.quantity for point in points}
    unknown = [name for name in config.quantities if name not in there]
    if unknown:
        raise ConfigError(f"--quantities: no run holds {unknown[0]!r}; there are {', '.join(sorted(there))}")
    with drawing_style():
        gallery = Gallery(Path(config.output_dir))
        image = curve_image(gallery, points, config.reference, config.quantities)
    print(f"{gallery.folder / image.name} and {image.numbers}: {len(points)} values of {len(runs)} runs")
    return 0


def distinct_names(runs: Sequence[str]) -> list[tuple[str, str]]:
    """Return a name and a path for each `NAME=PATH` or `PATH`; paths of equal names are named by more of the path."""
    found: list[tuple[str, str]] = []
    for run_ in runs:
        name, mark, path = run_.partition("=")
        if not mark or os.path.exists(run_):
            path, name = run_, Path(run_).stem if Path(run_).is_file() else Path(run_).resolve().name
            # A log or a checkpoint is called like all others; its folder tells runs apart.
            if Path(run_).is_file():
                name = f"{Path(run_).resolve().parent.name}/{name}"
        found.append((name, path))
    names = [name for name, _ in found]
    return [(name if names.count(name) == 1 else path, path) for name, path in found]


def find_clips(data: Path, sample_rate: int) -> Manifest:
    """Return the clips of a folder or a manifest.

    Raises:
        DataError: there are none.
    """
    from w2v.data.audio_files import AUDIO_ENDINGS
    from w2v.data.folder import list_folder
    from w2v.data.manifest import read_manifest

    if data.is_file():
        return read_manifest(data)
    manifests = sorted(path for path in data.glob("*.tsv") if path.name != TRANSCRIPTS)
    # The clips that a model was validated on say more than those it was trained on.
    manifests.sort(key=lambda path: (path.stem != "valid", path.stem == "train"))
    try:
        return list_folder(data, AUDIO_ENDINGS, sample_rate, recursive=True)
    except DataError:
        if not manifests:
            raise
        return read_manifest(manifests[0])


def find_transcripts(data: Path, manifest: Manifest) -> dict[str, list[str]]:
    """Return the words of clips, by name, as far as there are transcripts.

    Raises:
        DataError: a file of transcripts breaks its form, or does not fit the manifest.
    """
    from w2v.data.text_file import read_lines
    from w2v.data.transcripts import match, read_table

    beside = Path(manifest.source).with_suffix(".wrd")
    names = [manifest.title(row) for row in range(len(manifest))]
    if manifest.source.endswith(".tsv") and beside.is_file():
        lines = read_lines(beside, "file of transcripts")
        if len(lines) != len(manifest):
            raise DataError(f"{beside}: must hold a line for each of the {len(manifest)} clips, got {len(lines)}")
        return {name: line.split() for name, line in zip(names, lines, strict=True)}
    table = (data if data.is_dir() else data.parent) / TRANSCRIPTS
    if not table.is_file():
        return {}
    texts = match(read_table(str(table)).rows, names, manifest.root).by_clip
    return {name: row.text.split() for name, row in zip(names, texts, strict=True) if row is not None}


class _Report:
    """Draws everything that a model has, and writes the report.

    Args:
        config: the flags.
        gallery: where pictures go.
        viewer: the model.
        manifest: the clips.
    """

    def __init__(self, config: VisualizeConfig, gallery: Gallery, viewer: Viewer, manifest: Manifest) -> None:
        self.config = config
        self.gallery = gallery
        self.viewer = viewer
        self.manifest = manifest
        self.sections: list[Section] = []
        self.lines: list[str] = []
        self.missing: list[str] = []

    def write(self) -> list[str]:
        """Draw, write, and return lines for the terminal."""
        from w2v.inference.survey import survey
        from w2v.pictures.report import Section, render_report
        from w2v.version import __version__

        config = self.config
        self._add_curves()
        transcripts = find_transcripts(Path(config.data_dir), self.manifest)
        found = survey(
            self.viewer,
            self.manifest,
            transcripts,
            seed=config.seed,
            max_batches=config.max_batches,
            max_points=config.max_points,
            note=logger.info,
        )
        for problem in found.problems:
            logger.warning("not used: %s", problem)
        self._add_clips(found)
        self._add_frames(found)
        if self.missing:
            self.sections.append(Section("What is not here", self.missing))
        title = f"{Path(config.checkpoint).name}: what the model has learned"
        footer = f"Made by w2v-visualize {__version__} from {config.data_dir} with --seed {config.seed}."
        card = model_card(self.viewer.loaded, config.checkpoint, self.viewer, found)
        path = self.gallery.add_report(render_report(title, card, self.sections, footer=footer))
        logger.info("%d sections, %.1f MB", len(self.sections), path.stat().st_size / 1e6)
        return [*self.lines, *(f"not shown: {reason}" for reason in self.missing), f"report: {path}"]

    def _add_curves(self) -> None:
        from w2v.pictures.report import Section
        from w2v.training.curves import read_reference, read_run
        from w2v_cli.visualization.curves import curve_image

        config = self.config
        path = Path(config.log or Path(config.checkpoint).parent)
        references = [point for name in config.reference for point in read_reference(name)]
        points = []
        try:
            name = Path(config.checkpoint).resolve().parent.name
            points = [point._replace(run=name) for point in read_run(path, name)]
        except DataError as e:
            if config.log:
                raise
            self.missing.append(f"Curves of the training: {e}; --log names a log or a folder of TensorBoard events.")
        if points or references:
            image = curve_image(self.gallery, [*points, *references], config.reference, ())
            text = f"From {path}. Dashed: {', '.join(config.reference)}." if references else f"From {path}."
            self.sections.append(Section("Training", [text], [image]))

    def _add_clips(self, found: Survey) -> None:
        from w2v_cli.visualization.clips import attention_section, clip_section

        # Spread over the survey's batches, which go from long to short clips.
        count = min(self.config.num_samples, len(found.clips))
        chosen = [found.clips[round(place * (len(found.clips) - 1) / max(count - 1, 1))] for place in range(count)]
        looks: list[Looked] = [self.viewer.look([clip])[0] for clip in chosen]
        centres = {layer: frames.mean(axis=0) for layer, frames in found.layers.items()}
        logger.info("%d clips one by one", len(looks))
        self.sections.append(clip_section(self.gallery, self.viewer, looks, centres))
        attention = attention_section(self.gallery, self.viewer, looks)
        if attention is None:
            self.missing.append("Attention: the model has no transformer blocks.")
        else:
            self.sections.append(attention)
        if looks[0].found.log_probs is None:
            self.missing.append(
                "Emissions: the model has no output layer for symbols (it was not fine-tuned with CTC)."
            )

    def _add_frames(self, found: Survey) -> None:
        from w2v_cli.visualization.codes import code_section
        from w2v_cli.visualization.frames import frame_labels, neighbour_section, plane_section

        config = self.config
        labels = frame_labels(found)
        logger.info("%d frames of %d layers: PCA, t-SNE, neighbours", len(found.clip), len(found.layers))
        self.sections.append(plane_section(self.gallery, found, labels, config.seed))
        section, lines = neighbour_section(
            self.gallery, found, labels, self.viewer.clock, num_samples=config.num_samples, seed=config.seed
        )
        self.sections.append(section)
        self.lines += lines
        codes = code_section(self.gallery, found, labels)
        if codes is None:
            self.missing.append("Codebook: the model has no quantizer.")
        else:
            self.sections.append(codes[0])
            self.lines += codes[1]


def model_card(loaded: LoadedModel, checkpoint: str, viewer: Viewer, found: Survey) -> Mapping[str, str]:
    """Return what is told of a model first."""
    config: Mapping[str, Any] = loaded.config.get("model", {})
    clock = viewer.clock
    card = {
        "model": str(config.get("_name", type(loaded.model).__name__)),
        "checkpoint": checkpoint,
        "parameters": f"{sum(parameter.numel() for parameter in loaded.model.parameters()):,}",
        "updates": f"{loaded.num_updates:,}" if loaded.num_updates else "not known",
        "audio": f"{clock.sample_rate} Hz" + (", normalised clip by clip" if loaded.task.config.normalize else ""),
        "frames": f"every {1000 * clock.step:g} ms, each sees {1000 * clock.field / clock.sample_rate:g} ms",
        "layers": ", ".join(f"{name} ({frames.shape[1]})" for name, frames in found.layers.items()),
    }
    groups, num_vars = loaded.model.codebook_size
    if groups:
        card["codebook"] = f"{groups} groups of {num_vars} codes"
    dictionary = getattr(loaded.task, "dictionary", None)
    if dictionary is not None:
        card["symbols"] = " ".join(dictionary.symbols[4:])
    seconds = f"{found.seconds:.0f} s of audio, {found.num_frames:,} frames"
    unused = f"; {len(found.problems)} clips could not be used" if found.problems else ""
    card["looked at"] = f"{len(found.clips)} clips, {seconds}{unused}"
    return card


if __name__ == "__main__":
    sys.exit(main())

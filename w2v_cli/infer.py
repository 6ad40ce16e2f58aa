"""`w2v-infer`: transcripts of a manifest, and their word error rate where there are labels.

Flags, files and lines are those of the original's `examples/speech_recognition/infer.py`. What differs: no clip is
dropped, frames of padding are never decoded, and the checkpoint alone says how its input is made. `w2v-infer tune`
is `tune`'s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from w2v import distributed
from w2v.build import load_language_model
from w2v.config import ArgumentParser, build_config
from w2v.cpu import speed_on
from w2v.decoders import DECODERS, Decoder, build_decoder
from w2v.errors import ConfigError
from w2v.plugins import import_installed, import_user_dir
from w2v.progress import set_up_logging
from w2v_cli.decode_workers import decode, default_workers
from w2v_cli.emission_source import EmissionSource, SourceConfig, open_source
from w2v_cli.infer_output import OutputConfig, Results, Transcript, TranscriptWriter
from w2v_cli.infer_progress import show_progress
from w2v_cli.main import run

RETIRED = {
    "--dump-features": "w2v-featurize writes the encoder's frames",
    "--kspmodel": "the original never reads it",
    "--wfstlm": "the original never reads it",
    "--rnnt_decoding_type": "the original never reads it",
    "--rnnt_len_penalty": "the original never reads it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] == "tune":
        from w2v_cli.tune import tune

        return run(lambda: tune(arguments[1:]))
    return run(lambda: infer(arguments))


def infer(argv: Sequence[str]) -> int:
    """Transcribe what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule.
    """
    purpose = "Transcribe a manifest and score the transcripts."
    config, output, decoder_config = parse_flags(
        argv, "w2v-infer", purpose, emissions=SourceConfig, output=OutputConfig
    )
    with join_ranks(config) as device, speed_on(device):
        # Without files the transcripts go to stdout, so what is said about them goes to stderr.
        stream = sys.stdout if output.results_path else sys.stderr
        set_up_logging(is_master=distributed.is_master() and not config.quiet, stream=stream)
        source = open_source(config, device)
        decoder = build_decoder(decoder_config, source.dictionary, source.info.post_process, load_language_model)
        writer = TranscriptWriter(source, output, with_nbest=decoder_config.nbest > 1)
        suffix = f"{Path(config.path).name if config.path else source.info.model}-{config.gen_subset}"
        results = (
            Results(source, output, writer.kinds, suffix=suffix, prefix=config.shard_prefix)
            if distributed.is_master()
            else None
        )
        with results or nullcontext():
            for transcript in in_order(transcribe(config, decoder, source, writer)):
                if results is not None:
                    results.add(transcript)
        if results is not None:
            results.report(config.gen_subset, writer.speakers, config.seed)
    return 0


def parse_flags(argv: Sequence[str], program: str, purpose: str, **kinds: type[Any]) -> tuple[Any, ...]:
    """Read the command line; plugins are imported first, because they may add decoders.

    Args:
        argv: the arguments.
        program: its name, for messages.
        purpose: what it does, for `--help`.
        kinds: title -> config dataclass whose flags there are, beside those of the decoder.

    Returns:
        one config of each kind, and the decoder's.
    """
    for token in argv:
        flag = token.split("=")[0]
        if flag in RETIRED:
            raise ConfigError(f"{program} has no {flag}: {RETIRED[flag]}")
    early = ArgumentParser(prog=program, add_help=False)
    early.add_argument("--user-dir")
    early.add_argument("--w2l-decoder", default="viterbi")
    known, _ = early.parse_known_args(list(argv))
    import_installed()
    if known.user_dir:
        import_user_dir(known.user_dir)
    kinds[f"decoder {known.w2l_decoder}"] = DECODERS.get(known.w2l_decoder).config
    parser = ArgumentParser(prog=program, description=purpose)
    for title, kind in kinds.items():
        parser.add_config(kind, title)
    values = parser.parse(argv)
    return tuple(_pick(kind, values, program) for kind in kinds.values())


def _pick(kind: type[Any], values: Mapping[str, Any], program: str) -> Any:
    names = {item.name for item in fields(kind)}
    return build_config(kind, {name: value for name, value in values.items() if name in names}, program)


def join_ranks(config: SourceConfig) -> AbstractContextManager[torch.device]:
    """Meet the other processes that torchrun started, if there are any, in a context that gives the device."""
    # Slurm's variables are not looked at: there, each task may be a run of its own with --num-shards.
    variables = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ}
    place = distributed.find_place(no_spawn=True, cpu=config.cpu, environ=variables)
    return distributed.joined(place, cpu=config.cpu)


def transcribe(
    config: SourceConfig, decoder: Decoder, source: EmissionSource, writer: TranscriptWriter
) -> Iterator[tuple[int, list[Transcript]]]:
    """Yield the transcripts of each batch of this rank, with the batch's number among those of all ranks."""
    workers = default_workers(decoder.config) if config.decode_workers is None else config.decode_workers
    emissions = source.read(config.shard_file(config.dump_emissions) if config.dump_emissions else None)
    decoded = show_progress(
        decode(emissions, decoder, workers), len(source.of_this_rank()), source.info.sample_rate,
        config.progress_style, config.log_interval,
    )  # fmt: skip
    for number, (batch, readings) in enumerate(decoded):
        yield number * distributed.world_size() + distributed.rank(), writer.transcripts(batch, readings)


def in_order(batches: Iterator[tuple[int, list[Transcript]]]) -> Iterator[Transcript]:
    """Yield the transcripts of all ranks in the order of their batches; with several ranks, once all are done."""
    if distributed.world_size() > 1:
        everywhere = chain.from_iterable(distributed.gather_objects(list(batches)))
        batches = iter(sorted(everywhere, key=lambda numbered: numbered[0]))
    for _, transcripts in batches:
        yield from transcripts


if __name__ == "__main__":
    sys.exit(main())

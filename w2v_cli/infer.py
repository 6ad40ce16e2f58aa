"""`w2v-infer`: transcripts of a manifest, and their word error rate where there are labels.

Flags, files and lines are those of the original's `examples/speech_recognition/infer.py`. What differs: no clip is
dropped, frames of padding are never decoded, and the checkpoint alone says how its input is made. `w2v-infer tune`
is `tune`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from w2v import distributed
from w2v.decoders import Decoder, build_decoder
from w2v.inference.load import load_language_model
from w2v_cli.cpu import speed_on
from w2v_cli.decode_workers import decode, default_workers
from w2v_cli.emission_source import EmissionSource, SourceConfig, open_source
from w2v_cli.infer_flags import join_ranks, parse_flags
from w2v_cli.infer_output import OutputConfig, Results, Transcript, TranscriptWriter
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging, show_progress


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
    with join_ranks(cpu=config.cpu) as device, speed_on(device):
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

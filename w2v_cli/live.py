"""`w2v-live`: writes down speech while it is spoken: from a microphone, a pipe or a file, as text or events.

    w2v-live MODEL
    w2v-live MODEL --serve

What takes long to import is imported after the flags.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from w2v.config.named_files import check_named_files
from w2v.inference.growing_transcript import GrowingTranscript
from w2v_cli.live_flags import Flags, parse_flags
from w2v_cli.live_output import Figures, JsonLines, SessionFiles, TextLines, Writer
from w2v_cli.live_sources import device_lines, open_source
from w2v_cli.main import run

FAILED = 1  # exit code where the transcript could not be written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: live(sys.argv[1:] if argv is None else argv))


def live(argv: Sequence[str]) -> int:
    """Hear what the flags name until it ends, or until SIGINT or SIGTERM.

    Raises:
        W2vError: a flag, the model or the source cannot be used, or the source broke; what was heard is written.
    """
    flags = parse_flags(argv)
    if flags.what.list_devices:
        print("\n".join(device_lines()))
        return 0
    if flags.serve.serve:
        return _serve(flags)
    source = open_source(flags.what)
    files = SessionFiles(flags.what, source.name) if flags.what.output_dir is not None else None
    check_named_files(flags.what, flags.decoder)
    # torch is imported from here on: what is wrong with the flags is said at once.
    from w2v_cli.live_run import hear, open_model

    if not flags.what.json and not sys.stdout.isatty():  # nobody would see partial hypotheses
        flags = replace(flags, how=replace(flags.how, partial_interval=0.0))
    writers: list[Writer] = [JsonLines() if flags.what.json else TextLines(sys.stdout), Figures(quiet=flags.what.quiet)]
    with open_model(flags) as transcriber:
        if files is not None:
            info = transcriber.info
            files.transcript = GrowingTranscript(source.name, flags.style, info.model, info.sample_rate)
            writers.append(files)
        hear(flags, transcriber, source, writers)
    return FAILED if files is not None and files.num_failed else 0


def _serve(flags: Flags) -> int:
    """Hear those who open the page."""
    from w2v_cli.serve.run import check_packages, serve

    check_packages()
    check_named_files(flags.what, flags.decoder)
    from w2v_cli.live_run import open_model

    with open_model(flags) as transcriber:
        serve(transcriber, flags.how, flags.style, flags.serve)
    return 0


if __name__ == "__main__":
    sys.exit(main())

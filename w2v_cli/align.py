"""`w2v-align`: when each word of a text was said in its recording; and clips to train on, out of long recordings.

The flags are `align_flags`', which needs no torch, so that `--help` is quick; the work is `align_jobs`'.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from w2v.config.named_files import check_named_files
from w2v_cli.align_flags import parse_flags
from w2v_cli.main import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: align(sys.argv[1:] if argv is None else argv))


def align(argv: Sequence[str]) -> int:
    """Align what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule, or the only text does not fit its recording.
    """
    flags = parse_flags(argv)
    check_named_files(flags.program)
    from w2v_cli.align_jobs import run_jobs  # torch

    return run_jobs(flags)


if __name__ == "__main__":
    sys.exit(main())

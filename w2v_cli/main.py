"""The edge of every program: errors that a user can put right become one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from w2v.errors import W2vError


def run(program: Callable[[], int]) -> int:
    """Call `program` and return its exit code.

    A `W2vError` is printed as one line and gives its own exit code (2); Ctrl-C gives 130; a closed pipe
    (`w2v-infer ... | head`) ends quietly. Anything else is a fault of ours and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name that is no UTF-8 is printed as it is
    try:
        return program()
    except W2vError as e:
        name = os.path.basename(sys.argv[0]).removesuffix(".py")
        # A message about flags names its program already, as it may come from a library's caller, too.
        print(f"{name}: error: {' '.join(str(e).split()).removeprefix(f'{name}: ')}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Point stdout away, or the interpreter complains once more when it flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

"""Processes that read files: one that dies is a line, and ends what waits for it."""

from __future__ import annotations

import os

import pytest

from w2v.errors import DataError
from w2v_cli.file_pool import file_pool


def test_a_process_that_dies_is_a_line() -> None:
    message = "a process that reads recordings died; --jobs 1 shows at which file"
    with pytest.raises(DataError, match=message), file_pool(1, "recordings") as pool:
        pool.submit(os._exit, 1).result(60)

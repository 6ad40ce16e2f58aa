"""Where recorded tensors and real audio are found, and what happens where they are not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # toy_speech


def _folder(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable) or REPOSITORY / default)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable}")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of tensors recorded from the original (`W2V_GOLDEN`)."""
    return _folder("W2V_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real speech (`W2V_DATA`)."""
    return _folder("W2V_DATA", "../shared/data")

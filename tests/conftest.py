"""Where recorded tensors and real audio are found, and what happens where they are not."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A case that takes long on a busy machine is no fault of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))


def pytest_configure() -> None:
    """Take back what `nohup`, or a script that put the tests into its background, made this process ignore.

    Programs inherit it and respect it, so the tests of Ctrl-C and of a closed terminal would wait in vain.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked slow, unless it is asked for."""
    if os.environ.get("W2V_SLOW"):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="takes long; W2V_SLOW=1 runs it"))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Take back what programs that ran in a test did to logging: their streams are closed when it ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _search_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numba pass for missing, so that beam searches are the same ones wherever the tests run."""
    monkeypatch.setattr("w2v.decoders.compiled_search.is_installed", lambda: False)


def _folder(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable) or REPOSITORY / default)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable}")
    return path


class GoldenFolder:
    """The recorded tensors, `W2V_GOLDEN`; where that folder is absent, the part of it in `tests/assets/golden`."""

    recorded = Path(os.environ.get("W2V_GOLDEN") or REPOSITORY / "../shared/golden")
    committed = REPOSITORY / "tests" / "assets" / "golden"

    def __truediv__(self, name: str) -> Path:
        if self.recorded.is_dir():
            return self.recorded / name
        if not (self.committed / name).exists():
            pytest.skip(f"no folder {self.recorded}, and {name} is not in tests/assets/golden; set W2V_GOLDEN")
        return self.committed / name


@pytest.fixture
def quick_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU pass for one that multiplies as quickly in half precision, so that programs compute in it."""
    monkeypatch.setattr("w2v.functional.products.product_speed", lambda dtype, training: 1.0)


@pytest.fixture(scope="session")
def golden() -> GoldenFolder:
    """Folder of tensors recorded from the original (`W2V_GOLDEN`)."""
    return GoldenFolder()


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real speech (`W2V_DATA`)."""
    return _folder("W2V_DATA", "../shared/data")


@pytest.fixture(scope="session")
def digits_model(data: Path) -> Path:
    """A small CTC model of connected digits (`W2V_MODELS`; by default in `models` beside the real speech)."""
    path = Path(os.environ.get("W2V_MODELS") or data.parent / "models") / "digits_ctc.pt"
    if not path.is_file():
        pytest.skip(f"no model {path}; set W2V_MODELS")
    return path

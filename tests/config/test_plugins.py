"""`--user-dir` as file, folder and package, and installed plugins: found, imported once, named when they do not fit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from w2v.errors import ConfigError, RegistryError
from w2v.models import MODELS
from w2v.plugins import import_installed, import_user_dir

REPOSITORY = Path(__file__).resolve().parents[2]

MODEL = """
from dataclasses import dataclass
from w2v.config import arg
from w2v.models import W2vModel, register_model

@dataclass(frozen=True)
class Config:
    width: int = arg(1, help="a width")

@register_model("{name}", Config)
class Model(W2vModel):
    pass
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Forget the plugins of a test."""
    modules, path = set(sys.modules), list(sys.path)
    with MODELS.temporary():
        yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write_model(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MODEL.format(name=name))
    return path


def test_a_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "one_file.py", "from_a_file")
    module = import_user_dir(str(path))
    assert MODELS.get("from_a_file").defined_in == "one_file.Model"
    assert sys.modules["one_file"] is module
    assert str(tmp_path) in sys.path


def test_a_folder_of_files(tmp_path: Path) -> None:
    for letter in "ab":
        write_model(tmp_path / "loose" / f"{letter}_part.py", f"from_{letter}")
    import_user_dir(str(tmp_path / "loose"))
    assert {"from_a", "from_b"} <= set(MODELS.names())
    assert "a_part" in sys.modules


def test_a_package(tmp_path: Path) -> None:
    write_model(tmp_path / "packed" / "part.py", "from_a_package")
    (tmp_path / "packed" / "__init__.py").write_text("from . import part\n")
    import_user_dir(str(tmp_path / "packed"))
    assert MODELS.get("from_a_package").defined_in == "packed.part.Model"


def test_twice_is_once(tmp_path: Path) -> None:
    path = write_model(tmp_path / "again.py", "from_again")
    assert import_user_dir(str(path)) is import_user_dir(os.path.relpath(path))


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model(tmp_path / "at_home.py", "from_home")
    import_user_dir("~/at_home.py")
    assert "from_home" in MODELS.names()


@pytest.mark.parametrize("what", ["missing", "text", "empty"])
def test_nothing_to_import(what: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no python")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"--user-dir") as caught:
        import_user_dir(str(tmp_path / what))
    assert what in str(caught.value)


def test_a_taken_module_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataclasses.py"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"'dataclasses'.*is taken by the module at") as caught:
        import_user_dir(str(path))
    assert str(path) in str(caught.value)


def test_two_plugins_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / folder / "same.py", f"from_{folder}") for folder in ("x", "y"))
    import_user_dir(str(first))
    with pytest.raises(ConfigError, match="rename yours"):
        import_user_dir(str(second))


def test_a_taken_model_name_names_both(tmp_path: Path) -> None:
    path = write_model(tmp_path / "impostor.py", "wav2vec2")
    with pytest.raises(RegistryError, match="'wav2vec2' is registered twice") as caught:
        import_user_dir(str(path))
    assert "w2v.models.wav2vec2.Wav2Vec2Model" in str(caught.value)
    assert "impostor.Model" in str(caught.value)


def test_a_fault_of_the_plugin_keeps_its_own_traceback(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text("def f():\n    return 1 / 0\n\nf()\n")
    with pytest.raises(ZeroDivisionError) as caught:
        import_user_dir(str(path))
    assert [entry.path for entry in caught.traceback][-1] == path


def install(site: Path, module: str) -> None:
    """Make it look as if a package with an entry point were installed in `site`."""
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[w2v.plugins]\n{module} = {module}\n")


def test_installed_plugins_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "installed_one.py", "from_installed")
    install(tmp_path, "installed_one")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_installed()
    assert MODELS.get("from_installed").defined_in == "installed_one.Model"


def test_an_installed_plugin_shows_in_the_help(tmp_path: Path) -> None:
    write_model(tmp_path / "installed_two.py", "from_installed_two")
    install(tmp_path, "installed_two")
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-m", "w2v_cli.train", "--help", "--arch", "from_installed_two"],
        env=environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--width N" in done.stdout


def test_a_packages_own_file_stands_for_it(tmp_path: Path) -> None:
    write_model(tmp_path / "whole_package" / "__init__.py", "from_its_file")
    module = import_user_dir(str(tmp_path / "whole_package" / "__init__.py"))
    assert module.__name__ == "whole_package"
    assert MODELS.get("from_its_file").defined_in == "whole_package.Model"


@pytest.mark.parametrize("place", ["my.model/__init__.py", "v1.2/x.y.py", "v1.2.py"])
def test_names_that_python_cannot_import(tmp_path: Path, place: str) -> None:
    path = write_model(tmp_path / place, "never")
    given = path if path.name == "v1.2.py" else path.parent
    with pytest.raises(ConfigError, match=r"is no name that Python can import; rename .* without the dot"):
        import_user_dir(str(given))


def test_the_place_to_rename_is_the_folder(tmp_path: Path) -> None:
    path = write_model(tmp_path / "my.package" / "__init__.py", "never")
    with pytest.raises(ConfigError, match=rf"rename {re.escape(str(path.parent))} without the dot"):
        import_user_dir(str(path.parent))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"--user-dir: .*no_python_1\.py:2: is no Python: "),
        ("x = '\0'\n", r"--user-dir: .*no_python_0\.py:1: is no Python: "),
        ("import sys\nsys.exit(3)\n", r"--user-dir: .* ends the program when it is imported .*__main__"),
        ("from . import other\n", r"--user-dir: .*no_python_\d\.py: attempted relative .* need an __init__\.py"),
        ("from w2v.models import no_such\n", r"--user-dir: .*py: cannot import name 'no_such' from 'w2v\.models'"),
        ("import no_such_module_of_mine\n", r"--user-dir: .* needs the module 'no_such_module_of_mine', which cannot"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / f"no_python_{text.count('def')}.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        import_user_dir(str(path))


def test_a_dot_in_a_folder_of_files_does_no_harm(tmp_path: Path) -> None:
    write_model(tmp_path / "v1.2" / "plain_name.py", "from_a_dotted_folder")
    assert import_user_dir(str(tmp_path / "v1.2")).__name__ == "plain_name"

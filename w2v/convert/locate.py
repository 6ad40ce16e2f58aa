"""From what the user calls a model to a file or folder on this machine: a path, a name on the hub, or an address.

Downloads go through `huggingface_hub`, into its cache (`HF_HOME`), whole or not at all; `HF_HUB_OFFLINE=1` keeps to
what is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from w2v.config.named_files import may_be_on_the_hub
from w2v.config.released import RELEASED
from w2v.convert.hubert_model import EXTRA_FILE
from w2v.convert.language_adapters import adapter_files
from w2v.convert.other_folders import CONFIG_FILE
from w2v.errors import CheckpointError, MissingPackageError
from w2v.files import atomic_path

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
SMALL_FILES = ("*.json", "*.txt", EXTRA_FILE)
TIMEOUT = 60.0  # seconds without a byte
_ADDRESS = re.compile(r"^https?:/+(?=.)")
_HUB_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface|hf)\.co/(?!datasets/|spaces/)([\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/([\w.%-]+)(?:/([^?]+))?)?/?(?:\?.*)?$"
)
"""A page of a model: its name; revision; a file."""
_OF_FOLDER = re.compile(r"(config\.json|(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?)$")
"""Files that mean nothing without their folder."""


def locate(name: str | Path, language: str | None = None) -> Path:
    """Return the file or folder of a model; one that is not here is downloaded.

    Args:
        name: a path; the name of a released checkpoint (`config/released`); `OWNER/NAME` or `OWNER/NAME@REVISION` on
            the Hugging Face hub; or an address, of a file or of a page of the hub.
        language: whose adapter is downloaded, too, of a model on the hub that has one for each language.

    Raises:
        CheckpointError: it cannot be downloaded; the message says what to do.
        MissingPackageError: huggingface_hub is needed and not installed.
    """
    text = str(name).removeprefix("file://").rstrip("/") or str(name)
    text = re.sub(r"^hf:/+", "", text)
    if _ADDRESS.match(text):
        # A path object has made one slash of two.
        return _from_web(_ADDRESS.sub(lambda found: found[0].split(":")[0] + "://", text), language)
    path = Path(text).expanduser()
    if text in RELEASED and not path.exists():
        return _from_web(RELEASED[text].url)
    if path.exists() or not may_be_on_the_hub(text):
        return path
    return _from_hub(text, language)


def fingerprint(name: str | Path, language: str | None = None) -> str:
    """Return a short digest of all that a model is read from: of a folder, the configuration and the weights.

    Args:
        name: the model, as for `locate`.
        language: of a model with adapters per language.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        for path in _files(locate(name, language), language):
            with open(path, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    except OSError as e:
        raise CheckpointError(f"{name}: cannot be read: {e.strerror or e}") from e
    return digest.hexdigest()


def folder_of(path: Path) -> Path | None:
    """Return the Hugging Face folder that a path names: itself, or that of one of its parts; None: it is one file."""
    if path.is_dir():
        return path
    is_part = _OF_FOLDER.match(path.name) and (path.parent / CONFIG_FILE).is_file()
    return path.parent if is_part else None


def _files(path: Path, language: str | None) -> Iterator[Path]:
    folder = folder_of(path)
    if folder is None:
        yield path
        return
    # As they are read: safetensors where it is there.
    weights = next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    settings = (path for path in sorted(folder.glob("*.json")) if not path.name.startswith("w2v-"))
    adapter = [folder / name for name in adapter_files(language) if (folder / name).is_file()] if language else []
    yield from (*settings, *weights, *adapter[:1])


def _from_hub(text: str, language: str | None) -> Path:
    name, _, revision = text.partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )  # fmt: skip
    except ImportError as e:
        raise MissingPackageError(
            "huggingface_hub", "hub", f"{text}, which is no file here, but a name on the hub"
        ) from e
    # Not what lies in folders: language models, graphs, copies in other formats.
    wanted: dict[str, Any] = {"repo_id": name, "revision": revision or None, "ignore_patterns": "*/*"}
    adapters = adapter_files(language) if language else []
    small = [*SMALL_FILES, *adapters[:1]]
    try:
        folder = Path(snapshot_download(**wanted, allow_patterns=[*small, WEIGHTS[0]]))
        # torch's own format where there is no other: of the weights, and of the adapter.
        others = [] if any(folder.glob(WEIGHTS[0])) else [WEIGHTS[1]]
        others += [name for name in adapters[1:] if not (folder / adapters[0]).is_file()]
        if others:
            folder = Path(snapshot_download(**wanted, allow_patterns=[*small, *others]))
    except RepositoryNotFoundError as e:
        raise CheckpointError(f"{text}: there is no such file, and no such model on the Hugging Face hub") from e
    except RevisionNotFoundError as e:
        raise CheckpointError(f"{text}: the model {name} on the Hugging Face hub has no revision {revision}") from e
    except LocalEntryNotFoundError as e:
        raise CheckpointError(
            f"{text}: there is no such file; the hub has not been reached, and the model is not in its cache"
        ) from e
    except (HfHubHTTPError, OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{text}: there is no such file, and the hub does not give it: {reason}") from e
    return folder


def _from_web(address: str, language: str | None = None) -> Path:
    """Download one file into the cache; the files of one address lie in a folder of their own."""
    page = _HUB_PAGE.match(address)
    if page and (page[3] is None or _OF_FOLDER.match(page[3])):
        return _from_hub(page[1] + (f"@{unquote(page[2])}" if page[2] else ""), language)
    if page:  # the page that shows a file, and the file
        address = address.replace("/blob/", "/resolve/", 1)
    cache = Path(os.environ.get("W2V_CACHE", "~/.cache/w2v")).expanduser()
    folder = cache / hashlib.blake2b(address.encode(), digest_size=8).hexdigest()
    path = folder / (re.sub(r"[^\w.-]", "_", address.partition("?")[0].rstrip("/").rpartition("/")[2]) or "model")
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise CheckpointError(f"{address}: is not in the cache {cache}, and HF_HUB_OFFLINE is set")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=TIMEOUT) as source, atomic_path(path) as part:
            with open(part, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            size = source.headers.get("Content-Length")
            if size is not None and part.stat().st_size != int(size):
                raise CheckpointError(f"{address}: the connection was lost after {part.stat().st_size} of {size} bytes")
    except (OSError, urllib.error.URLError, ValueError) as e:
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
        raise CheckpointError(f"{address}: cannot be downloaded: {' '.join(str(reason).split())[:200]}") from e
    return path

"""Uploads of exported folders to the Hugging Face hub, through `huggingface_hub`, which knows who is logged in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2v.errors import CheckpointError, MissingPackageError
from w2v.version import __version__


def push(folder: Path, names: Sequence[str], repository: str, *, private: bool) -> str:
    """Upload files of a folder in one commit, and return their address.

    Args:
        folder: holds them.
        names: the files; others that lie there are not uploaded.
        repository: `OWNER/NAME`; made if need be.
        private: make it for the owner alone; one that is there stays as it is.

    Raises:
        CheckpointError: nobody is logged in, or the hub refuses; the folder stays.
        MissingPackageError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as e:
        raise MissingPackageError("huggingface_hub", "hub", "--push") from e
    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(names),
            commit_message=f"Upload with w2v {__version__}",
        )
    except (HfHubHTTPError, OSError, ValueError) as e:
        response = getattr(e, "response", None)
        status = getattr(response, "status_code", None)
        reason = " ".join(str(e).split())[:200]
        if status in (401, 403):
            reason = "the hub does not let you write there; log in with `hf auth login`, with a token that may write"
        raise CheckpointError(f"--push {repository}: {reason}; {folder} holds what was to be uploaded") from e
    return str(done.commit_url)

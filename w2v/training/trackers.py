"""Where the numbers of a run are kept beside its log lines: TensorBoard's events, and experiment trackers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from w2v.errors import ConfigError, MissingPackageError

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes numbers by name, for each update that is reported on."""

    def begin_start(self, start: int, num_updates: int) -> None:
        """Begin start `start` of the run, with `num_updates` updates done: what was said of later ones is void."""

    def write(self, tag: str, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of `train_inner`, `train` or a validation subset after update `step`."""

    def close(self) -> None:
        """Write out what is left."""


class TensorBoard:
    """Events in a folder for each tag.

    Args:
        folder: where they go.

    Raises:
        MissingPackageError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as e:
            raise MissingPackageError("tensorboardX", "tensorboard", "--tensorboard-logdir") from e
        self._folder = folder
        self._make: Any = SummaryWriter
        self._writers: dict[str, Any] = {}
        self._purge_step: int | None = None

    def begin_start(self, start: int, num_updates: int) -> None:
        """Let TensorBoard drop what an earlier start has written about updates that are made again."""
        # A mark in the event file: TensorBoard drops older events of these updates. A first start has none.
        self._purge_step = num_updates + 1 if start > 1 else None

    def write(self, tag: str, step: int, values: Mapping[str, float]) -> None:
        """Write events."""
        if tag not in self._writers:
            self._writers[tag] = self._make(str(self._folder / tag), purge_step=self._purge_step)
        for name, value in values.items():
            self._writers[tag].add_scalar(name, value, step)
        self._writers[tag].flush()  # a killed run keeps its events

    def close(self) -> None:
        """Write out the events."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class Experiment:
    """A run of wandb, or of a package with its interface (trackio).

    Each start is a run of its own, in a group with the others: trackers take no step a second time, and a start that
    resumes makes updates again which an earlier one has reported. A tracker that fails never ends the training.

    Args:
        package: `wandb` or `trackio`.
        project: the project.
        name: of the run.
        config: the configuration by section, as plain data.

    Raises:
        MissingPackageError: the package is not installed.
    """

    def __init__(self, package: str, project: str, name: str, config: Mapping[str, Any]) -> None:
        try:
            self._module: Any = importlib.import_module(package)
        except ImportError as e:
            if package == "trackio":
                raise MissingPackageError("trackio", "trackio", "--tracker trackio") from e
            raise MissingPackageError("wandb", "wandb", "--wandb-project") from e
        self._package, self._project, self._name, self._config = package, project, name, config
        self._run: Any = None

    def begin_start(self, start: int, num_updates: int) -> None:
        """Begin a run.

        Raises:
            ConfigError: the tracker refuses, for want of an account, say.
        """
        try:
            self._run = self._module.init(
                project=self._project, name=f"{self._name}-start{start}", group=self._name, config=dict(self._config)
            )
        except Exception as e:  # its own kinds of errors, which differ between packages and versions
            reason = " ".join(str(e).split())[:200]
            hint = "; WANDB_MODE=offline needs no account" if self._package == "wandb" else ""
            raise ConfigError(f"--wandb-project {self._project}: {self._package} refuses: {reason}{hint}") from e

    def write(self, tag: str, step: int, values: Mapping[str, float]) -> None:
        """Send numbers, named `tag/name`."""
        if self._run is None:
            return
        try:
            self._run.log({f"{tag}/{name}": value for name, value in values.items()}, step=step)
        except Exception as e:
            logger.warning("%s takes no more numbers, training continues without it: %s", self._package, e)
            self._run = None

    def close(self) -> None:
        """End the run."""
        run, self._run = self._run, None
        if run is not None:
            try:
                run.finish()
            except Exception as e:
                logger.warning("%s could not end its run: %s", self._package, e)

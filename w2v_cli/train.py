"""`w2v-train`: pretrain or fine-tune. The same command again resumes where the last one stopped."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2v_cli.main import run

if TYPE_CHECKING:
    from w2v.distributed.ranks import RankInfo
    from w2v.training.options import ParsedCommand, TrainConfig
    from w2v.training.trainer import Trainer

logger = logging.getLogger("w2v-train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: train(arguments))


def train(argv: list[str]) -> int:
    """Train what the flags describe, here or in the processes that they ask for.

    Raises:
        W2vError: a flag or a file breaks a rule, or training cannot continue.
    """
    from w2v.distributed.launcher import launch
    from w2v.training.options import parse_train_command
    from w2v.training.start_checks import check_options

    if "--version" in argv:
        from w2v.version import __version__

        print(f"w2v-train {__version__}")
        return 0
    if any(argv[place : place + 2] == ["--recipe", "help"] for place in range(len(argv))):
        from w2v.config.recipes import recipe_list

        print(recipe_list())
        return 0
    command = parse_train_command(argv)
    if command.print_config:
        print("".join(f"{note}\n" for note in command.notes()), end="", file=sys.stderr)
        print(_as_yaml(command.config.to_plain()), end="")
        return 0
    check_options(command.config)
    place = _place(command.config)
    if place.spawn:
        return launch(train_spawned, argv, place)
    return train_rank(command, place)


def train_spawned(argv: list[str]) -> int:
    """Read the flags again in a process that `launch` has started, and do its part of the work."""
    from w2v.training.options import parse_train_command

    command = parse_train_command(argv)
    return train_rank(command, _place(command.config))


def train_rank(command: ParsedCommand, place: RankInfo) -> int:
    """Do the work of one process."""
    from w2v.distributed.process_group import process_group
    from w2v.training.build import build_trainer
    from w2v_cli.cpu import speed_on
    from w2v_cli.progress import set_up_logging

    config = command.config
    options, common = config.distributed_training, config.common
    # Before the other ranks are there: what is waited for is said as well.
    set_up_logging(is_master=place.rank == 0)
    for note in command.notes():
        logger.info(note)
    timeout, backend = options.heartbeat_timeout, options.distributed_backend
    with process_group(place, cpu=common.cpu, backend=backend, timeout=timeout) as device, speed_on(device):
        trainer = build_trainer(config, device)
        if common.dry_run:
            _rehearse(trainer, config)
        else:
            trainer.train()
            _name_pictures(config)
    return 0


def _rehearse(trainer: Trainer, config: TrainConfig) -> None:
    """Make a dry run, and show what it found: a line of the log under `--log-format json`, else a table."""
    from w2v import distributed
    from w2v.training.dry_run import dry_run

    found = dry_run(trainer, getattr(config.task.config, "sample_rate", None))
    if config.common.log_format == "json":
        logging.getLogger("dry_run").info(json.dumps(found.plain()))
    elif distributed.is_master():
        print(found.table(), flush=True)


def _name_pictures(config: TrainConfig) -> None:
    """Tell how to look at what was trained."""
    from w2v import distributed

    folder = Path(config.checkpoint.save_dir)
    made = next((name for name in ("checkpoint_best.pt", "checkpoint_last.pt") if (folder / name).is_file()), None)
    if made is None or not distributed.is_master() or not hasattr(config.task.config, "sample_rate"):
        return
    data = shlex.quote(str(config.task.config.data))
    command = f"w2v-visualize --checkpoint {shlex.quote(str(folder / made))} --data-dir {data}"
    logger.info("pictures of what the model has learned: %s", command)


def _place(config: TrainConfig) -> RankInfo:
    from w2v.distributed.ranks import find_rank

    options = config.distributed_training
    return find_rank(
        world_size=options.distributed_world_size,
        rank=options.distributed_rank,
        init_method=options.distributed_init_method,
        port=options.distributed_port,
        no_spawn=options.distributed_no_spawn,
        device_id=options.device_id,
        cpu=config.common.cpu,
    )


def _as_yaml(plain: dict[str, dict[str, object]]) -> str:
    import yaml

    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


if __name__ == "__main__":
    sys.exit(main())

"""The option groups that belong to no component: common, dataset, distributed, optimization, checkpoint.

Names and defaults are those of the original's README of October 2020; help texts are ours. A flag stands here
only if something reads it, or if the published commands carry it and it can be honoured by doing nothing
(such a flag says so in its help).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from w2v.config import arg, check_range, float_tuple, int_tuple
from w2v.errors import ConfigError

SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}


def audio_seconds(value: Any) -> float:
    """Parse `1.6h`, `96m`, `5760s` or a number of seconds."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([hms]?)\s*", str(value))
    if isinstance(value, bool) or found is None or not float(found[1]):
        raise ValueError(f"must be a time such as 1.6h, 96m or 5760s, got {value!r}")
    return float(found[1]) * SECONDS[found[2]]


LOG_FORMATS = ("json", "none", "simple", "tqdm")
TRACKERS = ("wandb", "trackio")
COMPILE_MODES = ("default", "reduce-overhead")
SMALLER_IS_BETTER = ("loss", "nll_loss", "ppl", "wer", "raw_wer", "uer", "loss_0")
LARGER_IS_BETTER = ("accuracy", "code_perplexity", "prob_perplexity")
DDP_BACKENDS = ("c10d", "no_c10d", "pytorch_ddp", "legacy_ddp", "fully_sharded")


@dataclass(frozen=True)
class CommonConfig:
    """Logging, seeds, number formats, plugins."""

    user_dir: str | None = arg(None, help="python file, folder or package with your own models, criterions or tasks")
    seed: int = arg(1, help="base of every random stream")
    cpu: bool = arg(False, help="never use CUDA")
    fp16: bool = arg(
        False, help="compute in half precision with a dynamic loss scale; on a CPU only where that is faster"
    )
    memory_efficient_fp16: bool = arg(False, help="the same as --fp16 here: weights stay in float32 under autocast")
    bf16: bool = arg(False, help="compute in bfloat16, which needs no loss scale; on a CPU only where that is faster")
    compile: bool = arg(False, help="compile transformer blocks and convolutions with torch.compile: for GPUs")
    compile_mode: str = arg(
        "default",
        help="under --compile: default, or reduce-overhead, which records CUDA graphs, one per shape of a batch",
        choices=COMPILE_MODES,
    )
    fp16_init_scale: int = arg(128, help="first loss scale")
    fp16_scale_window: int | None = arg(
        None, help="clean updates before the loss scale doubles (default: 2**14 / world size / update freq)"
    )
    fp16_scale_tolerance: float = arg(0.0, help="share of overflowing updates tolerated before the scale halves")
    min_loss_scale: float = arg(1e-4, help="stop when the loss scale would fall to this")
    threshold_loss_scale: float | None = arg(None, help="lower clamp of the loss scale")
    log_format: str | None = arg(
        None, help="how progress is printed (default: tqdm on a terminal, else json)", choices=LOG_FORMATS
    )
    log_interval: int = arg(100, help="updates between two lines of the log")
    dry_run: bool = arg(False, help="time 20 updates, say what the whole run would take, and leave; writes nothing")
    on_collapse: str = arg(
        "warn", help="what to do when a codebook or the task has collapsed: warn, or stop", choices=("warn", "stop")
    )
    no_progress_bar: bool = arg(False, help="print lines instead of a bar (--log-format simple)")
    tensorboard_logdir: str | None = arg(None, help="folder for TensorBoard events (needs tensorboardX)")
    wandb_project: str | None = arg(None, help="project of an experiment tracker that gets the numbers of the log")
    tracker: str = arg("wandb", help="package behind --wandb-project: wandb, or trackio", choices=TRACKERS)

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "log_interval", "fp16_init_scale")
        check_range(self, 0, 1, "fp16_scale_tolerance")
        if self.bf16 and (self.fp16 or self.memory_efficient_fp16):
            raise ConfigError("--fp16 and --bf16 exclude each other; give one of them")


@dataclass(frozen=True)
class DatasetConfig:
    """What is read, and how it is cut into batches."""

    num_workers: int = arg(1, help="processes that read audio; 0 reads in the main process")
    max_tokens: int | None = arg(
        None, help="largest batch: clips x longest clip, in samples (text: in words), padding counted"
    )
    batch_size: int | None = arg(None, help="most clips in a batch", aliases=("--max-sentences",))
    required_batch_size_multiple: int = arg(8, help="batches of at least this many clips are cut to a multiple of it")
    data_buffer_size: int = arg(10, help="batches that the workers prepare ahead, in all")
    train_subset: str = arg(
        "train",
        help="manifest to train on: DATA/NAME.tsv, or several, separated by commas; or text: DATA/NAME.txt",
    )
    subset_weights: tuple[float, ...] | None = arg(
        None,
        help="weight of each manifest of --train-subset in the loss, such as 1,0.5; 0: left out (default: 1 each)",
        parse=float_tuple,
    )
    valid_subset: str = arg("valid", help="manifests to validate on, separated by commas; the first one decides")
    validate_interval: int = arg(1, help="epochs between two validations")
    validate_interval_updates: int = arg(0, help="updates between two validations; 0: only at the ends of epochs")
    validate_after_updates: int = arg(0, help="no validation before this many updates")
    fixed_validation_seed: int | None = arg(None, help="seed of masks and negatives in validation (default: --seed)")
    disable_validation: bool = arg(False, help="never validate")
    max_tokens_valid: int | None = arg(None, help="--max-tokens for validation (default: --max-tokens)")
    batch_size_valid: int | None = arg(
        None, help="--batch-size for validation (default: --batch-size)", aliases=("--max-sentences-valid",)
    )
    curriculum: int = arg(0, help="keep the batches in order of length for the first N epochs")
    skip_invalid_size_inputs_valid_test: bool = arg(
        False, help="skip, with a count, clips over --max-tokens in validation instead of stopping"
    )

    def __post_init__(self) -> None:
        check_range(
            self, 0, math.inf, "num_workers", "validate_interval_updates", "validate_after_updates", "curriculum"
        )
        check_range(
            self, 1, math.inf, "max_tokens", "batch_size", "required_batch_size_multiple", "data_buffer_size",
            "validate_interval", "max_tokens_valid", "batch_size_valid",
        )  # fmt: skip
        names = self._train_names
        if "" in names or len(set(names)) < len(names):
            raise ConfigError(f"--train-subset must be different names between commas, got {self.train_subset!r}")
        if "" in (valid := [name.strip() for name in self.valid_subset.split(",")]) or len(set(valid)) < len(valid):
            raise ConfigError(
                f"--valid-subset must be different names between commas, got {self.valid_subset!r}; "
                "--disable-validation trains without"
            )
        weights = self.subset_weights
        if weights is not None and len(weights) != len(names):
            raise ConfigError(
                f"--subset-weights must have one weight for each of the {len(names)} manifests of --train-subset, "
                f"got {len(weights)}"
            )
        if weights is not None and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ConfigError(f"--subset-weights must be at least 0, and one above 0, got {list(weights)}")

    @property
    def _train_names(self) -> list[str]:
        # With empty names, which are refused; so not `str_tuple`.
        return [name.strip() for name in self.train_subset.split(",")]

    @property
    def train_sources(self) -> dict[str, float]:
        """The names in `--train-subset` with their weights; those of weight 0 are left out."""
        names = self._train_names
        weights = self.subset_weights or (1.0,) * len(names)
        return {name: weight for name, weight in zip(names, weights, strict=True) if weight}

    @property
    def train_split(self) -> str:
        """The names of what is trained on, as tasks take them."""
        return ",".join(self.train_sources)


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, one per GPU (or per CPU rank)."""

    distributed_world_size: int | None = arg(
        None, help="processes in all (default: one per visible GPU, else 1); torchrun and Slurm variables win"
    )
    distributed_rank: int = arg(0, help="rank of this process, when you start the processes yourself")
    distributed_backend: str | None = arg(None, help="nccl or gloo (default: nccl with CUDA, else gloo)")
    distributed_init_method: str | None = arg(None, help="tcp://host:port or env://")
    distributed_port: int = arg(-1, help="port of the first process; also asks for Slurm's variables to be read")
    distributed_no_spawn: bool = arg(False, help="start no processes here: each one is started by you")
    device_id: int = arg(0, help="GPU of this process", aliases=("--local_rank", "--local-rank"))
    ddp_backend: str = arg(
        "c10d",
        help="fully_sharded divides weights, gradients and moments over ranks; the others: DistributedDataParallel",
        choices=DDP_BACKENDS,
    )
    bucket_cap_mb: int = arg(25, help="size of DistributedDataParallel's buckets, in MB")
    find_unused_parameters: bool = arg(False, help="let DistributedDataParallel look for unused parameters")
    broadcast_buffers: bool = arg(False, help="copy buffers from rank 0 before each step")
    heartbeat_timeout: float = arg(
        60.0, help="end the run when a rank has been silent for so many seconds; one that dies is noticed at once"
    )
    fix_batches_to_gpus: bool = arg(False, help="accepted; batches are dealt to ranks anew in every epoch")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "distributed_world_size", "bucket_cap_mb", "heartbeat_timeout")


@dataclass(frozen=True)
class OptimizationConfig:
    """How long, how fast, in how large steps."""

    max_epoch: int = arg(0, help="stop after this epoch; 0: no limit")
    max_update: int = arg(0, help="stop after this many updates; 0: no limit")
    stop_time_hours: float = arg(0.0, help="stop after this many hours; 0: no limit")
    clip_norm: float = arg(25.0, help="largest norm of the gradient; 0: no clipping")
    update_freq: tuple[int, ...] = arg(
        (1,), help="batches accumulated per update: one number, or one per epoch ('4' or '1,2,4')", parse=int_tuple
    )
    batch_audio: float | None = arg(
        None,
        help="audio per update over all ranks, padding counted, as 1.6h, 96m or 5760s, in batches of --max-tokens",
        parse=audio_seconds,
        metavar="TIME",
    )
    # Differs from the original, whose default of 0.25 suits none of these models.
    lr: tuple[float, ...] | None = arg(
        None,
        help="learning rate, or one per epoch; with cosine and --max-lr: its floor (required: there is no default)",
        parse=float_tuple,
    )
    min_lr: float = arg(-1.0, help="stop when the learning rate falls to this; cosine without --max-lr: its floor")
    stop_min_lr: float | None = arg(None, help="the newer spelling of --min-lr as a stop")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "max_epoch", "max_update", "stop_time_hours", "clip_norm")
        if any(n < 1 for n in self.update_freq):
            raise ConfigError(f"--update-freq must be at least 1, got {list(self.update_freq)}")
        if self.batch_audio is not None and self.update_freq != (1,):
            raise ConfigError("--batch-audio and --update-freq exclude each other; give one of them")
        if any(not 0 <= rate < math.inf for rate in self.lr or ()):
            raise ConfigError(f"--lr must be at least 0, got {list(self.lr or ())}")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is written, and where a run starts from."""

    save_dir: str = arg("checkpoints", help="folder for checkpoints")
    restore_file: str = arg(
        "checkpoint_last.pt",
        help="checkpoint to begin from, once: a folder that has begun so is resumed; '': begin anew, without any",
    )
    start_over: bool = arg(
        False, help="let --restore-file, --finetune-from-model and --reset-* hold again in a folder that has a run; "
        "with none of them: begin anew. Files that the run does not go through are moved to left_N",
    )  # fmt: skip
    finetune_from_model: str | None = arg(
        None, help="checkpoint whose weights alone are loaded at the first start in a folder"
    )
    reset_dataloader: bool = arg(False, help="do not restore the position in the data, once")
    reset_lr_scheduler: bool = arg(False, help="accepted; a schedule follows from the number of updates alone")
    reset_meters: bool = arg(False, help="do not restore averages and the best score, once")
    reset_optimizer: bool = arg(False, help="do not restore the optimizer, at the first start in a folder")
    save_interval: int = arg(1, help="epochs between two checkpoints")
    save_interval_updates: int = arg(0, help="updates between two checkpoints; 0: only at the ends of epochs")
    keep_interval_updates: int = arg(-1, help="keep the newest N checkpoints of --save-interval-updates; -1: all")
    keep_last_epochs: int = arg(-1, help="keep the newest N checkpoints of epochs; -1: all")
    keep_best_checkpoints: int = arg(-1, help="keep the N best checkpoints beside checkpoint_best.pt; -1: none")
    no_save: bool = arg(False, help="never write a checkpoint")
    no_epoch_checkpoints: bool = arg(False, help="write only the best and the last checkpoint")
    no_last_checkpoints: bool = arg(False, help="do not write checkpoint_last.pt")
    no_save_optimizer_state: bool = arg(False, help="leave the optimizer's state out of checkpoints")
    best_checkpoint_metric: str = arg("loss", help="value of the first validation set that decides, such as wer")
    maximize_best_checkpoint_metric: bool = arg(
        False, help="larger is better; known by name for accuracy, and against the sense of losses and error rates"
    )
    patience: int = arg(-1, help="stop after N validations without improvement; -1: never")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "save_interval")
        check_range(self, 0, math.inf, "save_interval_updates")
        if self.finetune_from_model and self.restore_file != "checkpoint_last.pt":
            raise ConfigError("--finetune-from-model and --restore-file exclude each other; give one of them")

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value of the metric is better: known by its name, or said by the flag."""
        return self.maximize_best_checkpoint_metric or self.best_checkpoint_metric in LARGER_IS_BETTER

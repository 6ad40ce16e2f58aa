"""The original's files of options and its Hydra command lines: same sections and keys as its published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim import LR_SCHEDULERS, build_schedule
from w2v.training.options import parse_train_command


def finetuning() -> dict[str, dict[str, Any]]:
    """Sections and keys of a published file of fine-tuning, with the values of the 100-hour one."""
    return {
        "common": {"fp16": True, "log_format": "json", "log_interval": 200},
        "checkpoint": {"no_epoch_checkpoints": True, "best_checkpoint_metric": "wer"},
        "task": {"_name": "audio_finetuning", "data": "???", "normalize": False, "labels": "ltr"},
        "dataset": {"num_workers": 6, "max_tokens": 3200000, "skip_invalid_size_inputs_valid_test": True,
                    "valid_subset": "dev_other"},
        "distributed_training": {"ddp_backend": "legacy_ddp", "distributed_world_size": 2},
        "criterion": {"_name": "ctc", "zero_infinity": True},
        "optimization": {"max_update": 80000, "lr": [0.00003], "sentence_avg": True, "update_freq": [4]},
        "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-08},
        "lr_scheduler": {"_name": "tri_stage", "phase_ratio": [0.1, 0.4, 0.5], "final_lr_scale": 0.05},
        "model": {"_name": "wav2vec_ctc", "w2v_path": "???", "apply_mask": True, "mask_prob": 0.65,
                  "mask_channel_prob": 0.5, "mask_channel_length": 64, "layerdrop": 0.1, "activation_dropout": 0.1,
                  "feature_grad_mult": 0.0, "freeze_finetune_updates": 0},
    }  # fmt: skip


def pretraining() -> dict[str, dict[str, Any]]:
    return {
        "common": {"fp16": True, "log_format": "json", "log_interval": 200},
        "checkpoint": {"save_interval_updates": 25000, "keep_interval_updates": 1, "no_epoch_checkpoints": True},
        "task": {"_name": "audio_pretraining", "data": "???", "max_sample_size": 320000, "min_sample_size": 32000,
                 "normalize": True},
        "dataset": {"num_workers": 6, "max_tokens": 1200000, "skip_invalid_size_inputs_valid_test": True},
        "distributed_training": {"distributed_world_size": 128, "ddp_backend": "legacy_ddp"},
        "criterion": {"_name": "wav2vec", "infonce": True, "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
                      "loss_weights": [0.1, 0]},
        "optimization": {"max_update": 1000000, "lr": [0.005]},
        "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-06, "weight_decay": 0.01},
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32000},
        "model": {"_name": "wav2vec2", "quantize_targets": True, "extractor_mode": "layer_norm", "final_dim": 768,
                  "layer_norm_first": True, "latent_temp": [2.0, 0.1, 0.999995], "encoder_layerdrop": 0.0,
                  "dropout_input": 0.0, "dropout_features": 0.0, "dropout": 0.0, "attention_dropout": 0.0,
                  "conv_bias": True, "encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096,
                  "encoder_attention_heads": 16, "feature_grad_mult": 1.0},
    }  # fmt: skip


def parse(tmp_path: Path, sections: dict[str, Any], *argv: Any) -> Any:
    (tmp_path / "x.yaml").write_text("# @package _group_\n\n" + yaml.safe_dump(sections))
    return parse_train_command(["--config", str(tmp_path / "x.yaml"), *map(str, argv)]).config


def test_a_file_of_fine_tuning(tmp_path: Path) -> None:
    config = parse(tmp_path, finetuning(), "DATA", "--w2v-path", "MODEL")
    assert config.criterion.config.sentence_avg
    assert config.lr_scheduler.config.phase_ratio == (0.1, 0.4, 0.5)
    assert (config.task.config.data, config.model.config.w2v_path) == ("DATA", "MODEL")
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+: w2v_path is \?\?\?: give --w2v-path"):
        parse(tmp_path, finetuning(), "DATA")
    with pytest.raises(
        ConfigError, match=r"x\.yaml:\d+: data is \?\?\?: give the data folder|arguments are required: data"
    ):
        parse(tmp_path, finetuning(), "--w2v-path", "MODEL")


def test_the_same_by_hydras_command_line(tmp_path: Path) -> None:
    typed = parse(tmp_path, finetuning(), "DATA", "--w2v-path", "MODEL", "--update-freq", "12", "--no-fp16")
    words = ["task.data=DATA", "model.w2v_path=MODEL", "+optimization.update_freq=[12]", "common.fp16=false",
             "--config-dir", str(tmp_path), "--config-name", "x"]  # fmt: skip
    assert parse_train_command(words).config.to_plain() == typed.to_plain()


def test_references_within_a_file(tmp_path: Path) -> None:
    sections = finetuning()
    sections["distributed_training"] = {"distributed_world_size": 4}
    sections["dataset"]["num_workers"] = "${distributed_training.distributed_world_size}"
    sections["checkpoint"]["save_dir"] = "${task.data}"
    config = parse(tmp_path, sections, "--w2v-path", "MODEL", "task.data=HERE")
    assert (config.dataset.num_workers, config.checkpoint.save_dir) == (4, "HERE")
    for text in ("${env:HOME}", "${oc.env:HOME}", "${task.none}", "${task.data}/model.pt", "x-${task.data}"):
        sections["model"]["w2v_path"] = text
        with pytest.raises(ConfigError, match=r"x\.yaml:\d+: w2v_path: .* is no option of this file.*write the value"):
            parse(tmp_path, sections, "task.data=HERE")


def test_defaults_that_join_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+: defaults: Hydra joins files by it: write their sections into"):
        parse(tmp_path, finetuning() | {"defaults": [{"task": "audio_finetuning"}]}, "DATA", "--w2v-path", "MODEL")


def test_a_file_of_pretraining(tmp_path: Path) -> None:
    config = parse(tmp_path, pretraining(), "DATA")
    assert config.model.config.layer_norm_first
    schedule = build_schedule(config.lr_scheduler.entry, config.lr_scheduler.config, config.optimization)
    # Halfway from the end of the warm-up to --max-update, half of the rate is left.
    assert schedule.lr(516_000, 1) == pytest.approx(0.0025)
    assert schedule.lr(1_000_000, 1) == 0


def test_sentence_avg_with_a_criterion_that_knows_none(tmp_path: Path) -> None:
    sections = pretraining()
    sections["optimization"]["sentence_avg"] = True
    assert parse(tmp_path, sections, "DATA").criterion.entry.name == "wav2vec"


def test_language_model_of_validation(tmp_path: Path) -> None:
    sections = finetuning()
    sections["criterion"] |= {"wer_kenlm_model": "lm.bin", "wer_lexicon": "lexicon.lst", "wer_lm_weight": 6,
                              "wer_word_score": -0.1, "post_process": "letter"}  # fmt: skip
    sections["hydra"] = {"job": {"config": {"override_dirname": {"kv_sep": ":"}}}, "sweep": {"dir": "${env:USER}"}}
    config = parse(tmp_path, sections, "DATA", "--w2v-path", "MODEL")
    assert config.criterion.config.wer_args == ("lm.bin", "lexicon.lst", 6.0, -0.1)
    sections["criterion"]["wer_sil_weight"] = -4.7
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+: wer_sil_weight: silence has no weight"):
        parse(tmp_path, sections, "DATA", "--w2v-path", "MODEL")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("common", "tpu", "w2v-train has no tpu: TPUs are not supported"),
        ("task", "num_batch_buckets", "it is for TPUs"),
        ("optimization", "use_bmuf", "w2v-train has no use_bmuf"),
        ("optimization", "max_updates", "unknown option 'max_updates'; did you mean 'max_update'"),
    ],
)
def test_what_has_no_counterpart(tmp_path: Path, section: str, key: str, message: str) -> None:
    sections = pretraining()
    sections[section][key] = True
    with pytest.raises(ConfigError, match=rf"x\.yaml:\d+: .*{message}"):
        parse(tmp_path, sections, "DATA")
    if key != "max_updates":
        sections[section][key] = False
        parse(tmp_path, sections, "DATA")


def schedule(name: str, max_update: int, **options: Any) -> Any:
    entry = LR_SCHEDULERS.get(name)
    return build_schedule(entry, entry.config(**options), OptimizationConfig(lr=(1.0,), max_update=max_update))


def test_phases_are_shares_of_the_run() -> None:
    ours = schedule("tri_stage", 1000, phase_ratio=(0.1, 0.4, 0.5))
    steps = schedule("tri_stage", 1000, warmup_steps=100, hold_steps=400, decay_steps=500)
    assert [ours.lr(n, 1) for n in range(0, 1100, 7)] == [steps.lr(n, 1) for n in range(0, 1100, 7)]
    with pytest.raises(ConfigError, match="--phase-ratio needs --max-update"):
        schedule("tri_stage", 0, phase_ratio=(0.1, 0.4, 0.5))
    with pytest.raises(ConfigError, match="add up to 1"):
        schedule("tri_stage", 10, phase_ratio=(0.1, 0.4, 0.6))


def test_a_decay_ends_where_the_run_does() -> None:
    assert schedule("polynomial_decay", 200).lr(100, 1) == 0.5
    assert schedule("polynomial_decay", 200, total_num_update=400).lr(100, 1) == 0.75
    assert schedule("polynomial_decay", 0).lr(100, 1) == pytest.approx(0.9999)
    with pytest.raises(ConfigError, match="--max-update must be above --warmup-updates, got 10 and 10"):
        schedule("polynomial_decay", 10, warmup_updates=10)


def test_a_rate_is_required() -> None:
    entry = LR_SCHEDULERS.get("fixed")
    with pytest.raises(ConfigError, match="--lr is required"):
        build_schedule(entry, entry.config(), OptimizationConfig())

"""What the original's files of options hold and no run here reads: a full dump of a run has all of it.

Such a dump is Hydra's `.hydra/config.yaml`, or the `cfg` of a checkpoint. Its sections and keys have no counterpart
here; each key stands beside the value under which it changes nothing (defaults of 2020 to 2025).
"""

from __future__ import annotations

from typing import Any

ANY: Any = object()
"""The key changes nothing here, whatever its value."""

UNREAD_SECTIONS = (
    "bmuf", "bpe", "common_eval", "ema", "eval_lm", "generation", "hydra", "interactive", "job_logging_cfg", "scoring",
    "simul_type", "tokenizer",
)  # fmt: skip
"""Sections of decoding, of evaluation, and of how Hydra starts and logs jobs."""

ARCHITECTURE: dict[str, tuple[Any, ...]] = {
    "layer_type": ("transformer",), "quantizer_depth": (1,), "blank_weight": (0,),
    "adp_num": (-1, None), "attn_type": ("", None), "pos_enc_type": ("abs", None), "conv_pos_batch_norm": (False,),
    "character_embeddings": (False,), "decoder_layers_to_keep": (None,), "self_target": (False,),
    "past_target": (False,), "output_dictionary_size": (-1,), "decoder_xformers_att_config": (None,),
}  # fmt: skip
"""Options that change what a trained model computes, and their only values here."""

NEUTRAL: dict[str, dict[str, Any]] = {
    "common": {
        "aim_repo": None, "aim_run_hash": ANY, "all_gather_list_size": ANY, "amp": False, "amp_batch_retries": ANY,
        "amp_init_scale": ANY, "amp_scale_window": ANY, "azureml_logging": False, "empty_cache_freq": ANY,
        "fp16_no_flatten_grads": ANY, "log_file": None, "memory_efficient_bf16": False, "model_parallel_size": 1,
        "on_cpu_convert_precision": ANY, "plasma_path": ANY, "profile": False, "quantization_config_path": None,
        "reset_logging": ANY, "suppress_crashes": ANY, "tpu": False, "use_plasma_view": ANY,
    },
    "distributed_training": {
        "cpu_offload": False, "ddp_comm_hook": "none", "distributed_num_procs": ANY, "distributed_wrapper": "DDP",
        "fast_stat_sync": ANY, "fp16": ANY, "fp32_reduce_scatter": False, "gradient_as_bucket_view": ANY,
        "localsgd_frequency": ANY, "memory_efficient_fp16": ANY, "no_reshard_after_forward": False,
        "not_fsdp_flatten_parameters": ANY, "nprocs_per_node": ANY,
        "pipeline_balance": None, "pipeline_checkpoint": "never", "pipeline_chunks": 0,
        "pipeline_decoder_balance": None, "pipeline_decoder_devices": None, "pipeline_devices": None,
        "pipeline_encoder_balance": None, "pipeline_encoder_devices": None, "pipeline_model_parallel": False,
        "slowmo_algorithm": ANY, "slowmo_base_algorithm": ANY, "slowmo_momentum": None, "tpu": False,
        "use_sharded_state": False, "zero_sharding": "none",
    },
    "dataset": {
        "combine_valid_subsets": False, "dataset_impl": None, "gen_subset": ANY, "grouped_shuffling": False,
        "ignore_unused_valid_subsets": ANY, "max_valid_steps": None, "num_shards": ANY, "num_batch_buckets": 0,
        "required_seq_len_multiple": ANY, "shard_id": ANY, "update_epoch_batch_itr": ANY,
        "update_ordered_indices_seed": ANY,
    },
    "optimization": {"debug_param_names": ANY, "skip_remainder_batch": False, "use_bmuf": False},
    "checkpoint": {
        "checkpoint_shard_count": 1, "checkpoint_suffix": "", "continue_once": None,
        "keep_interval_updates_pattern": -1, "load_checkpoint_on_all_dp_ranks": ANY, "model_parallel_size": 1,
        "optimizer_overrides": "{}", "write_checkpoints_asynchronously": ANY,
    },
    "task": {
        "autoregressive": False, "binarized_dataset": False, "dataset_impl": None, "eval_bleu": False,
        "eval_bleu_args": ANY, "eval_bleu_detok": ANY, "eval_bleu_detok_args": ANY, "eval_bleu_print_samples": ANY,
        "eval_bleu_remove_bpe": ANY, "eval_tokenized_bleu": ANY, "eval_wer": ANY, "eval_wer_config": ANY,
        "eval_wer_post_process": "letter", "eval_wer_tokenizer": None, "fine_tuning": False, "future_target": False,
        "inferred_w2v_config": None, "multi_corpus_keys": None, "multi_corpus_sampling_weights": None,
        "num_batch_buckets": 0, "output_dictionary_size": -1, "pad_to_fixed_bsz": False, "pad_to_fixed_length": False,
        "past_target": False, "plasma_path": ANY, "post_save_script": None, "precompute_mask_config": None,
        "precompute_mask_indices": False, "rebuild_batches": ANY, "self_target": False, "shorten_data_split_list": "",
        "shorten_method": "none", "single_target": False, "subsample": 1.0, "target_dictionary": None,
        "text_compression_level": ANY, "tpu": False, "use_plasma_view": ANY,
    },
    "model": {
        **{name: values[0] for name, values in ARCHITECTURE.items()},
        "adp_act_fn": ANY, "adp_dim": ANY, "adp_trf_idx": ANY, "base_layers": 0, "base_shuffle": ANY,
        "base_sublayers": ANY, "blank_mode": ANY, "char_embedder_highway_layers": ANY,
        "character_embedding_dim": ANY, "character_filters": ANY, "checkpoint_activations": False,
        "crop_seq_to_multiple": 1, "data": ANY, "ddp_backend": ANY, "depthwise_conv_kernel_size": ANY,
        "drop_path": 0.0, "fp16": ANY, "freeze_regex": None, "layer_decay": 1.0,
        "load_ema": False, "mask_channel_before": False, "mask_channel_min_space": 1,
        "mask_dropout": 0.0, "mask_min_space": 1, "max_positions": ANY, "min_params_to_wrap": ANY,
        "no_decoder_attention": False, "offload_activations": ANY, "quant_noise_pq": 0.0,
        "quant_noise_pq_block_size": ANY, "quant_noise_scalar": 0.0, "quantizer_factor": ANY, "relu_dropout": 0.0,
        "require_same_masks": True, "required_seq_len_multiple": ANY, "scale_attn": False, "scale_fc": False,
        "scale_heads": False, "scale_resids": False, "tpu": False, "update_alibi": ANY, "zero_mask": False,
    },
    "criterion": {"tpu": False},
    "optimizer": {"fp16_adam_stats": False, "tpu": False},
    "lr_scheduler": {"force_anneal": None},
}  # fmt: skip
"""Section -> key -> the value that changes nothing. Keys that a component has after all are its own."""

COPIES: dict[tuple[str, str], tuple[str, str]] = {
    ("optimizer", "lr"): ("optimization", "lr"),
    ("lr_scheduler", "lr"): ("optimization", "lr"),
    ("lr_scheduler", "max_update"): ("optimization", "max_update"),
    ("task", "seed"): ("common", "seed"),
    ("task", "batch_size"): ("dataset", "batch_size"),
    ("task", "batch_size_valid"): ("dataset", "batch_size_valid"),
    ("task", "data_buffer_size"): ("dataset", "data_buffer_size"),
    ("model", "normalize"): ("task", "normalize"),
    ("model", "label_rate"): ("task", "label_rate"),
    ("model", "infonce"): ("criterion", "infonce"),
    ("model", "add_bos_token"): ("task", "add_bos_token"),
    ("model", "tokens_per_sample"): ("task", "tokens_per_sample"),
    ("model", "max_target_positions"): ("task", "max_target_positions"),
}
"""Options that the original repeats where another part needs them -> the one that is read here."""

FOLLOWING: dict[tuple[str, str], tuple[str, str]] = {
    ("dataset", "max_tokens_valid"): ("dataset", "max_tokens"),
    ("dataset", "batch_size_valid"): ("dataset", "batch_size"),
    ("lr_scheduler", "total_num_update"): ("optimization", "max_update"),
}
"""Options that have the value of another one where they are not given, here as there."""


NOT_GIVEN: dict[tuple[str, str], Any] = {("distributed_training", "heartbeat_timeout"): -1}
"""Values of the original by which an option that is read here, too, is as if it were not given."""


def is_neutral(section: str, name: str, value: Any) -> bool:
    """Whether an option of the original that has no counterpart changes nothing: it has its value of `NEUTRAL`.

    What is not given (none), or refers to another option, changes nothing either.
    """
    if name not in NEUTRAL.get(section, {}):
        return False
    wanted = NEUTRAL[section][name]
    return wanted is ANY or value is None or is_reference(value) or bool(value == wanted)


def is_reference(value: Any) -> bool:
    """Whether a value is another option's, as `${task.data}` is."""
    return isinstance(value, str) and value.startswith("${")


def joins_nothing(defaults: Any) -> bool:
    """Whether Hydra's list `defaults` names no further file with options of training."""
    items = defaults if isinstance(defaults, list) else [defaults]
    return all(
        item in ("_self_", None)
        or (isinstance(item, dict) and all(file is None or group == "run_config" for group, file in item.items()))
        for item in items
    )

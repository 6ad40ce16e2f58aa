"""Flags of the original's training program that are not carried, each with what to do instead."""

from __future__ import annotations

_ONE_PARALLELISM = (
    "models are trained with data parallelism alone; start ranks with torchrun or --distributed-world-size"
)
_MODEL_TOO_LARGE = "the model is never split over GPUs; lower --max-tokens, and use --bf16"
_INFER_ONLY = "it belongs to w2v-infer"
_TEXT_TASKS = "text tasks of the original are not part of w2v"
_DROP = "leave it out; it changes nothing here"
_VALIDATION_LM = 'give --wer-args \'("LM", "LEXICON", LM weight, word score)\''
_EMA = "averages of weights are not kept"

RETIRED: dict[str, str] = {
    "--all-gather-list-size": _DROP,
    "--amp": "use --bf16 or --fp16, which run under torch's autocast",
    "--bpe": _TEXT_TASKS,
    "--checkpoint-activations": _MODEL_TOO_LARGE,
    "--checkpoint-shard-count": "checkpoints are always one file; leave it out",
    "--checkpoint-suffix": "checkpoints are always one file; leave it out",
    "--continue-once": "give --restore-file",
    "--cpu-offload": _MODEL_TOO_LARGE,
    "--dataset-impl": _TEXT_TASKS,
    "--distributed-num-procs": "use --distributed-world-size",
    "--distributed-wrapper": _ONE_PARALLELISM,
    "--ema-decay": _EMA,
    "--ema-fp32": _EMA,
    "--ema-start-update": _EMA,
    "--ema-update-freq": _EMA,
    "--empty-cache-freq": "torch's allocator needs no emptying; leave it out",
    "--eos": _TEXT_TASKS,
    "--eval-wer": "the word error rate is computed in validation wherever there are --labels; leave it out",
    "--eval-wer-post-process": "use --post-process",
    "--fa": "it belongs to --lr-scheduler fixed",
    "--fast-stat-sync": _DROP,
    "--force-anneal": "it belongs to --lr-scheduler fixed",
    "--fp16-no-flatten-grads": "weights stay in float32 tensors of their own; leave it out",
    "--gen-subset": _INFER_ONLY,
    "--heartbeat-timeout": _DROP,
    "--localsgd-frequency": _ONE_PARALLELISM,
    "--log-file": "redirect the output: w2v-train ... > FILE",
    "--memory-efficient-bf16": "use --bf16",
    "--model-parallel-size": _ONE_PARALLELISM,
    "--nprocs-per-node": "use torchrun --nproc-per-node",
    "--num-shards": _INFER_ONLY,
    "--optimizer-overrides": "the optimizer's options always come from the command line, also after a restart",
    "--pad": _TEXT_TASKS,
    "--pipeline-balance": _ONE_PARALLELISM,
    "--pipeline-checkpoint": _ONE_PARALLELISM,
    "--pipeline-chunks": _ONE_PARALLELISM,
    "--pipeline-decoder-balance": _ONE_PARALLELISM,
    "--pipeline-decoder-devices": _ONE_PARALLELISM,
    "--pipeline-devices": _ONE_PARALLELISM,
    "--pipeline-encoder-balance": _ONE_PARALLELISM,
    "--pipeline-encoder-devices": _ONE_PARALLELISM,
    "--pipeline-model-parallel": _ONE_PARALLELISM,
    "--profile": "use torch.profiler around w2v_cli.train.main",
    "--quantization-config-path": "quantization noise is not part of w2v",
    "--rebuild-batches": _DROP,
    "--required-seq-len-multiple": _DROP,
    "--scoring": _INFER_ONLY,
    "--shard-id": _INFER_ONLY,
    "--skip-remainder-batch": "no clip is ever dropped; leave it out",
    "--slowmo-algorithm": _ONE_PARALLELISM,
    "--slowmo-momentum": _ONE_PARALLELISM,
    "--suppress-crashes": "errors are one line and exit code 2 as it is; leave it out",
    "--tokenizer": _TEXT_TASKS,
    "--tpu": "TPUs are not supported",
    "--unk": _TEXT_TASKS,
    "--use-bmuf": _ONE_PARALLELISM,
    "--wandb-project": "use --tensorboard-logdir, or read the JSON lines of --log-format json",
    "--wer-kenlm-model": _VALIDATION_LM,
    "--wer-lexicon": _VALIDATION_LM,
    "--wer-lm-weight": _VALIDATION_LM,
    "--wer-sil-weight": _VALIDATION_LM,
    "--wer-word-score": _VALIDATION_LM,
    "--zero-sharding": _ONE_PARALLELISM,
}

"""Flags of the original's programs that are not carried, each with what to do instead."""

from __future__ import annotations

from collections.abc import Container, Sequence

from w2v.errors import ConfigError

_ONE_PARALLELISM = (
    "models are trained with data parallelism alone; start ranks with torchrun or --distributed-world-size"
)
_MODEL_TOO_LARGE = "divide the model over GPUs with --ddp-backend fully_sharded, lower --max-tokens, use --bf16"
_INFER_ONLY = "it belongs to w2v-infer"
_TEXT_TASKS = "text is read as it is, split at spaces, or into letters with --unit letter"
_OTHER_TARGETS = "a language model here says the next word"
_QUANT_NOISE = "quantization noise is not part of w2v"
_DROP = "leave it out; it changes nothing here"
_NEVER_READ = "the original never reads it"
_VALIDATION_LM = 'give --wer-args \'("LM", "LEXICON", LM weight, word score)\''
_EMA = "averages of weights are not kept"

TRAIN: dict[str, str] = {
    "--all-gather-list-size": _DROP,
    "--amp": "use --bf16 or --fp16, which run under torch's autocast",
    "--bpe": _TEXT_TASKS,
    "--char-embedder-highway-layers": "use --unit letter",
    "--character-embedding-dim": "use --unit letter",
    "--character-filters": "use --unit letter",
    "--checkpoint-shard-count": "checkpoints are always one file; leave it out",
    "--checkpoint-suffix": "checkpoints are always one file; leave it out",
    "--continue-once": "give --restore-file",
    "--cpu-offload": _MODEL_TOO_LARGE,
    "--dataset-impl": _TEXT_TASKS,
    "--decoder-layers-to-keep": "train with fewer --decoder-layers",
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
    "--future-target": _OTHER_TARGETS + "; leave it out",
    "--gen-subset": _INFER_ONLY,
    "--lazy-load": "text is held as an array of numbers; leave it out",
    "--localsgd-frequency": _ONE_PARALLELISM,
    "--log-file": "redirect the output: w2v-train ... > FILE",
    "--memory-efficient-bf16": "use --bf16",
    "--model-parallel-size": _ONE_PARALLELISM,
    "--inferred-w2v-config": "it is for TPUs; leave it out",
    "--nprocs-per-node": "use torchrun --nproc-per-node",
    "--num-batch-buckets": "it is for TPUs; leave it out",
    "--num-shards": _INFER_ONLY,
    "--optimizer-overrides": "the optimizer's options always come from the command line, also after a restart",
    "--output-dictionary-size": "use --nwordssrc",
    "--pad": _TEXT_TASKS,
    "--past-target": _OTHER_TARGETS,
    "--pipeline-balance": _ONE_PARALLELISM,
    "--pipeline-checkpoint": _ONE_PARALLELISM,
    "--pipeline-chunks": _ONE_PARALLELISM,
    "--pipeline-decoder-balance": _ONE_PARALLELISM,
    "--pipeline-decoder-devices": _ONE_PARALLELISM,
    "--pipeline-devices": _ONE_PARALLELISM,
    "--pipeline-encoder-balance": _ONE_PARALLELISM,
    "--pipeline-encoder-devices": _ONE_PARALLELISM,
    "--pipeline-model-parallel": _ONE_PARALLELISM,
    "--precompute-mask-indices": "it is for TPUs; leave it out",
    "--profile": "use torch.profiler around w2v_cli.train.main",
    "--quant-noise-pq": _QUANT_NOISE,
    "--quant-noise-pq-block-size": _QUANT_NOISE,
    "--quant-noise-scalar": _QUANT_NOISE,
    "--quantization-config-path": _QUANT_NOISE,
    "--raw-text": _TEXT_TASKS,
    "--rebuild-batches": _DROP,
    "--required-seq-len-multiple": _DROP,
    "--scoring": _INFER_ONLY,
    "--self-target": _OTHER_TARGETS,
    "--shard-id": _INFER_ONLY,
    "--shorten-data-split-list": "samples over --max-target-positions are left out",
    "--shorten-method": "samples over --max-target-positions are left out",
    "--skip-remainder-batch": "no clip is ever dropped; leave it out",
    "--slowmo-algorithm": _ONE_PARALLELISM,
    "--slowmo-momentum": _ONE_PARALLELISM,
    "--suppress-crashes": "errors are one line and exit code 2 as it is; leave it out",
    "--tokenizer": _TEXT_TASKS,
    "--tpu": "TPUs are not supported",
    "--unk": _TEXT_TASKS,
    "--use-bmuf": _ONE_PARALLELISM,
    "--wer-kenlm-model": _VALIDATION_LM,
    "--wer-lexicon": _VALIDATION_LM,
    "--wer-lm-weight": _VALIDATION_LM,
    "--wer-sil-weight": _VALIDATION_LM,
    "--wer-word-score": _VALIDATION_LM,
    "--zero-sharding": "use --ddp-backend fully_sharded",
}
INFER: dict[str, str] = {
    "--dump-features": "w2v-featurize writes the encoder's frames",
    "--kspmodel": _NEVER_READ,
    "--rnnt_decoding_type": _NEVER_READ,
    "--rnnt_len_penalty": _NEVER_READ,
    "--wfstlm": _NEVER_READ,
}
UNSUPPORTED_FLAGS = {"w2v-train": TRAIN, "w2v-infer": INFER}


def refuse_unsupported(argv: Sequence[str], program: str, known: Container[str] = ()) -> None:
    """Refuse a flag that `program` had in the original.

    Args:
        argv: the command line.
        program: as the user typed it; `w2v-infer tune` has the flags of `w2v-infer`.
        known: flags that the chosen components have after all.

    Raises:
        ConfigError: naming the flag and what to do instead.
    """
    table = UNSUPPORTED_FLAGS[program.split()[0]]
    for token in argv:
        flag = token.split("=")[0]
        if flag in table and flag not in known:
            raise ConfigError(f"{program} has no {flag}: {table[flag]}")

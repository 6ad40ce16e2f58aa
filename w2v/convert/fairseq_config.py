"""Options of the original's checkpoints, in the sections and names used here.

Three generations: a flat `args`; a `cfg` of omegaconf nodes whose components may be flat, too; a nested `cfg` of plain
dicts. What this release does not know is left out by an explicit list, or with a note; what would change the model's
output is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from w2v.config import options_of
from w2v.config.original_keys import ARCHITECTURE
from w2v.convert.model_file import ENCODER, HUBERT, LANGUAGE_MODEL, MASKED_MODEL
from w2v.criterions import CRITERIONS
from w2v.errors import CheckpointError
from w2v.models import MODELS
from w2v.registry import Registry

logger = logging.getLogger(__name__)

TASK_OPTIONS = (
    "data", "sample_rate", "normalize", "max_sample_size", "min_sample_size", "enable_padding", "labels",
)  # fmt: skip
LM_TASK_OPTIONS = ("sample_break_mode", "tokens_per_sample", "max_target_positions", "add_bos_token")
MASKED_TASK_OPTIONS = (
    "sample_break_mode", "tokens_per_sample", "mask_prob", "leave_unmasked_prob", "random_token_prob",
    "freq_weighted_replacement", "mask_multiple_length", "mask_stdev", "shorten_method", "shorten_data_split_list",
)  # fmt: skip
HUBERT_TASK_OPTIONS = (*TASK_OPTIONS, "label_rate", "label_dir", "max_keep_size", "random_crop", "pad_audio")
RENAMED = {"hubert_ctc": "wav2vec_ctc", "data2vec_audio": ENCODER}
"""Models of the original that are others here, as their encoder is the same; heads of pretraining are left out."""
KEYS = {"task": "task", "model": "arch", "criterion": "criterion"}

# Options of later versions that do not change what a trained model computes.
LEFT_OUT = {
    "adp_act_fn", "adp_dim", "adp_trf_idx", "checkpoint_activations", "crop_seq_to_multiple", "data", "ddp_backend",
    "depthwise_conv_kernel_size", "drop_path", "fp16", "freeze_regex", "layer_decay", "load_ema", "mask_channel_before",
    "mask_channel_min_space", "mask_dropout", "mask_min_space", "max_positions", "min_params_to_wrap", "normalize",
    "offload_activations", "quantizer_factor", "require_same_masks", "required_seq_len_multiple", "update_alibi",
    "zero_mask", "blank_mode", "infonce", "label_rate",
    # of language models: noise of training, and what belongs to their task here
    "quant_noise_pq", "quant_noise_pq_block_size", "quant_noise_scalar", "relu_dropout", "character_embedding_dim",
    "character_filters", "char_embedder_highway_layers", "adaptive_softmax_dropout", "add_bos_token",
    "max_target_positions", "tokens_per_sample", "tpu", "base_layers", "base_shuffle", "base_sublayers",
    "no_decoder_attention", "scale_fc", "scale_attn", "scale_heads", "scale_resids",
}  # fmt: skip


class FairseqConfig:
    """Reads the options of one checkpoint.

    Args:
        where: the file, for messages.

    Attributes:
        notes: what was filled in or left out.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.notes: list[str] = []

    def sections(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the sections `task`, `model` and `criterion`, each with `_name`.

        Args:
            config: plain data of `args` (flat) or `cfg` (nested).

        Raises:
            CheckpointError: a component is missing or unknown here, or has an option that is not carried.
        """
        config = self.upgrade(config)
        model = self._component("model", MODELS, config)
        sections = {"task": self._task(config, model["_name"]), "model": model}
        if self._name("criterion", config) in CRITERIONS.names():
            sections["criterion"] = self._component("criterion", CRITERIONS, config)
            # The newer name of an option of the CTC criterion.
            post_process = self._values("criterion", config).get("remove_bpe")
            if model["_name"] == "wav2vec_ctc" and _is_given(post_process):
                sections["criterion"].setdefault("post_process", post_process)
        return sections

    def _task(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Return the options of the task that trains such a model here."""
        is_language_model = model.startswith(LANGUAGE_MODEL)
        name = "language_modeling" if is_language_model else "audio_pretraining"
        options: tuple[str, ...] = LM_TASK_OPTIONS if is_language_model else TASK_OPTIONS
        if model.startswith(MASKED_MODEL):
            name, options = "masked_lm", MASKED_TASK_OPTIONS
        if model == HUBERT:
            name, options = "hubert_pretraining", HUBERT_TASK_OPTIONS
        values = self._values("task", config)
        if is_language_model:
            self._check_only(values)
            values = {**self._values("model", config), **values}
        given = {option: values[option] for option in options if _is_given(values.get(option))}
        if isinstance(given.get("labels"), list):  # of HuBERT, one per label set
            given["labels"] = ",".join(map(str, given["labels"]))
        return {"_name": name, "data": ".", **given}

    # ---------------------------------------------------------------------------------------- upgrades

    def upgrade(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Bring options of older releases up to the names and kinds of October 2020; says what was changed."""
        config = dict(config)
        if "model" not in config:
            for step in (
                self._rename_task, self._rename_arch, self._rename_criterion, self._one_data_folder,
                self._rename_norms_of_language_models,
            ):  # fmt: skip
                step(config)
        return config

    def _rename_task(self, args: dict[str, Any]) -> None:
        if args.get("task") in ("speech_pretraining", None) and not str(args.get("arch")).startswith(MASKED_MODEL):
            self._note(f"task {args.get('task')!r} is audio_pretraining today")
            args["task"] = "audio_pretraining"

    def _rename_arch(self, args: dict[str, Any]) -> None:
        if args.get("arch") == "audio_cpc":
            self._note("arch 'audio_cpc' is wav2vec today")
            args["arch"] = "wav2vec"
        arch = args.get("arch")
        if isinstance(arch, str) and arch.startswith(LANGUAGE_MODEL) and arch not in MODELS.names():
            self._note(f"arch {arch!r} is {LANGUAGE_MODEL} with the sizes that the file has")
            args["arch"] = LANGUAGE_MODEL

    def _rename_norms_of_language_models(self, args: dict[str, Any]) -> None:
        if "no_tie_adaptive_proj" in args:
            self._note("a model of 2018: without a norm after the last block")
            args["no_decoder_final_norm"] = True
            args["tie_adaptive_proj"] = not args["no_tie_adaptive_proj"]
        if "decoder_final_norm" in args:
            args["no_decoder_final_norm"] = not args["decoder_final_norm"]

    def _rename_criterion(self, args: dict[str, Any]) -> None:
        if args.get("criterion") == "binary_cross_entropy":
            self._note("criterion 'binary_cross_entropy' is wav2vec without --infonce today")
            args["criterion"] = "wav2vec"

    def _one_data_folder(self, args: dict[str, Any]) -> None:
        if isinstance(args.get("data"), list):
            self._note("several data folders: the first one is kept")
            args["data"] = args["data"][0] if args["data"] else "."

    # -------------------------------------------------------------------------------------- components

    def _values(self, section: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a section; a flat `args` holds those of all sections."""
        if "model" not in config:
            return dict(config)
        values = config.get(section)
        return dict(values) if isinstance(values, Mapping) else {}

    def _name(self, section: str, config: Mapping[str, Any]) -> str | None:
        values = self._values(section, config)
        name = values.get("_name") or values.get(KEYS[section]) if values else None
        if name is None and isinstance(config.get(section), str):
            name = config[section]
        return RENAMED.get(name, name) if isinstance(name, str) else None

    def _component(self, section: str, registry: Registry[Any], config: Mapping[str, Any]) -> dict[str, Any]:
        name = self._name(section, config)
        if name is None:
            raise CheckpointError(f"{self.where}: its configuration names no {section}")
        if name not in registry.names():
            known = ", ".join(registry.names())
            raise CheckpointError(f"{self.where}: holds a {section} {name!r}, which is not known here; known: {known}")
        entry = registry.get(name)
        values = self._values(section, config)
        options = options_of(entry.config)
        known_names = {option.name for option in options}
        plain: dict[str, Any] = {"_name": name}
        for option in options:
            value = values.get(option.name)
            if option.name == "w2v_args" or not _is_given(value):
                continue
            plain[option.name] = str(value) if option.name == "offset" else value
        if section == "model":
            self._check_only(values)
            if "_name" in values and "arch" not in values:  # a flat one holds the options of all components
                self._note_unknown(values.keys() - known_names - LEFT_OUT - ARCHITECTURE.keys() - {"_name", "w2v_args"})
            missing = sorted(known_names - values.keys() - NEW_HERE - {"encoder"})
            if missing:
                self._note(f"options of {name} that the file lacks take their defaults: {', '.join(missing)}")
            if name == "wav2vec_ctc" and isinstance(values.get("w2v_args"), Mapping):
                plain["w2v_args"] = self.encoder(values["w2v_args"])
        return plain

    def encoder(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the encoder in a fine-tuned checkpoint (`w2v_args`)."""
        return self._component("model", MODELS, self.upgrade(config))

    def _check_only(self, values: Mapping[str, Any]) -> None:
        for name, allowed in ARCHITECTURE.items():
            if name in values and values[name] not in allowed:
                found = str(values[name])[:40]
                raise CheckpointError(
                    f"{self.where}: was trained with {name} = {found!r}; only {allowed[0]!r} is known here"
                )

    def _note_unknown(self, names: set[str]) -> None:
        if names:
            self._note(f"options that are not known here are left out: {', '.join(sorted(names))[:500]}")

    def _note(self, text: str) -> None:
        self.notes.append(text)


# Options that the original never had.
NEW_HERE = {"original_padding", "w2v_args", "num_classes", "adapter_attn_dim", "bert_path", "bert_args"}


def _is_given(value: Any) -> bool:
    """Whether a value is one, and not an interpolation of omegaconf."""
    return value is not None and not (isinstance(value, str) and value.startswith("${"))

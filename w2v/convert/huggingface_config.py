"""Options of a wav2vec 2.0 model, as `config.json` of Hugging Face has them, both ways.

What that file has no word for (Gumbel temperatures, mask laws, ...) travels under its key `w2v`, which transformers
keeps and ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2v.config import build_config, to_plain
from w2v.convert.model_file import CTC, ENCODER, HUBERT, LANGUAGE_MODEL, PRETRAINING, ModelFile, count
from w2v.errors import CheckpointError
from w2v.models import MODELS

CLASSES = {
    "Wav2Vec2ForPreTraining": PRETRAINING, "Wav2Vec2ForCTC": CTC, "Wav2Vec2Model": ENCODER, "HubertForCTC": CTC,
    "HubertModel": ENCODER, "Data2VecAudioForCTC": CTC, "Data2VecAudioModel": ENCODER,
}  # fmt: skip
FAMILIES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "data2vec-audio": "Data2VecAudio"}
"""`model_type`, and what the names of its classes begin with."""
ACTIVATIONS = {"gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "relu": "relu", "tanh": "tanh"}
OUR_ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_accurate", "gelu_fast": "gelu_accurate", "relu": "relu", "tanh": "tanh",
}  # fmt: skip

# (ours, theirs): options that mean the same.
ENCODER_OPTIONS = (
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("layer_norm_first", "do_stable_layer_norm"),
    ("conv_bias", "conv_bias"),
    ("conv_pos", "num_conv_pos_embeddings"),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
)
RATES = (
    ("dropout", "hidden_dropout"),
    ("attention_dropout", "attention_dropout"),
    ("activation_dropout", "activation_dropout"),
    ("dropout_input", "feat_proj_dropout"),
    ("mask_prob", "mask_time_prob"),
    ("mask_length", "mask_time_length"),
    ("mask_channel_prob", "mask_feature_prob"),
    ("mask_channel_length", "mask_feature_length"),
)
PRETRAINING_OPTIONS = (
    ("final_dim", "proj_codevector_dim"),
    ("latent_dim", "codevector_dim"),
    ("latent_vars", "num_codevectors_per_group"),
    ("latent_groups", "num_codevector_groups"),
    ("logit_temp", "contrastive_logits_temperature"),
    ("num_negatives", "num_negatives"),
    ("dropout_features", "feat_quantizer_dropout"),
)
# The defaults of their class, for keys that a file leaves out.
THEIR_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "do_stable_layer_norm": False, "conv_bias": False, "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16, "hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0, "mask_time_prob": 0.05, "mask_time_length": 10, "mask_feature_prob": 0.0,
    "mask_feature_length": 10, "proj_codevector_dim": 256, "codevector_dim": 256, "num_codevectors_per_group": 320,
    "num_codevector_groups": 2, "contrastive_logits_temperature": 0.1, "num_negatives": 100,
    "feat_quantizer_dropout": 0.0, "layerdrop": 0.1, "final_dropout": 0.1, "hidden_act": "gelu",
    "feat_extract_norm": "group", "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "apply_spec_augment": True, "ctc_zero_infinity": False,
}  # fmt: skip
DATA2VEC_DEFAULTS = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}
# Variants of their classes that compute something else.
ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": tuple(FAMILIES), "feat_proj_layer_norm": (True,), "conv_pos_batch_norm": (False,),
    "add_adapter": (False, None),
    "layer_norm_eps": (1e-5,), "feat_extract_activation": ("gelu",),
}  # fmt: skip


def encoder_options(file: ModelFile) -> dict[str, Any]:
    """Return all options of the encoder of a wav2vec 2.0 model; a fine-tuned one's own win.

    Raises:
        CheckpointError: the model is of another family.
    """
    if file.name not in MODELS.names() or MODELS.get(file.name).defined_in.split(".")[2] == "wav2vec":
        raise CheckpointError(f"{file.path}: only wav2vec 2.0 has a counterpart in Hugging Face, this is {file.name}")
    entry = MODELS.get(file.name)
    config: Any = build_config(entry.config, {**entry.overrides, **file.config["model"]}, file.path)
    if hasattr(config, "encoder_overrides"):
        values = dict(config.w2v_args or {})
        base = MODELS.get(values.get("_name", PRETRAINING))
        encoder = to_plain(build_config(base.config, {**base.overrides, **values}, file.path))
        return {**encoder, **config.encoder_overrides()}
    return to_plain(config)


def kind_of(file: ModelFile) -> str:
    """Return `wav2vec2`, `wav2vec_ctc` or `wav2vec2_encoder`, whatever preset the model was made by."""
    config = MODELS.get(file.name).config.__name__
    return {"Wav2Vec2Config": PRETRAINING, "Wav2VecCtcConfig": CTC, "HubertConfig": HUBERT}.get(config, ENCODER)


def family_of(file: ModelFile) -> str:
    """Return their `model_type`: `wav2vec2`, `hubert`, or `data2vec-audio` for several positional convolutions."""
    if encoder_options(file).get("pos_conv_depth", 1) > 1:
        return "data2vec-audio"
    name = str((file.config["model"].get("w2v_args") or file.config["model"]).get("_name", ""))
    return HUBERT if name.startswith(HUBERT) else PRETRAINING


def to_their_config(file: ModelFile) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        CheckpointError: the model has a part that Hugging Face's classes lack.
    """
    if file.name.startswith(LANGUAGE_MODEL):
        raise CheckpointError(f"--to huggingface: {file.path} is a language model, which its classes do not fit")
    options, kind, family = encoder_options(file), kind_of(file), family_of(file)
    for name, what in (("quantize_input", "--quantize-input"), ("target_glu", "--target-glu")):
        if options.get(name) and kind != HUBERT:
            raise CheckpointError(f"--to huggingface: {file.path} was trained with {what}, which its models lack")
    if kind == PRETRAINING and not options.get("quantize_targets"):
        raise CheckpointError(f"--to huggingface: {file.path} has no quantizer, which Wav2Vec2ForPreTraining needs")
    if options["activation_fn"] not in ACTIVATIONS:
        raise CheckpointError(f"--to huggingface: it has no activation {options['activation_fn']}")
    layers = [list(layer) for layer in options["conv_feature_layers"]]
    name = FAMILIES[family] + {PRETRAINING: "ForPreTraining", CTC: "ForCTC"}.get(kind, "Model")
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": family,
        "hidden_act": ACTIVATIONS[options["activation_fn"]],
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": "layer" if options["extractor_mode"] == "layer_norm" else "group",
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(layers),
        "conv_dim": [layer[0] for layer in layers],
        "conv_kernel": [layer[1] for layer in layers],
        "conv_stride": [layer[2] for layer in layers],
        "layerdrop": options["encoder_layerdrop"],
        "mask_time_min_masks": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "w2v": {name: dict(values) for name, values in file.config.items() if name in ("task", "model", "criterion")},
    }
    config |= {theirs: options[ours] for ours, theirs in ENCODER_OPTIONS + RATES}
    config["adapter_attn_dim"] = options.get("adapter_attn_dim") or None
    if family == "data2vec-audio":
        depth = options["pos_conv_depth"]
        config |= {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": max(3, options["conv_pos"] // depth)}
    if kind == PRETRAINING:
        config |= {theirs: options[ours] for ours, theirs in PRETRAINING_OPTIONS}
        config["proj_codevector_dim"] = options["final_dim"] or options["encoder_embed_dim"]
        config["codevector_dim"] = options["latent_dim"] or config["proj_codevector_dim"]
    if kind == CTC:
        model = file.config["model"]
        config["vocab_size"] = len(file.symbols or ())
        config["final_dropout"] = model.get("final_dropout", 0.0)
        config["apply_spec_augment"] = bool(model.get("apply_mask", False))
        config["ctc_loss_reduction"] = "sum"
        config["ctc_zero_infinity"] = bool(file.config.get("criterion", {}).get("zero_infinity", False))
    return config


def _refuse_variants(config: Mapping[str, Any], where: str) -> None:
    """Raise a CheckpointError where a setting has a value that this library does not compute."""
    for name, allowed in ONLY.items():
        if name in config and config[name] not in allowed:
            raise CheckpointError(
                f"{where}: has {name} = {str(config[name])[:40]!r}; only {allowed[0]!r} is known here"
            )


def from_their_config(config: Mapping[str, Any], kind: str, where: str) -> dict[str, dict[str, Any]]:
    """Return the sections `model` and `criterion`.

    Raises:
        CheckpointError: the model is a variant that is not known here.
    """
    _refuse_variants(config, where)
    is_data2vec = config.get("model_type") == "data2vec-audio"
    get = {**THEIR_DEFAULTS, **(DATA2VEC_DEFAULTS if is_data2vec else {}), **config}
    rates = {ours: get[theirs] for ours, theirs in RATES}
    encoder = _encoder_of(get, where, is_data2vec=is_data2vec)
    before = sections_before(config, where)
    if kind == PRETRAINING:
        encoder |= {ours: get[theirs] for ours, theirs in PRETRAINING_OPTIONS}
        encoder["quantize_targets"] = True
        # Both may be 0 for "as wide as the next one".
        if encoder["latent_dim"] == encoder["final_dim"]:
            encoder["latent_dim"] = 0
        if encoder["final_dim"] == encoder["encoder_embed_dim"]:
            encoder["final_dim"] = before.get("model", {}).get("final_dim", 0)
    if kind != CTC:
        rates["encoder_layerdrop"] = get["layerdrop"]
        return {"model": {**before.get("model", {}), **encoder, **rates, "_name": kind}}
    own = {
        **rates,
        "layerdrop": get["layerdrop"],
        "final_dropout": get["final_dropout"],
        "apply_mask": bool(get["apply_spec_augment"]),
    }
    old = before.get("model", {})
    old_encoder = old.get("w2v_args")
    # The rates of fine-tuning replace the encoder's own when the model is built.
    encoder = {**rates, **(old_encoder if isinstance(old_encoder, dict) else {}), **encoder}
    encoder["_name"] = HUBERT if config.get("model_type") == HUBERT else PRETRAINING
    criterion = {"_name": "ctc", "zero_infinity": bool(get["ctc_zero_infinity"])}
    return {
        "model": {**old, **own, "_name": CTC, "w2v_args": encoder},
        "criterion": {**before.get("criterion", {}), **criterion},
    }


def _encoder_of(get: Mapping[str, Any], where: str, *, is_data2vec: bool) -> dict[str, Any]:
    """Return what the encoder is made of.

    Raises:
        CheckpointError: it is a variant that is not known here.
    """
    convolutions = [get["conv_dim"], get["conv_kernel"], get["conv_stride"]]
    if not all(isinstance(row, list) for row in convolutions) or len({len(row) for row in convolutions}) != 1:
        raise CheckpointError(f"{where}: conv_dim, conv_kernel and conv_stride must be lists of the same length")
    for option, known in (("hidden_act", tuple(OUR_ACTIVATIONS)), ("feat_extract_norm", ("group", "layer"))):
        if get[option] not in known:
            raise CheckpointError(f"{where}: has {option} = {str(get[option])[:40]!r}; known here: {', '.join(known)}")
    encoder = {ours: get[theirs] for ours, theirs in ENCODER_OPTIONS}
    encoder |= {
        "activation_fn": OUR_ACTIVATIONS[get["hidden_act"]],
        "extractor_mode": "layer_norm" if get["feat_extract_norm"] == "layer" else "default",
        "conv_feature_layers": [list(layer) for layer in zip(*convolutions, strict=True)],
    }
    # Their post-norm blocks have none, whatever this says.
    encoder["adapter_attn_dim"] = (get.get("adapter_attn_dim") or 0) if get["do_stable_layer_norm"] else 0
    if is_data2vec:
        encoder["pos_conv_depth"] = get["num_conv_pos_embeddings"]
        encoder["conv_pos"] = get["num_conv_pos_embeddings"] * get["conv_pos_kernel_size"]
        encoder["extractor_mode"] = "layer_norm"
    return encoder


def sections_before(config: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the sections that `to_their_config` hid in the file."""
    sections = config.get("w2v") or {}
    if not isinstance(sections, dict) or not all(isinstance(values, dict) for values in sections.values()):
        raise CheckpointError(f"{where}: its key w2v must hold sections of options")
    return sections


def progress_before(sections: Mapping[str, dict[str, Any]]) -> tuple[int, str]:
    """Return how many updates a model has seen, and its score in words, from what `sections_before` returns."""
    trainer = sections.get("trainer", {})
    return count(trainer.get("num_updates", 0)), str(trainer.get("score", ""))

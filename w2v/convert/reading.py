"""Opens a model of any kind: ours, the original's three generations, safetensors, Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.checkpoint.file import check_version
from w2v.checkpoint.torch_file import read_torch_file
from w2v.checkpoint.unpickle import Record, UnsafePickleError, plain_data
from w2v.config.named_files import meant
from w2v.convert.encoder_shape import infer_encoder
from w2v.convert.fairseq_config import FairseqConfig
from w2v.convert.hubert_model import complete_hubert
from w2v.convert.huggingface_folder import read_huggingface
from w2v.convert.huggingface_masked import is_masked_folder, read_masked_folder
from w2v.convert.language_adapters import one_language
from w2v.convert.language_model_state import num_words, upgrade_language_model
from w2v.convert.locate import folder_of, locate
from w2v.convert.masked_model_state import stored_symbols, token_symbols, upgrade_masked_model
from w2v.convert.model_file import CTC, ENCODER, HUBERT, LANGUAGE_MODEL, MASKED_MODEL, ModelFile, count
from w2v.convert.onnx_file import is_onnx_folder
from w2v.convert.other_folders import CONFIG_FILE, check_folder
from w2v.convert.safetensors_file import read_safetensors_model
from w2v.convert.symbols import find_symbols
from w2v.errors import CheckpointError
from w2v.files.pointer import refuse_pointer
from w2v.models.wav2vec_ctc import ENCODER_PREFIX, PRETRAINING_HEADS

# Heads of pretraining, which a fine-tuned model does not use.
HEADS = tuple(f"{ENCODER_PREFIX}{head}" for head in PRETRAINING_HEADS)
# Weight norm as torch's newer parametrisation spells it.
SPELLINGS = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def read_model_file(
    path: str | Path, *, dictionary: str | None = None, pretrained: str | None = None, data: str | None = None,
    language: str | None = None,
) -> ModelFile:  # fmt: skip
    """Open a model of any kind; nothing that it holds is run, and no other file is needed as a rule.

    Args:
        path: a file of w2v or of the original, a `.safetensors` file, or a folder of Hugging Face.
        dictionary: dictionary file for a CTC model or a language model (`--dict`).
        data: folder of the data, in which a dictionary is looked for first, where the file holds none.
        pretrained: the pretrained model of a fine-tuned one that does not hold its encoder's options (`--w2v-path`).
        language: of a model with adapters per language (`--language`); None: its own.

    Raises:
        CheckpointError: it cannot be read, is of another kind, or is incomplete; the message says what is missing.
    """
    place = locate(path, language)
    if not place.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint{meant(str(path))}")
    refuse_pointer(place, CheckpointError)
    folder = folder_of(place)
    place = folder or place
    if language is not None and (folder is None or is_onnx_folder(folder) or is_masked_folder(folder)):
        raise one_language(language, place)
    file = _open(place, dictionary, pretrained, data, language)
    check_sizes(file.path, file.config["model"], file.state)
    return file


def _open(
    place: Path, dictionary: str | None, pretrained: str | None, data: str | None, language: str | None
) -> ModelFile:
    if place.suffix == ".onnx" or (place.is_dir() and is_onnx_folder(place)):
        raise CheckpointError(
            f"{place}: is an ONNX graph, which an ONNX runtime opens (w2v-convert --inspect describes it); "
            "give the checkpoint that it was exported from"
        )
    if place.is_dir():
        check_folder(place)
        if is_masked_folder(place):
            return read_masked_folder(place, dictionary)
        return read_huggingface(place, dictionary, language)
    if place.suffix == ".safetensors":
        return read_safetensors_model(place, dictionary)
    # Mapped, so that an optimizer's state is not read; the model that is built copies its tensors.
    content = read_torch_file(place, mapped=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{place}: is no checkpoint: it holds a {type(content).__name__}")
    try:
        if "format_version" in content:
            return _own(place, content, dictionary)
        if "model" in content and (content.get("cfg") or content.get("args")):
            return _fairseq(place, content, dictionary, pretrained, data)
    except UnsafePickleError as e:
        raise CheckpointError(f"{place}: cannot be read: it holds {e}; nothing of it was run") from e
    names = ", ".join(str(name)[:40] for name in list(content)[:5])
    hint = ""
    if content and all(isinstance(value, Tensor) for value in content.values()):
        hint = f"; tensors alone say too little: give the folder with their {CONFIG_FILE}"
    raise CheckpointError(f"{place}: is no checkpoint of w2v or fairseq: it holds {names or 'nothing'}{hint}")


def _own(path: Path, content: Mapping[str, Any], dictionary: str | None) -> ModelFile:
    check_version(path, content)
    config = plain_data(content.get("config"))
    sections = config.values() if isinstance(config, dict) else ()
    if not sections or not {"model", "task"} <= config.keys() or not all(isinstance(part, dict) for part in sections):
        raise CheckpointError(f"{path}: holds no configuration of a model and its task")
    state = tensors(path, content.get("model"))
    task, trainer = content.get("task"), content.get("trainer")
    inside = task.get("dictionary") if isinstance(task, dict) else None
    symbols, source = stored_symbols(path, config["model"], state, inside, dictionary)
    updates = trainer.get("num_updates", 0) if isinstance(trainer, dict) else 0
    score = _score(config, trainer) if isinstance(trainer, dict) else ""
    return ModelFile(str(path), "w2v", config, state, symbols, source, count(updates), score=score)


def _score(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    """Return the best validation of the run, in words."""
    said, best = trainer.get("score"), trainer.get("best")
    if isinstance(said, str):
        return said
    if not isinstance(best, (int, float)):
        return ""
    metric = config.get("checkpoint", {}).get("best_checkpoint_metric", "loss")
    subset = str(config.get("dataset", {}).get("valid_subset", "valid")).partition(",")[0]
    return f"Best validation of the run: {metric} {best:.4g} on `{subset}`, without a language model."


def _fairseq(
    path: Path, content: Mapping[str, Any], dictionary: str | None, pretrained: str | None, data: str | None
) -> ModelFile:
    given = content.get("cfg") or content.get("args")
    kind = "fairseq, args" if not content.get("cfg") else "fairseq, cfg of plain dicts"
    if isinstance(content.get("cfg"), Record):
        kind = "fairseq, cfg of omegaconf"
    reader = FairseqConfig(str(path))
    config = plain_data(given)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: its configuration is a {type(config).__name__}")
    sections = reader.sections(config)
    notes = list(reader.notes)
    state = tensors(path, content["model"], notes)
    symbols, source = None, ""
    if sections["model"]["_name"] == CTC:
        task = sections["task"]
        task.setdefault("labels", "ltr")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}
        inside = _dictionary(content)
        symbols, source = find_symbols(
            path, num_classes(path, state), given=dictionary, inside=inside, labels=str(task["labels"]), data=data
        )
        _complete_encoder(path, sections, state, pretrained, notes)
    elif sections["model"]["_name"] == HUBERT:
        state = complete_hubert(path, content, state, sections["model"])
    elif sections["model"]["_name"] == ENCODER:  # of data2vec: what predicts its teacher has no use here
        state = {name: tensor for name, tensor in state.items() if not name.startswith(PRETRAINING_HEADS)}
    elif sections["model"]["_name"].startswith(LANGUAGE_MODEL):
        state = upgrade_language_model(path, state, sections["model"])
        inside = _dictionary(content)
        symbols, source = find_symbols(path, num_words(path, state), given=dictionary, inside=inside, labels=None)
    elif sections["model"]["_name"].startswith(MASKED_MODEL):
        state = upgrade_masked_model(path, state, sections["model"])
        symbols, source = token_symbols(path, state, given=dictionary, inside=_dictionary(content), data=data)
    return ModelFile(str(path), kind, sections, state, symbols, source, _updates(content), notes)


def tensors(path: Path, value: Any, notes: list[str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, weight norm in the original's spelling.

    Raises:
        CheckpointError: there are none, or something among them is none.
    """
    if not isinstance(value, Mapping) or not value:
        raise CheckpointError(f"{path}: holds no tensors of a model")
    state: dict[str, Tensor] = {}
    for name, tensor in value.items():
        if name == "_ema":
            if notes is not None:
                notes.append("the averaged copy of the weights (_ema) is left out")
            continue
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {str(name)[:80]!r} of its model is no tensor")
        for new, old in SPELLINGS.items():
            name = name.replace(new, old)
        state[name] = tensor
    return state


def num_classes(path: Path, state: Mapping[str, Tensor]) -> int:
    """Return the number of symbols that a CTC model writes."""
    proj = state.get("w2v_encoder.proj.weight")
    if proj is None or proj.dim() != 2:
        raise CheckpointError(f"{path}: lacks the tensor w2v_encoder.proj.weight")
    return proj.shape[0]


def _dictionary(content: Mapping[str, Any]) -> list[str] | None:
    """Return the symbols of the dictionary that later versions save with the task."""
    task = content.get("task_state")
    dictionary = task.get("target_dictionary") if isinstance(task, dict) else None
    symbols = dictionary.fields.get("symbols") if isinstance(dictionary, Record) else None
    if isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols):
        return symbols
    return None


def _updates(content: Mapping[str, Any]) -> int:
    history = content.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    return count(last.get("num_updates")) if isinstance(last, dict) else 0


def _complete_encoder(
    path: Path, sections: dict[str, dict[str, Any]], state: Mapping[str, Tensor], pretrained: str | None,
    notes: list[str],
) -> None:  # fmt: skip
    """Find the encoder's options, where a fine-tuned file of the first generations does not hold them."""
    model = sections["model"]
    if pretrained is None and model.get("w2v_args"):
        return
    recorded = model.get("w2v_path")
    candidates = [Path(pretrained)] if pretrained else []
    if isinstance(recorded, str) and not pretrained:
        candidates = [Path(recorded), path.parent / Path(recorded).name]
    found = next((place for place in candidates if place.exists() and place.resolve() != path.resolve()), None)
    if found is not None:
        model["w2v_args"] = read_model_file(found).config["model"]
        notes.append(f"the encoder's options were read from {found}")
        return
    options, problem = infer_encoder(state, ENCODER_PREFIX)
    if options is None:
        tried = f" (it names {str(recorded)[:200]}, which is not here)" if recorded else ""
        raise CheckpointError(
            f"{path}: does not hold its encoder's options{tried}, and they cannot be told from its tensors: {problem}; "
            "w2v-convert --w2v-path FILE writes a checkpoint that holds them (in python: the option w2v_path of "
            "load_model's overrides)"
        )
    model["w2v_args"] = options
    notes.append(
        "the encoder's options were told from the shapes of its tensors; strides, attention heads and the order of "
        "norms cannot be seen there and were taken to be those of the published models"
    )


COUNTS = ("encoder_layers", "vq_depth", "conv_feature_layers", "conv_aggregator_layers", "decoder_layers")
WIDTHS = (
    *("encoder_embed_dim", "encoder_ffn_embed_dim", "conv_pos", "adapter_attn_dim"),
    *("max_positions", "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_input_dim", "decoder_output_dim"),
)
FREE_LIMIT = 2**20
"""Largest value of other whole numbers that tensors are made by."""
FREE = (
    "latent_vars",
    "latent_groups",
    "latent_dim",
    "final_dim",
    "vq_vars",
    "vq_groups",
    "vq_dim",
    "gru_dim",
    "prediction_steps",
)


def check_sizes(where: str, model: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that no option asks for more layers than there are tensors, or wider ones.

    Raises:
        CheckpointError: naming the option.
    """
    widest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for values in (model, model.get("w2v_args"), model.get("bert_args")):
        if not isinstance(values, Mapping):
            continue
        for names, limit in ((COUNTS, len(state)), (WIDTHS, widest), (FREE, FREE_LIMIT)):
            for name in names:
                value = values.get(name)
                number = len(value) if isinstance(value, (list, tuple)) else value
                if isinstance(number, (int, float)) and number > limit:
                    raise CheckpointError(f"{where}: {name} = {str(value)[:20]} does not fit the tensors beside it")

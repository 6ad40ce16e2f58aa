"""A model or a language model, read from a file of any of the known kinds."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from w2v.config import build_config, options_of
from w2v.convert import ModelFile, read_model_file
from w2v.convert.model_file import LANGUAGE_MODEL, MASKED_MODEL
from w2v.errors import CheckpointError, ConfigError, DataError, listed
from w2v.lm.language_model import LanguageModel
from w2v.lm.transformer_language_model import TransformerLanguageModel
from w2v.models.base import MODELS, W2vModel, of_another_shape
from w2v.models.transformer_lm import TransformerLm
from w2v.plugins import import_installed, import_user_dir
from w2v.registry import Registry
from w2v.tasks.base import TASKS, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model read from a checkpoint.

    Attributes:
        model: in evaluation mode, on the CPU.
        task: knows the dictionary (`task.dictionary`) and how input is read (`task.config`).
        config: the configuration it was trained with, plain data by section.
        num_updates: how long it was trained.
        path: where it was read from.
    """

    model: W2vModel
    task: Task
    config: dict[str, Any]
    num_updates: int
    path: str = ""


def load_model(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    user_dir: str | None = None,
    dictionary: str | None = None,
    data: str | None = None,
    language: str | None = None,
    mmap: bool = False,
) -> LoadedModel:
    """Read a model with all that is needed to use it.

    Args:
        path: checkpoint of `w2v-train` or of the original, `.safetensors` file, or folder of Hugging Face; a name on
            the Hugging Face hub (`facebook/wav2vec2-base-960h`, `NAME@REVISION`) or an address.
        overrides: options of the model or the task to change, by name.
        user_dir: the plugin it was trained with. It is never taken from the file: that would let a file run code.
        dictionary: dictionary file of a model that comes without one (`dict.ltr.txt`, `vocab.json`, of a language
            model `dict.txt`).
        data: folder of the data, in which that file is looked for first.
        language: of a model with an adapter for each language (MMS), such as `eng`; None: its own.
        mmap: leave the weights in the file, which is opened without reading it, and shared by all processes that do so.
            The file must then stay as it is: a program dies (bus error) when another one, or `torch.save` to the same
            path, cuts it short. By default the model owns its memory.

    Raises:
        CheckpointError: the file cannot be read, or its tensors do not fit its configuration.
        ConfigError: an override names no option.
    """
    overrides = dict(overrides or {})
    if user_dir:
        import_user_dir(user_dir)
    file = read_model_file(
        path, dictionary=dictionary, pretrained=overrides.get("w2v_path"), data=data, language=language
    )
    for note in file.notes:
        logger.info("%s: %s", path, note)
    if file.symbols_from not in ("", "the checkpoint"):
        # The original's language models always have their dictionary beside them.
        level = logging.INFO if file.name.startswith((LANGUAGE_MODEL, MASKED_MODEL)) else logging.WARNING
        logger.log(level, "%s: its %d symbols come from %s", path, len(file.symbols or ()), file.symbols_from)
    return build_model(file, overrides, mmap=mmap)


def load_language_model(
    path: str | Path, *, dictionary: str | None = None, unknown: float | None = -math.inf
) -> LanguageModel:
    """Open a language model of any kind, for scoring.

    Args:
        path: ARPA file (or `.arpa.gz`), KenLM binary, or checkpoint of a `transformer_lm`, ours or the original's.
        dictionary: dictionary file of a checkpoint that comes without one; else `dict.txt` beside it is read.
        unknown: what `score` of a Transformer gives for unknown words; None: the model's own value for `<unk>`.

    Raises:
        DataError: an n-gram file is malformed.
        CheckpointError: a checkpoint cannot be read, or holds no language model.
        MissingPackageError: kenlm is needed, and not installed.
    """
    if not _is_checkpoint(path):
        from w2v.lm.ngram_model import open_ngram_model

        return open_ngram_model(str(path))
    loaded = load_model(path, dictionary=dictionary)
    if not isinstance(loaded.model, TransformerLm):
        raise CheckpointError(f"{path}: holds a {loaded.config['model']['_name']}, which is no language model")
    task: Any = loaded.task
    return TransformerLanguageModel(
        loaded.model,
        loaded.model.config.decoder_layers,
        task.dictionary,
        str(path),
        add_bos=task.config.add_bos_token,
        unknown=unknown,
    )


def _is_checkpoint(path: str | Path) -> bool:
    """Whether a file begins like those of torch: a zip archive, or a pickle."""
    try:
        with open(path, "rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80"))
    except OSError as e:
        raise DataError(f"cannot read the language model {path}: {e.strerror or e}") from e


def build_model(file: ModelFile, overrides: Mapping[str, Any] | None = None, *, mmap: bool = False) -> LoadedModel:
    """Build what `w2v.convert.read_model_file` read.

    Args:
        file: the model; its tensors become the parameters.
        overrides: options of the model or the task to change, by name.
        mmap: use its tensors as they are, which may lie in the file; otherwise they are copied.

    Raises:
        CheckpointError: the tensors do not fit the configuration; their names are listed.
        ConfigError: an override names no option.
    """
    plain = {section: dict(values) for section, values in file.config.items()}
    if plain["model"].get("_name") not in MODELS.names() or plain["task"].get("_name") not in TASKS.names():
        import_installed()  # looks through all installed packages, which takes as long as the rest
    _override(plain, overrides or {})
    try:
        return _build(file, plain, mmap=mmap)
    except ConfigError as e:  # of an option that the file holds, which the user has not typed
        raise e if overrides else CheckpointError(f"{file.path}: {e}") from e


def _build(file: ModelFile, plain: dict[str, dict[str, Any]], *, mmap: bool) -> LoadedModel:
    trained_with = plain.get("common", {}).get("user_dir")
    hint = f"; the checkpoint was trained with --user-dir {trained_with}" if trained_with else ""
    task = _build_task(plain, file.path, hint)
    if file.symbols is not None:
        task.load_state_dict({"dictionary": file.symbols})
    model = _build_around(task, plain, file, hint, copy=not mmap)
    model.set_num_updates(file.num_updates)
    return LoadedModel(model.eval(), task, plain, file.num_updates, str(file.path))


def _build_task(plain: Mapping[str, Mapping[str, Any]], where: str, hint: str) -> Task:
    entry = TASKS.get(_component_name(plain, "task", where), hint)
    values = {**entry.overrides, **plain["task"]}
    seed = plain.get("common", {}).get("seed", 1)
    return entry.cls(build_config(entry.config, values, f"{where}: section task"), seed if type(seed) is int else 1)


def _build_around(
    task: Task, plain: Mapping[str, Mapping[str, Any]], file: ModelFile, hint: str, *, copy: bool
) -> W2vModel:
    """Build a model whose parameters are the tensors of the file, or copies; they are not initialised before."""
    entry = MODELS.get(_component_name(plain, "model", file.path), hint)
    config: Any = build_config(entry.config, {**entry.overrides, **plain["model"]}, f"{file.path}: section model")
    # A model of somebody else may compute with its parameters while it is built; ours do not.
    is_ours = entry.cls.__module__.startswith("w2v.models.")
    with contextlib.ExitStack() as stack:
        if is_ours:
            stack.enter_context(torch.device("meta"))
            stack.enter_context(_NoInitialisation())
        model = task.build_model(entry, config)
    load_tensors(model, file.state, file.path, copy=copy)
    return model


class _NoInitialisation(TorchFunctionMode):
    """Leaves out the filling of tensors that have no memory: on the meta device torch takes milliseconds for each."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.Tensor.norm and args[0].is_meta:
            # A sum has the same shape; torch's own rule for norms without numbers imports its compiler, for seconds.
            return args[0].sum(**{name: value for name, value in (kwargs or {}).items() if name in ("dim", "keepdim")})
        return func(*args, **(kwargs or {}))


_FILLS = {
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
}


def _component_name(plain: Mapping[str, Mapping[str, Any]], section: str, where: str) -> str:
    name = plain.get(section, {}).get("_name")
    if not isinstance(name, str):
        raise CheckpointError(f"{where}: section {section!r} of its configuration names none (_name)")
    return name


def load_tensors(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, *, copy: bool = True) -> None:
    """Load tensors by name, all of them and no others.

    Args:
        model: takes them; one on the meta device takes them over.
        state: the tensors.
        where: the file, for messages.
        copy: give the model memory of its own, rather than that of `state`, which may lie in a file.

    Raises:
        CheckpointError: names are missing, unknown, or of another shape; they are listed.
    """
    wanted = model.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in of_another_shape(wanted, state)
    ]
    problems += [
        f"{name} has whole numbers ({str(state[name].dtype).removeprefix('torch.')}) in place of weights"
        for name, tensor in wanted.items()
        if name in state and tensor.is_floating_point() and not state[name].is_floating_point()
    ]
    if problems:
        raise CheckpointError(f"{where}: the tensors do not fit the configuration: {listed(problems)}")
    if any(tensor.is_meta for tensor in wanted.values()):
        _take_over(model, {name: state[name].to(tensor.dtype, copy=copy) for name, tensor in wanted.items()})
    else:
        model.load_state_dict(dict(state))


def _take_over(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Make tensors the parameters of a model, as they are; what `load_state_dict(assign=True)` does, in less time."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        parameter = module._parameters.get(leaf)
        if parameter is not None:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
        else:
            module._buffers[leaf] = tensor


def _override(plain: dict[str, dict[str, Any]], overrides: Mapping[str, Any]) -> None:
    registries: dict[str, Registry[Any]] = {"model": MODELS, "task": TASKS}
    for name, value in overrides.items():
        for section, registry in registries.items():
            known = registry.names()
            component = plain.get(section, {}).get("_name")
            options = (
                {option.name for option in options_of(registry.get(component).config)} if component in known else ()
            )
            if name in options or name in plain.get(section, {}):
                plain[section][name] = value
                break
        else:
            raise ConfigError(f"--model-overrides: neither model nor task has an option {name!r}")

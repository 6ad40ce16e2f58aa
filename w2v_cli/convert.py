"""`w2v-convert`: models from one format to another, and a look at what a file is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.config import ArgumentParser, arg, build_config
from w2v.config.literals import str_tuple
from w2v.config.named_files import is_hub_name
from w2v.convert import ModelFile, read_model_file
from w2v.convert.fairseq_file import write_fairseq
from w2v.convert.fairseq_training import training_state
from w2v.convert.huggingface_folder import write_huggingface
from w2v.convert.huggingface_masked import write_masked_folder
from w2v.convert.model_card import CARD, write_card
from w2v.convert.model_file import LANGUAGE_MODEL, MASKED_MODEL
from w2v.convert.onnx_file import describe_onnx, is_onnx_folder, write_onnx
from w2v.convert.onnx_folder import FORMATS as ONNX_FORMATS
from w2v.convert.onnx_folder import write_onnx_folder
from w2v.convert.push import push
from w2v.convert.safetensors_file import write_safetensors_model
from w2v.convert.w2v_file import write_own
from w2v.errors import ConfigError
from w2v.inference.load import build_model
from w2v.plugins import import_installed, import_user_dir
from w2v_cli.main import run

FORMATS = ("w2v", "fairseq", "huggingface", "safetensors", "onnx")

DESCRIPTION = (
    "Convert a model, or look at one with --inspect. SOURCE is a checkpoint of w2v or fairseq, a .safetensors file, or "
    "a Hugging Face folder; nothing that it holds is run."
)


def _format(name: object) -> str:
    return "huggingface" if name == "hf" else str(name)


@dataclass(frozen=True)
class ConvertConfig:
    """What is read, and what it becomes."""

    source: str | None = arg(None, help="checkpoint, .safetensors file or Hugging Face folder", positional=True)
    destination: str | None = arg(
        None,
        help="file to write; a folder for huggingface, and for onnx where the name does not end in .onnx",
        positional=True,
    )
    to: str | None = arg(None, help="format to write; hf: huggingface", choices=FORMATS, parse=_format)
    inspect: str | None = arg(None, help="print what FILE is, and write nothing", metavar="FILE")
    dict: str | None = arg(None, help="dictionary file of a model that comes without one", metavar="FILE")
    language: str | None = arg(None, help="of a model of many languages (MMS): which one, such as eng", metavar="CODE")
    w2v_path: str | None = arg(
        None, help="pretrained model of a fine-tuned one that does not hold its encoder's options", metavar="FILE"
    )
    training_state: bool = arg(
        False,
        help="w2v: take the optimizer and the number of updates of a fairseq file, too, for --restore-file to resume",
    )
    pytorch_bin: bool = arg(False, help="huggingface: write pytorch_model.bin instead of model.safetensors")
    new_weight_norm: bool = arg(
        False, help="huggingface: call the weight norm parametrizations.weight.original0/1, not weight_g and weight_v"
    )
    formats: tuple[str, ...] = arg(
        (), help="onnx folder: write the model in these formats, too: fp16,int8", parse=str_tuple, metavar="LIST"
    )
    push: str | None = arg(None, help="upload the folder to the Hugging Face hub", metavar="OWNER/NAME")
    private: bool = arg(False, help="--push: a repository that is made for it is for its owner alone")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")

    @property
    def writes_folder(self) -> bool:
        """Whether the destination is a folder, which gets a model card and may be uploaded."""
        return self.to == "huggingface" or (self.to == "onnx" and not str(self.destination).endswith(".onnx"))

    def __post_init__(self) -> None:
        if self.inspect is not None:
            if self.source or self.to:
                raise ConfigError("--inspect takes the file by itself: w2v-convert --inspect FILE")
        elif self.source is None or self.destination is None or self.to is None:
            raise ConfigError("w2v-convert needs SOURCE, DESTINATION and --to, or --inspect FILE")
        if self.training_state and self.to != "w2v":
            raise ConfigError("--training-state is for --to w2v: it is what w2v-train resumes from")
        for name in set(self.formats) - set(ONNX_FORMATS):
            raise ConfigError(f"--formats must be of {', '.join(ONNX_FORMATS)}, got {name!r}")
        if self.formats and not (self.to == "onnx" and self.writes_folder):
            raise ConfigError("--formats is for --to onnx with a folder as its destination")
        if self.push is not None and not (self.to and self.writes_folder):
            raise ConfigError("--push uploads a folder: give --to huggingface, or --to onnx with a folder")
        if self.push is not None and not is_hub_name(self.push):
            raise ConfigError(f"--push must be OWNER/NAME, got {self.push!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: convert(sys.argv[1:] if argv is None else argv))


def convert(argv: Sequence[str]) -> int:
    """Convert or inspect what the flags name.

    Raises:
        W2vError: a flag, the source or the destination breaks a rule.
    """
    parser = ArgumentParser(prog="w2v-convert", description=DESCRIPTION)
    parser.add_config(ConvertConfig, "conversion")
    config = build_config(ConvertConfig, parser.parse(argv), "w2v-convert")
    import_installed()
    if config.user_dir:
        import_user_dir(config.user_dir)
    if config.inspect is not None and (graphs := _onnx_files(Path(config.inspect))):
        print("\n".join(line for path in graphs for line in describe_onnx(path)))
        return 0
    file = read_model_file(
        config.inspect or str(config.source), dictionary=config.dict, pretrained=config.w2v_path,
        language=config.language,
    )  # fmt: skip
    if config.inspect is not None:
        print("\n".join(describe(file)))
        return 0
    for note in file.notes:
        print(f"note: {note}")
    names = _write(config, file)
    source = f" with {len(file.symbols)} symbols from {file.symbols_from}" if file.symbols else ""
    print(f"{config.destination}: {config.to}, {file.name} of {file.kind}{source}")
    if config.push is not None:
        print(f"uploaded: {push(Path(str(config.destination)), names, config.push, private=config.private)}")
    return 0


def _onnx_files(path: Path) -> list[Path]:
    """Return the graphs that a path names: itself, or those of an exported folder."""
    if path.is_dir():
        return sorted(path.glob("*.onnx")) if is_onnx_folder(path) else []
    return [path] if path.suffix == ".onnx" and path.is_file() else []


def _write(config: ConvertConfig, file: ModelFile) -> list[str]:
    """Write the destination; return the names of the files of a folder."""
    loaded = build_model(file)  # the tensors must fit, before anything is written
    path = Path(str(config.destination))
    if config.to == "onnx" and loaded.model.reads != "audio":
        raise ConfigError(f"--to onnx: {file.path} holds a {file.name}, which reads no audio; try --to huggingface")
    if file.config["model"].get("bert_args") and config.to not in ("w2v", "safetensors"):
        raise ConfigError(f"--to {config.to}: {file.path} is a discrete BERT, which only w2v knows")
    if not config.writes_folder:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; --to {config.to} writes a file")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; --to {config.to} writes a folder")
    names: list[str] = []
    if config.to == "w2v":
        training = None
        if config.training_state:
            training = training_state(file, {name: tensor.shape for name, tensor in loaded.model.named_parameters()})
        write_own(path, file, training)
    elif config.to == "fairseq":
        write_fairseq(path, file)
    elif config.to == "safetensors":
        write_safetensors_model(path, file)
    elif config.to == "huggingface" and file.name.startswith(MASKED_MODEL):
        names = write_masked_folder(path, file, as_bin=config.pytorch_bin)
    elif config.to == "huggingface":
        names = write_huggingface(path, file, new_weight_norm=config.new_weight_norm, as_bin=config.pytorch_bin)
    elif config.writes_folder:
        names = write_onnx_folder(path, loaded.model, file, config.formats)
    else:
        write_onnx(path, loaded.model, file)
    if config.writes_folder:
        write_card(path, file, str(config.to), config.push)
        names.append(CARD)
    return names


def describe(file: ModelFile) -> Iterator[str]:
    """Yield the lines of `--inspect`; only shapes are looked at, so tensors stay on the disk."""
    tensors = file.state.values()
    numel = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
    task = file.config["task"]
    yield f"file: {file.path}"
    yield f"kind: {file.kind}"
    yield f"model: {file.name}"
    yield f"parameters: {numel:,} in {len(file.state)} tensors ({kinds}, {size / 1e6:.1f} MB)"
    yield f"updates: {file.num_updates}"
    if file.name.startswith(LANGUAGE_MODEL):
        yield f"text: {task.get('unit', 'word')}s"
    elif file.name.startswith(MASKED_MODEL):
        yield f"tokens: up to {file.config['model'].get('max_positions')} per item, <s> and </s> counted"
    else:
        yield f"audio: {file.audio}"
    if file.symbols is not None:
        yield f"dictionary: {len(file.symbols)} symbols, from {file.symbols_from}: {' '.join(file.symbols[:40])}"
    for note in file.notes:
        yield f"note: {note}"
    for section, values in file.config.items():
        yield from _lines(section, values)


def _lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _lines(f"{name}.{key}", item)
    else:
        yield f"{name}: {str(value)[:300]}"


if __name__ == "__main__":
    sys.exit(main())

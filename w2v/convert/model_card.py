"""Model cards: the `README.md` of an exported folder, which the hub shows.

It says what the checkpoint knows: on what the model was trained, with which options, how good it was, and how to open
it. Of paths only the last name is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from w2v.convert.model_file import CTC, MASKED_MODEL, ModelFile
from w2v.errors import CheckpointError
from w2v.files import atomic_path
from w2v.version import __version__

CARD = "README.md"
NOT_RECORDED = "not recorded in the checkpoint; please fill in"
RECIPE = (
    ("criterion", ("_name",)),
    ("model", ("mask_prob", "mask_channel_prob", "freeze_finetune_updates", "feature_grad_mult", "layerdrop")),
    ("optimization", ("max_update", "lr", "update_freq", "clip_norm")),
    ("optimizer", ("_name", "adam_betas", "adam_eps", "weight_decay")),
    ("lr_scheduler", ("_name", "warmup_steps", "warmup_updates", "hold_steps", "decay_steps", "phase_ratio")),
    ("dataset", ("max_tokens", "batch_size")),
    ("distributed_training", ("distributed_world_size",)),
    ("common", ("fp16", "bf16", "seed")),
)
"""Options that make a run what it is, by section; those that a checkpoint does not hold are left out."""
OPEN = {
    "huggingface": """```python
import w2v

model = w2v.load_model("{name}")
print(w2v.transcribe("speech.wav", model=model).text)
```

```python
import soundfile
from transformers import AutoModelForCTC, AutoProcessor

processor, model = AutoProcessor.from_pretrained("{name}"), AutoModelForCTC.from_pretrained("{name}")
samples, rate = soundfile.read("speech.wav")
scores = model(**processor(samples, sampling_rate=rate, return_tensors="pt")).logits
print(processor.batch_decode(scores.argmax(-1))[0])
```

For onnx-asr: `w2v-convert {name} FOLDER --to onnx`, then

```python
import onnx_asr

print(onnx_asr.load_model("wav2vec2-ctc", "FOLDER").recognize("speech.wav"))
```
""",
    "onnx": """```python
import onnx_asr

print(onnx_asr.load_model("wav2vec2-ctc", "{name}").recognize("speech.wav"))  # a folder
print(onnx_asr.load_model("{name}").recognize("speech.wav"))  # a name on the hub
```

The type `wav2vec2-ctc` needs onnx-asr after 0.12. A graph is no checkpoint, which w2v and transformers open: for these,
export the checkpoint with `w2v-convert CHECKPOINT FOLDER --to huggingface`, then

```python
import w2v

print(w2v.transcribe("speech.wav", model="FOLDER").text)
```

```python
from transformers import AutoModelForCTC, AutoProcessor

processor, model = AutoProcessor.from_pretrained("FOLDER"), AutoModelForCTC.from_pretrained("FOLDER")
```
""",
    "encoder": """```python
import w2v

features = w2v.features("{name}", "speech.wav")
```

```python
from transformers import AutoFeatureExtractor, AutoModel

extractor, model = AutoFeatureExtractor.from_pretrained("{name}"), AutoModel.from_pretrained("{name}")
```

It writes no symbols, so onnx-asr cannot open it; `w2v-convert {name} encoder.onnx --to onnx` makes a graph of it.
""",
}
OPEN["masked"] = """```python
import w2v

features = w2v.features("vq.pt", "speech.wav", bert="{name}")  # vq.pt: the model that makes the tokens
```

```python
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

tokenizer, model = PreTrainedTokenizerFast.from_pretrained("{name}"), AutoModelForMaskedLM.from_pretrained("{name}")
```
"""
"""How a folder is opened, by its kind."""


def write_card(folder: Path, file: ModelFile, kind: str, name: str | None = None) -> None:
    """Write the card of an exported folder; one that is there stays, since it may have been written by hand.

    Args:
        folder: holds the model.
        file: what it was exported from.
        kind: `huggingface` or `onnx`.
        name: its name on the hub; else that of the folder.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / CARD
    if path.exists():
        return
    try:
        with atomic_path(path) as part:
            part.write_text("\n".join(_lines(file, kind, name or folder.resolve().name)), encoding="utf-8")
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be written: {e.strerror or e}") from e


def _lines(file: ModelFile, kind: str, name: str) -> Iterator[str]:
    is_ctc, is_masked = file.name == CTC, file.name.startswith(MASKED_MODEL)
    what = f"A wav2vec 2.0 {'CTC model' if is_ctc else 'encoder'}"
    what = "A masked language model on tokens of speech" if is_masked else what
    yield "---"
    yield f"pipeline_tag: {'automatic-speech-recognition' if is_ctc else 'feature-extraction'}"
    yield f"library_name: {'transformers' if kind == 'huggingface' else 'onnx-asr'}"
    yield "tags: [w2v, wav2vec2, speech]"
    yield "---"
    yield f"# {name.rpartition('/')[2]}"
    yield ""
    yield f"{what}, exported by w2v {__version__} from: {file.kind}."
    yield ""
    yield "## Data"
    yield ""
    yield from _data(file)
    yield ""
    yield "## Recipe"
    yield ""
    yield from _recipe(file.config, file.num_updates)
    yield ""
    yield "## Result"
    yield ""
    yield file.score or f"{'Perplexity' if is_masked else 'Word error rate'}: {NOT_RECORDED}."
    yield ""
    yield "## Use"
    yield ""
    yield OPEN["masked" if is_masked else kind if is_ctc else "encoder"].replace("{name}", name)


def _data(file: ModelFile) -> Iterator[str]:
    task, dataset = file.config["task"], file.config.get("dataset", {})
    data = Path(str(task.get("data", "."))).name
    subset = dataset.get("train_subset", "train")
    yield f"- trained on: {f'`{subset}` of `{data}`' if data else NOT_RECORDED}"
    yield f"- language, hours, licence of the recordings: {NOT_RECORDED}"
    if not file.name.startswith(MASKED_MODEL):
        yield f"- input: {file.audio}"
    if file.symbols:
        yield f"- output: {len(file.symbols)} symbols: `{' '.join(file.symbols[4:44]).replace('`', '')}`"
    pretrained = file.config["model"].get("w2v_path")
    if pretrained:
        yield f"- pretrained encoder: `{Path(str(pretrained)).name}`"


def _recipe(config: Mapping[str, Mapping[str, Any]], num_updates: int) -> Iterator[str]:
    yield "| option | value |"
    yield "|---|---|"
    yield f"| updates made | {num_updates or NOT_RECORDED} |"
    for section, names in RECIPE:
        for name in names:
            value = config.get(section, {}).get(name)
            if value is not None and value is not False:
                yield f"| {section if name == '_name' else name} | {str(value)[:80].replace('|', ' ')} |"

"""A recording with a BASE-sized model: `w2v.transcribe` beside the pipeline of transformers, on one thread.

    python benchmarks/transcribe.py [--minutes 10] [--layers 12] [--audio FILE]

Both open the same folder, which transformers writes: random weights, so the text means nothing, but every frame has a
letter that the other one should have, too. Windows are the same (60 s with 5 s of context), there is no speech
detection, and each runs in a process of its own: processor seconds of opening and of transcribing, peak memory, and the
edit distance of the texts. Also the processor seconds of `--help` and of a 5 s clip above those of importing torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = 16000
WINDOW, CONTEXT = 60, 5

MODEL = """
import json, sys, torch
from pathlib import Path
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor
folder, layers = Path(sys.argv[1]), int(sys.argv[2])
symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
(folder / "vocab.json").write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
torch.manual_seed(0)
model = Wav2Vec2ForCTC(Wav2Vec2Config(num_hidden_layers=layers, vocab_size=len(symbols), pad_token_id=0)).eval()
with torch.no_grad():
    model.lm_head.weight.mul_(20)  # else all letters are as likely, and rounding chooses
model.save_pretrained(folder)
tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)
Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
"""

MEASURED = """
import json, resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
samples = np.load(sys.argv[2])
begin = time.process_time()
{open}
opened = time.process_time()
{run}
done = time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(dict(text=text, open=opened - begin, run=done - opened, peak=peak)))
"""
OURS = {
    "open": "import w2v\nmodel = w2v.open_transcriber(sys.argv[1], device='cpu', vad='none')",
    "run": "text = w2v.transcribe(samples, 16000, model=model).text",
}
THEIRS = {
    "open": "from transformers import pipeline\nmodel = pipeline('automatic-speech-recognition', model=sys.argv[1])",
    "run": f"text = model(samples, chunk_length_s={WINDOW}, stride_length_s={CONTEXT})['text']",
}
STARTS = {
    "import torch": ["-c", "import torch"],
    "w2v-transcribe --help": ["-m", "w2v_cli.transcribe", "--help"],
    "w2v-transcribe, 5 s": ["-m", "w2v_cli.transcribe", "{model}", "{clip}", "--cpu", "--quiet"],
    "import transformers' pipeline": ["-c", "from transformers import pipeline; pipeline"],
    "whisper --help": ["-m", "whisper", "--help"],
}


def _environment() -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as after an installation
    return found


def run(code: str, *arguments: object) -> str:
    """Return what a program writes to stdout.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def processor_seconds(arguments: list[str]) -> float | None:
    """Return the processor time of a program; None: it cannot be run here."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return None if process.returncode else usage.ru_utime + usage.ru_stime


def without_specials(text: str) -> str:
    """Return a text without `<s>`, `<unk>` and the like, which a random model says and each side spells differently."""
    return " ".join(re.sub(r"</?s>|<unk>|<pad>", "", text).split())


def main() -> None:
    """Measure and print two tables."""
    import soundfile
    from rapidfuzz.distance import Levenshtein

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--audio", type=Path, help="recording at 16 kHz, repeated as needed (default: noise)")
    arguments = parser.parse_args()
    length = round(arguments.minutes * 60 * RATE)
    if arguments.audio:
        samples = np.resize(soundfile.read(arguments.audio, dtype="float32")[0], length)
    else:
        samples = np.random.default_rng(0).normal(size=length).astype(np.float32) / 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        run(MODEL, folder / "model", arguments.layers)
        np.save(folder / "samples.npy", samples)
        found = {}
        for who, how in {"w2v": OURS, "transformers": THEIRS}.items():
            code = MEASURED.replace("{open}", how["open"]).replace("{run}", how["run"])
            found[who] = json.loads(run(code, folder / "model", folder / "samples.npy").splitlines()[-1])
        print(f"{arguments.minutes:g} min, {arguments.layers} layers   open, CPU s   run, CPU s   peak, MB")
        for who, values in found.items():
            print(f"{who:24}{values['open']:12.1f}{values['run']:13.1f}{values['peak']:11.0f}")
        ours, theirs = (without_specials(found[who]["text"]) for who in ("w2v", "transformers"))
        distance = Levenshtein.distance(ours, theirs)
        print(f"characters: {len(ours)} and {len(theirs)}, edit distance {distance}")
        soundfile.write(folder / "clip.wav", samples[: 5 * RATE], RATE)
        tiny = folder / "tiny"
        tiny.mkdir()
        run(MODEL, tiny, 1)
        for what, words in STARTS.items():
            filled = [word.format(model=tiny, clip=folder / "clip.wav") for word in words]
            times = [processor_seconds(filled) for _ in range(3)]
            shown = min((time for time in times if time is not None), default=None)
            print(f"{what:32}" + ("not installed" if shown is None else f"{shown:6.2f} CPU s"))


if __name__ == "__main__":
    main()

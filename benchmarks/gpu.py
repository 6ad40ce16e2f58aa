"""What `gpu.sh` runs: parity, steps, waits, attention, compilation, memory, data and inference on one device.

Each section is a process of its own, so that memory is its own and a crash costs one section. The file is written
after each; what is out of time says so. `--small` shrinks models and clips until a CPU does all of it in a minute: that
tests the script, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

from machine import gflop_per_second, machine, peak  # noqa: E402

RATE = 16000
Figures = dict[str, Any]
SMALL = {
    "encoder_layers": 2, "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 128, "encoder_attention_heads": 4,
    "conv_pos": 16, "conv_pos_groups": 4, "latent_vars": 32, "final_dim": 32,
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2",
}  # fmt: skip


def sizes(options: argparse.Namespace, model: str) -> tuple[int, float, int]:
    """Return clips, seconds of each, and rounds."""
    return (2, 1.0, 2) if options.small else ({"base": 8, "large": 4}[model], 15.0, 5)


def wait(device: str) -> None:
    """Wait until a device has done what is queued."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], device: str, rounds: int, warm_up: int = 3) -> float:
    """Return the median time of a call, in seconds."""
    for _ in range(warm_up):
        call()
    wait(device)
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


@contextlib.contextmanager
def peak_memory(device: str, figures: Figures) -> Iterator[None]:
    """Put the largest memory of tensors, in GB, into figures."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    if device == "cuda":
        figures["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)


def pretraining(options: argparse.Namespace, model: str, precision: str, **more: Any) -> Any:
    """Return a pretraining step of ours; `more` are options of the model, `compile_mode`, `clips` and `seconds`."""
    from trained_step import trainer_step

    clips, seconds, _ = sizes(options, model)
    clips, seconds = more.pop("clips", clips), more.pop("seconds", seconds)
    compile_mode = more.pop("compile_mode", None)
    arch = "wav2vec2" if model == "base" else "wav2vec2_large"
    network = {"final_dim": 256 if model == "base" else 768, "quantize_targets": True, "encoder_layerdrop": 0.0}
    return trainer_step(
        arch=arch,
        model={**network, **(SMALL if options.small else {}), **more},
        criterion="wav2vec",
        criterion_options={"infonce": True, "loss_weights": (0.1, 10.0), "log_keys": ()},
        precision=precision,
        clips=clips,
        samples=int(seconds * RATE),
        device=options.device,
        compile_mode=compile_mode,
    )


def recognizer(options: argparse.Namespace) -> Any:
    """Return a CTC model of BASE size with random weights."""
    import torch
    from trained_step import LETTERS, build

    torch.manual_seed(1)
    encoder = {"_name": "wav2vec2", "quantize_targets": True, "final_dim": 256, **(SMALL if options.small else {})}
    return build("wav2vec_ctc", {"w2v_args": encoder}, num_classes=len(LETTERS)).eval()


# ---------------------------------------------------------------------------------------------- sections


def products(options: argparse.Namespace) -> Figures:
    """Peaks of products of each number format, in GFLOP/s."""
    import torch

    found: Figures = {}
    for precision in ("fp32",) if options.small else ("fp32", "bf16", "fp16"):
        found[precision] = float(f"{peak(precision, options.device):.3g}")
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        found["tf32"] = float(f"{peak('fp32', 'cuda'):.3g}")
    return found


def parity(options: argparse.Namespace) -> Figures:
    """Largest differences of the device, in float32 without TF32, from the CPU in float64, on padded clips."""
    import torch
    from trained_step import LETTERS

    network = recognizer(options)
    lengths = torch.tensor([16000, 12000, 7000])
    source = torch.randn(3, 16000, generator=torch.Generator().manual_seed(1))
    for row, length in zip(source, lengths.tolist(), strict=True):
        row[length:] = 0
    results = []
    for device, dtype in (("cpu", torch.float64), (options.device, torch.float32)):
        copied = copy.deepcopy(network).to(device, dtype)
        logits = copied(source.to(device, dtype), lengths, 1).logits
        loss = logits.log_softmax(-1)[..., 5].sum() / len(LETTERS)
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in copied.parameters() if p.grad is not None])
        results.append((logits.detach().double().cpu(), float(loss), grads.double().cpu()))
    (exact, loss, exact_grads), (logits, other, grads) = results
    return {
        "logits, largest difference": float((logits - exact).abs().max()),
        "loss, relative difference": abs(other - loss) / abs(loss),
        "gradients, relative difference": float((grads - exact_grads).norm() / exact_grads.norm()),
        "same best path": bool((logits.argmax(-1) == exact.argmax(-1)).float().mean() > 0.999),
    }


def steps(options: argparse.Namespace) -> Figures:
    """Updates of BASE and LARGE, beside transformers where it is installed."""
    found: Figures = {}
    for model in ("base",) if options.small else ("base", "large"):
        for precision in ("bf16", "fp16") if options.device == "cuda" else ("fp32",):
            clips, seconds, rounds = sizes(options, model)
            figures: Figures = {}
            with peak_memory(options.device, figures):
                step = pretraining(options, model, precision)
                took = timed(step, options.device, rounds)
            audio = clips * seconds / took
            gflop = gflop_per_second(model, step=True)
            figures |= {"audio-s/s": round(audio, 1), "TFLOP/s of products": round(audio * gflop / 1000, 3)}
            del step
            with contextlib.suppress(ImportError):
                figures["transformers"] = peer_step(options, model, precision)
            found[f"{model} {precision}, {clips} x {seconds:g} s"] = figures
    return found


def peer_step(options: argparse.Namespace, model: str, precision: str) -> Figures:
    """Time transformers at its best: fused attention, fused AdamW, autocast."""
    import numpy as np
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    clips, seconds, rounds = sizes(options, model)
    shape: Figures = {}
    if options.small:
        shape = dict(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, conv_dim=(32,) * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        )  # fmt: skip
    elif model == "large":
        shape = dict(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
            codevector_dim=768, proj_codevector_dim=768,
        )  # fmt: skip
    config = Wav2Vec2Config(layerdrop=0.0, num_negatives=100, attn_implementation="sdpa", **shape)
    torch.manual_seed(1)
    network = Wav2Vec2ForPreTraining(config).train().to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    source = torch.randn(clips, int(seconds * RATE), device=options.device)
    frames = int(network._get_feat_extract_output_lengths(source.shape[1]))
    np.random.seed(1)
    mask = _compute_mask_indices((clips, frames), 0.65, 10, min_masks=2)
    negatives = torch.from_numpy(_sample_negative_indices((clips, frames), 100, mask)).to(options.device)
    time_mask = torch.from_numpy(mask).to(options.device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler(options.device, enabled=precision == "fp16")

    def step() -> None:
        with torch.autocast(options.device, half, enabled=half is not None):
            loss = network(source, mask_time_indices=time_mask, sampled_negative_indices=negatives).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    figures: Figures = {}
    with peak_memory(options.device, figures):
        took = timed(step, options.device, rounds)
    return {**figures, "audio-s/s": round(clips * seconds / took, 1)}


def waits(options: argparse.Namespace) -> Figures:
    """Places where an update waits for the device; there should be none under bf16."""
    import torch

    if options.device != "cuda":
        return {"skipped": "a CPU is not waited for"}
    step = pretraining(options, "base", "bf16")
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            step()
    torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in said if "synchroniz" in str(one.message)})
    return {"in 3 updates": len(places), "places": places}


def attention(options: argparse.Namespace) -> Figures:
    """One attention of BASE over 15 s by each kernel of torch, forward and backward, in ms."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    frames, heads = (50, 4) if options.small else (750, 12)
    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    shape = (8, heads, frames, 64)
    query, key, value = (torch.randn(shape, device=options.device, dtype=half, requires_grad=True) for _ in range(3))

    def call() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=0.1).sum().backward()

    found: Figures = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        try:
            with sdpa_kernel(backend):
                found[backend.name.lower()] = round(1e3 * timed(call, options.device, 5), 3)
        except RuntimeError as e:
            found[backend.name.lower()] = f"not here: {str(e).splitlines()[0][:80]}"
    return found


def compilation(options: argparse.Namespace) -> Figures:
    """`--compile`, plain and with CUDA graphs: seconds of the first update, and audio-seconds per second after it."""
    clips, seconds, rounds = sizes(options, "base")
    found: Figures = {}
    for mode in ("default", "reduce-overhead") if options.device == "cuda" else ("default",):
        try:
            step = pretraining(options, "base", "bf16" if options.device == "cuda" else "fp32", compile_mode=mode)
            begin = time.perf_counter()
            step()
            wait(options.device)
            first = time.perf_counter() - begin
            took = timed(step, options.device, rounds)
            found[mode] = {"first update, s": round(first, 1), "audio-s/s": round(clips * seconds / took, 1)}
        except Exception as e:  # a mode that fails is a finding
            found[mode] = f"failed: {' '.join(str(e).split())[:160]}"
    return found


def memory(options: argparse.Namespace) -> Figures:
    """Peaks with and without `--checkpoint-activations`; and a batch that does not fit, which goes through in parts."""
    import torch

    found: Figures = {}
    precision = "bf16" if options.device == "cuda" else "fp32"
    for name, checkpointed in (("plain", False), ("--checkpoint-activations", True)):
        figures: Figures = {}
        with peak_memory(options.device, figures):
            step = pretraining(options, "base", precision, checkpoint_activations=checkpointed)
            figures["s per update"] = round(timed(step, options.device, 2, warm_up=1), 3)
        found[name] = figures
        del step
    if options.device == "cuda":
        torch.cuda.empty_cache()
        whole = found["plain"]["peak GB"] * 1e9
        torch.cuda.set_per_process_memory_fraction(0.75 * whole / torch.cuda.get_device_properties(0).total_memory)
        step = pretraining(options, "base", precision)
        took = timed(step, "cuda", 2, warm_up=1)
        found["three quarters of that memory"] = {
            "s per update": round(took, 3), "updates skipped": step.trainer.skips.total,
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 3),
        }  # fmt: skip
        torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def data(options: argparse.Namespace) -> Figures:
    """`w2v-train --dry-run` on files of noise: the share of the time in which the device waits for data."""
    import numpy as np
    import soundfile

    clips, seconds, _ = sizes(options, "base")
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(1)
        lines = [str(folder)]
        for number in range(4 if options.small else 400):
            samples = (0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32)
            soundfile.write(folder / f"{number}.flac", samples, RATE)
            lines.append(f"{number}.flac\t{len(samples)}")
        for split in ("train", "valid"):
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        model = [f"--{key.replace('_', '-')}={value}" for key, value in (SMALL if options.small else {}).items()]
        command = [
            sys.executable, "-m", "w2v_cli.train", name, "--save-dir", str(folder / "run"), "--task",
            "audio_pretraining", "--arch", "wav2vec2", "--criterion", "wav2vec", "--quantize-targets", "--infonce",
            "--optimizer", "adam", "--lr", "1e-5", "--lr-scheduler", "fixed", "--dry-run", "--log-format", "json",
            "--max-tokens", str(int(clips * seconds * RATE)), "--max-update", "100", "--num-workers", "4",
            "--disable-validation", *model, *(["--bf16"] if options.device == "cuda" else ["--cpu"]),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if "| dry_run |" in line), None)
        if line is None:
            return {"failed": (done.stderr or done.stdout)[-300:]}
        values = json.loads(line[line.index("{") :])
    return {name: values[name] for name in ("audio_s", "data_wait", "seconds_per_update", "peak_memory")}


def inference(options: argparse.Namespace) -> Figures:
    """Frames to letters with BASE: audio-seconds per second by batch and number format; and decoding on the CPU."""
    import torch
    from trained_step import LETTERS

    from w2v.decoders import DecoderConfig, build_decoder
    from w2v.inference.prepare import cast_weights

    found: Figures = {}
    formats: dict[str, torch.dtype | None] = {"fp32": None}
    if options.device == "cuda":
        formats |= {"bf16": torch.bfloat16, "fp16": torch.float16}
    seconds = 1 if options.small else 10
    logits = torch.empty(0)
    for name, half in formats.items():
        network = recognizer(options).to(options.device)
        cast_weights(network, half)
        for clips in (1, 2) if options.small else (1, 8, 32):
            source = torch.randn(clips, seconds * RATE, device=options.device)

            def call(network: Any = network, source: Any = source, half: Any = half) -> torch.Tensor:
                with torch.inference_mode(), torch.autocast(options.device, half, enabled=half is not None):
                    scores: torch.Tensor = network(source, None, 1).logits.float()
                    return scores

            took = timed(call, options.device, 5)
            found[f"{name}, {clips} clips"] = round(clips * seconds / took, 1)
            logits = call()
    decoder = build_decoder(DecoderConfig(), LETTERS)
    log_probs = logits.log_softmax(-1).cpu()
    lengths = torch.full((len(log_probs),), log_probs.shape[1])
    took = timed(lambda: decoder.decode(log_probs, lengths), "cpu", 3)
    found["viterbi on the CPU"] = round(len(log_probs) * seconds / took, 1)
    return found


SECTIONS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "products": products, "parity": parity, "steps": steps, "waits": waits, "attention": attention, "memory": memory,
    "inference": inference, "data": data, "compilation": compilation,
}  # fmt: skip
"""In the order of what matters most: what is out of time is the last ones."""


def main() -> int:
    """Run the sections, and write one JSON file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--small", action="store_true", help="tiny models: a test of this script")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--section", choices=tuple(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("gpu.py: error: torch sees no CUDA device here; --device cpu --small tests the script")
    if options.section:
        print("FIGURES " + json.dumps(SECTIONS[options.section](options)))
        return 0
    found: Figures = {"machine": {**machine(), "device": device_name(options.device), "small": options.small}}
    end = time.monotonic() + 60 * options.minutes
    wanted = options.only.split(",") if options.only else list(SECTIONS)
    for name in wanted:
        found[name] = run_section(name, options, end - time.monotonic())
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return int(any("failed" in found[name] for name in wanted))


def run_section(name: str, options: argparse.Namespace, seconds: float) -> Figures:
    """Return the figures of a section, or why there are none."""
    if seconds < 5:
        return {"skipped": "no time left"}
    command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--device", options.device]
    command += ["--small"] if options.small else []
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=dict(os.environ)
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done in the {seconds:.0f} s that were left"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("FIGURES ")), None)
    if line is None:
        return {"failed": f"rc {done.returncode}: {done.stderr[-400:]}"}
    figures: Figures = json.loads(line.removeprefix("FIGURES "))
    return {**figures, "took, s": round(time.monotonic() - begin, 1)}


def device_name(device: str) -> str:
    """Return what the device is called."""
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(0)


if __name__ == "__main__":
    sys.exit(main())

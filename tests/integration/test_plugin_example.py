"""`examples/plugin`: an architecture, a criterion and a task from outside, by every road into w2v."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import WORDS, Outcome, call, prepare, speak

from w2v.criterions import CRITERIONS
from w2v.data.dataset import collate
from w2v.errors import RegistryError
from w2v.inference.load import load_model
from w2v.models import MODELS
from w2v.plugins import import_user_dir
from w2v.tasks import TASKS
from w2v.types import AudioExample, ContrastiveOutput
from w2v_cli import convert, featurize, infer, tokenize, train

soundfile = pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "plugin"
PLUGIN = EXAMPLE / "my_speech"
SMALL = ["--cpu", "--max-update", 4, "--max-tokens", 60000, "--log-interval", 1, "--log-format", "json", "--seed", 3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("plugin"), 60)


@pytest.fixture
def _clean() -> Iterator[None]:
    """Forget the plugin after the test."""
    modules, path = set(sys.modules), list(sys.path)
    with MODELS.temporary(), CRITERIONS.temporary(), TASKS.temporary():
        yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("w2v", "torch", "soundfile")):
            del sys.modules[name]


@pytest.fixture
def plugin(_clean: None) -> Any:
    import_user_dir(str(PLUGIN))
    return sys.modules


def readme_command() -> list[str]:
    """Return the arguments of the training command in the example's README."""
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(w2v-train .*?)```", text, re.DOTALL)
    assert block is not None
    return shlex.split(block[1].replace("\\\n", " "))[1:]


def arguments(data: Path, save_dir: Path, *more: Any) -> list[str]:
    command = readme_command()
    command[command.index("manifests")] = str(data)
    command[command.index("--user-dir") + 1] = str(PLUGIN)
    command[command.index("--save-dir") + 1] = str(save_dir)
    return [str(argument) for argument in (*command, *SMALL, *more)]


def program(code: list[str], environ: dict[str, str]) -> Outcome:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run([sys.executable, *code], env=variables, capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def weights(save_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]
    return state


# ---------------------------------------------------------------------------------------------- roads


@pytest.mark.usefixtures("_clean")
def test_every_road_is_the_same_run(data: Path, tmp_path: Path) -> None:
    """As a package in this process, and in two ranks with workers; accumulation makes the updates alike."""
    one = call(train.main, arguments(data, tmp_path / "one", "--num-workers", 0, "--update-freq", 2))
    assert one.code == 0, one.err
    two = program(
        ["-m", "w2v_cli.train", *arguments(data, tmp_path / "two", "--num-workers", 1, "--distributed-world-size", 2)],
        {},
    )
    assert two.code == 0, two.err
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, rtol=1e-4, atol=1e-5)
    ours, theirs = one.lines("train_inner"), two.lines("train_inner")
    assert len(ours) == 4
    assert [line["nce"] for line in theirs] == pytest.approx([line["nce"] for line in ours], abs=2e-5)


@pytest.mark.usefixtures("_clean")
def test_workers_that_start_afresh_find_the_plugin(data: Path, tmp_path: Path) -> None:
    """Under `spawn` a worker imports everything anew: it must find the data set's class by its module's name."""
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from w2v_cli.train import main\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    outcome = program([str(script), *arguments(data, tmp_path / "spawned", "--num-workers", 1)], {})
    assert outcome.code == 0, outcome.err
    here = call(train.main, arguments(data, tmp_path / "here", "--num-workers", 0))
    assert [line["nce"] for line in outcome.lines("train_inner")] == [line["nce"] for line in here.lines("train_inner")]


@pytest.mark.usefixtures("_clean")
def test_as_a_folder_of_files(data: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for part in ("shallow", "smoothed_infonce", "noisy_audio"):
        shutil.copy(PLUGIN / f"{part}.py", loose)
    outcome = call(train.main, arguments(data, tmp_path / "run", "--user-dir", loose, "--num-workers", 0))
    assert outcome.code == 0, outcome.err
    assert MODELS.get("wav2vec2_shallow").defined_in == "shallow.ShallowModel"


@pytest.mark.usefixtures("_clean")
def test_as_one_file(data: Path, tmp_path: Path) -> None:
    command = [data, "--user-dir", PLUGIN / "shallow.py", "--save-dir", tmp_path, "--arch", "wav2vec2_shallow_tiny"]
    outcome = call(
        train.main, [*command, "--criterion", "wav2vec", "--infonce", "--num-workers", 0, "--lr", 0.001, *SMALL]
    )
    assert outcome.code == 0, outcome.err
    assert len(outcome.lines("train_inner")) == 4


def test_as_an_installed_package(data: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(PLUGIN, site / "my_speech", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "my_speech-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-speech\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[w2v.plugins]\nmy_speech = my_speech\n")
    command = arguments(data, tmp_path / "run", "--num-workers", 1)
    place = command.index("--user-dir")
    environ = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(site)])}
    outcome = program(["-m", "w2v_cli.train", *command[:place], *command[place + 2 :]], environ)
    assert outcome.code == 0, outcome.err
    code = f"import w2v; print(w2v.load_model({str(tmp_path / 'run/checkpoint_last.pt')!r}).num_updates)"
    loaded = program(["-c", code], environ)
    assert loaded.out.strip() == "4", loaded.err


# ------------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_names_its_plugin_but_never_runs_it(data: Path, tmp_path: Path) -> None:
    """A file that says which code to import would be a program."""
    path = tmp_path / "run/checkpoint_last.pt"
    command = arguments(data, path.parent, "--num-workers", 0)
    command[command.index("--user-dir") + 1] = os.path.relpath(PLUGIN)
    assert program(["-m", "w2v_cli.train", *command], {}).code == 0
    with pytest.raises(RegistryError, match="trained with --user-dir") as caught:
        load_model(path)
    assert str(PLUGIN) in str(caught.value)  # from any folder


@pytest.mark.usefixtures("_clean")
def test_a_checkpoint_is_read_with_the_plugin(data: Path, tmp_path: Path) -> None:
    outcome = call(train.main, arguments(data, tmp_path, "--num-workers", 0))
    assert outcome.code == 0, outcome.err
    loaded = load_model(tmp_path / "checkpoint_last.pt", user_dir=str(PLUGIN))
    assert type(loaded.model).__name__ == "ShallowModel"
    assert loaded.num_updates == 4
    assert loaded.model.extract_features(torch.randn(1, 4000), None).features.shape[2] == 32


# ------------------------------------------------------------------------------------- programs over clips


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize("layer", ["c", "z"])
def test_featurize(data: Path, tmp_path: Path, layer: str) -> None:
    run, audio = tmp_path / "run", tmp_path / "audio"
    assert call(train.main, arguments(data, run, "--num-workers", 0)).code == 0
    audio.mkdir()
    rng = np.random.default_rng(1)
    for name, length in (("a", 9000), ("b", 5000), ("long", 40000)):
        soundfile.write(audio / f"{name}.wav", rng.normal(size=length).astype(np.float32) * 0.1, 16000, subtype="FLOAT")
    command = ["-i", audio, "-o", tmp_path / "out", "--model", run / "checkpoint_last.pt", "--user-dir", PLUGIN,
               "--format", "npy", "--layer", layer, "--cpu", "--quiet"]  # fmt: skip
    outcome = call(featurize.main, command)
    assert outcome.code == 0, outcome.err
    model = load_model(run / "checkpoint_last.pt", user_dir=str(PLUGIN)).model
    for name in ("a", "b", "long"):
        wave = torch.from_numpy(soundfile.read(audio / f"{name}.wav", dtype="float32")[0])
        with torch.no_grad():
            expected = model.extract_features(wave[None], layer=layer).features[0].numpy()
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), expected, rtol=1e-4, atol=1e-5)
    command[command.index("--layer") + 1] = "1"
    refused = call(featurize.main, [*command, "--overwrite"])
    assert refused.code == 2
    assert "--layer must be z or c for this model, got '1'" in refused.err


@pytest.mark.usefixtures("_clean")
def test_programs_for_other_models_say_so(data: Path, tmp_path: Path) -> None:
    assert call(train.main, arguments(data, tmp_path, "--num-workers", 0)).code == 0
    checkpoint = tmp_path / "checkpoint_last.pt"
    inspected = call(convert.main, ["--inspect", checkpoint, "--user-dir", PLUGIN])
    assert inspected.code == 0, inspected.err
    assert "model: wav2vec2_shallow" in inspected.out
    command = ["--data-dir", data, "--output-dir", tmp_path / "t", "--checkpoint", checkpoint, "--splits", "valid"]
    refused = call(tokenize.main, [*command, "--user-dir", PLUGIN])
    assert refused.code == 2
    assert "the model has no quantizer" in refused.err
    command = [data, "--path", checkpoint, "--gen-subset", "valid", "--results-path", tmp_path / "i", "--labels", "ltr"]
    refused = call(infer.main, [*command, "--w2l-decoder", "viterbi", "--user-dir", PLUGIN, "--cpu"])
    assert refused.code == 2
    assert "Traceback" not in refused.err


TALKATIVE = """
import torch
from torch import nn
from my_speech.shallow import ShallowConfig, ShallowModel
from w2v.models import W2vModel, register_model
from w2v.types import CtcOutput

@register_model("talkative", ShallowConfig)
class Talkative(ShallowModel):
    'Symbols and codes of the shallow frames.'

    def __init__(self, config, num_classes):
        super().__init__(config)
        self.codebook_size = (2, 4)
        self.proj = nn.Linear(config.context_dim, num_classes)

    def forward(self, source, lengths=None, seed=None):
        found = self.extract_features(source, lengths)
        full = torch.full((len(source),), found.features.shape[1])
        return CtcOutput(self.proj(found.features), full if found.lengths is None else found.lengths)

    def codes_of(self, source, lengths):
        found, frames = self.layer_frames(source, lengths, {"c"})
        return found["c"][..., :8].unflatten(-1, (2, 4)).argmax(-1), frames
"""


@pytest.mark.usefixtures("_clean")
def test_a_model_with_symbols_and_codes_runs_in_all(data: Path, tmp_path: Path) -> None:
    shutil.copytree(PLUGIN, tmp_path / "my_speech", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "my_speech" / "talkative.py").write_text(TALKATIVE)
    plugin = ["--user-dir", tmp_path / "my_speech"]
    with (tmp_path / "my_speech" / "__init__.py").open("a") as file:
        file.write("\nfrom my_speech import talkative  # noqa\n")
    run = tmp_path / "run"
    trained = call(train.main, [
        data, "--save-dir", run, "--arch", "talkative", "--criterion", "ctc", "--labels", "ltr", "--zero-infinity",
        "--context-dim", 16, "--conv-feature-layers", "[(16, 10, 5)] + [(16, 4, 4)] * 3", "--num-workers", 0,
        "--lr", 0.001, *SMALL, *plugin,
    ])  # fmt: skip
    assert trained.code == 0, trained.err
    checkpoint = run / "checkpoint_last.pt"
    assert "model: talkative" in call(convert.main, ["--inspect", checkpoint, *plugin]).out
    model = load_model(checkpoint, user_dir=str(tmp_path / "my_speech")).model

    command = [data, "--path", checkpoint, "--gen-subset", "valid", "--results-path", tmp_path / "i", "--labels", "ltr"]
    inferred = call(infer.main, [*command, "--w2l-decoder", "viterbi", "--cpu", *plugin])
    assert inferred.code == 0, inferred.err
    manifest = (data / "valid.tsv").read_text().splitlines()
    names = [line.split("\t")[0] for line in manifest[1:]]
    written = (tmp_path / "i" / "hypo.units-checkpoint_last.pt-valid.txt").read_text().splitlines()
    assert len(written) == len(names)

    command = ["--data-dir", data, "--output-dir", tmp_path / "t", "--checkpoint", checkpoint, "--splits", "valid"]
    assert call(tokenize.main, [*command, *plugin]).code == 0
    lines = (tmp_path / "t" / "valid.src").read_text().splitlines()
    wave = torch.from_numpy(soundfile.read(Path(manifest[0]) / names[0], dtype="float32")[0])
    codes, _ = model.extract_codes(wave[None])
    assert lines[0].split() == ["-".join(map(str, frame)) for frame in codes[0].tolist()]


# ------------------------------------------------------------------------------------- the parts themselves


@pytest.mark.usefixtures("plugin")
def test_the_model_learns() -> None:
    """On one batch, to well above chance: among 51 candidates the loss of a guess is ln 51."""
    entry = MODELS.get("wav2vec2_shallow_tiny")
    torch.manual_seed(0)
    model = entry.cls(entry.config(**{**entry.overrides, "mask_length": 3}))
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    rng = np.random.default_rng(0)
    clips = torch.stack([torch.from_numpy(speak(WORDS[:6], rng))[:16000] for _ in range(4)])
    losses = []
    for step in range(50):
        logits = model(clips, None, step).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.9 * math.log(51)


def test_smoothing_against_cross_entropy(plugin: Any) -> None:
    """Oracle: torch's label smoothing, where no negative equals its positive."""
    module = plugin["my_speech.smoothed_infonce"]
    logits = torch.randn(7, 5)
    batch = collate([AudioExample(0, torch.zeros(4))], [0], 4, seed=1)
    for smoothing in (0.0, 0.1, 1.0):
        loss = module.SmoothedInfoNce(module.SmoothedConfig(smoothing=smoothing))(ContrastiveOutput(logits), batch)
        expected = torch.nn.functional.cross_entropy(
            logits, torch.zeros(7, dtype=torch.long), reduction="sum", label_smoothing=smoothing
        )
        torch.testing.assert_close(loss.value, expected)
    logits[2, 3] = -math.inf
    loss = module.SmoothedInfoNce(module.SmoothedConfig(smoothing=0.1))(ContrastiveOutput(logits), batch)
    assert loss.value.isfinite()


def test_noise_has_the_loudness_asked_for(plugin: Any) -> None:
    module = plugin["my_speech.noisy_audio"]
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.normal(size=n).astype(np.float32) * 0.2) for n in (20000, 12000)]
    batch = collate([AudioExample(i, clip) for i, clip in enumerate(clips)], [0, 0], 20000, seed=5)
    noise = module.add_noise(batch, 10.0) - batch.source
    assert not noise[1, 12000:].any()
    for row, clip in enumerate(clips):
        measured = 10 * math.log10(float(clip.square().mean() / noise[row, : len(clip)].square().mean()))
        assert measured == pytest.approx(10.0, abs=0.2)
    assert torch.equal(module.add_noise(batch, 10.0) - batch.source, noise)


def test_padding_does_not_leak(plugin: Any) -> None:
    model = MODELS.get("wav2vec2_shallow_tiny")
    torch.manual_seed(0)
    built = model.cls(model.config(**model.overrides)).eval()
    clip = torch.randn(1, 5000)
    padded = torch.cat([clip, torch.zeros(1, 3000)], dim=1)
    alone = built.extract_features(clip, None).features
    together = built.extract_features(padded, torch.tensor([5000]))
    assert together.lengths is not None
    assert together.lengths.tolist() == [alone.shape[1]]
    torch.testing.assert_close(together.features[:, : alone.shape[1]], alone)

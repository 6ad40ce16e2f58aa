"""The package: what it needs, the extras, the programs.

Tool settings live in pyproject.toml; the versions that were tested together live in constraints.txt.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "w2v/version.py").read_text(encoding="utf-8"), re.MULTILINE)
if VERSION is None:
    raise SystemExit("setup.py: w2v/version.py holds no __version__")

# `import w2v` needs torch and numpy; the others are imported by the function that uses them.
REQUIRED = [
    "torch>=2.6",
    "numpy>=1.24",
    "soundfile>=0.12.1",
    "soxr>=0.3.7",  # recordings of 44.1 kHz are everybody's
    "safetensors>=0.4",
    "tqdm>=4.65",
    "pyyaml>=6.0",
    "rapidfuzz>=3.0",  # edit distances
    "sacrebleu>=2.3",
    "tensorboardX>=2.6",
]

EXTRAS = {
    # Required anyway; the extra exists because the message about a missing soundfile names it.
    "audio": ["soundfile>=0.12.1"],
    # M4A, MP4, WebM, WMA: FFmpeg's libraries come inside the wheel.
    "media": ["av>=14"],
    # Only the ONNX file of silero-vad is used; see w2v/data/silero.py.
    "vad": ["silero-vad>=6.2.3", "onnxruntime>=1.17"],
    # `w2v-live`: a microphone (on Linux the system's PortAudio is needed, too), and the socket of the page.
    "live": ["sounddevice>=0.4.6", "websockets>=15"],
    # `w2v-visualize`: pictures, PCA and t-SNE.
    "vis": ["matplotlib>=3.8", "scikit-learn>=1.3"],
    # `w2v-kmeans`: targets of HuBERT.
    "kmeans": ["scikit-learn>=1.3"],
    # `w2v-featurize --format h5`, the original's layout.
    "h5": ["h5py>=3.8"],
    # KenLM's binaries, and a quicker search over single clips. These builds of kenlm and flashlight-text come as wheels
    # for Python 3.10 to 3.14; the packages they are built from need a C++ compiler, or end at Python 3.12.
    "kenlm": ["ufal-kenlm>=26.4", "ufal-flashlight-text>=0.0.7.1"],
    # The beam search of ARPA models as machine code.
    "numba": ["numba>=0.61"],
    "onnx": ["onnx>=1.15", "onnxruntime>=1.17"],
    # Clips inside of parquet files, and of shards on s3:// and gs://; tar, zip and https:// need none of them.
    "shards": ["fsspec>=2024.2", "s3fs>=2024.2", "gcsfs>=2024.2", "pyarrow>=15"],
    # Models by their names on the Hugging Face hub.
    "hub": ["huggingface_hub>=0.26"],
    # tensorboardX is required anyway; the extra exists because the message about --tensorboard-logdir names it.
    "tensorboard": ["tensorboardX>=2.6"],
    # `--wandb-project`, with --tracker wandb or trackio.
    "wandb": ["wandb>=0.17"],
    "trackio": ["trackio>=0.4"],
    # espeak-ng is GPL-3: it is installed by who wants the demo, loaded as a library, and never part of this package.
    "demo": ["espeakng-loader>=0.2.4", "matplotlib>=3.8"],
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "jiwer>=3.0",
        "ruff>=0.9",
        "mypy>=1.14",
        "types-PyYAML",
        "types-tqdm",
        "h5py>=3.8",
        # Other implementations that w2v-convert is held against.
        "transformers>=4.46",
        "huggingface_hub>=0.26",
        "onnx>=1.15",
        "onnxruntime>=1.17",
        # Transcribes with the folders of `--to onnx`.
        "onnx-asr>=0.12",
        "espeakng-loader>=0.2.4",
        "ufal-kenlm>=26.4",
        "ufal-flashlight-text>=0.0.7.1",
        "av>=14",
        # Not s3fs and moto[s3,server], which are 110 MB: tests of s3:// are skipped without them.
        "fsspec>=2024.2",
        "pyarrow>=15",
        "silero-vad>=6.2.3",
        # Independent readers of subtitles and TextGrids.
        "praatio>=6.2",
        "webvtt-py>=0.5",
        # The wheel is built, checked and installed.
        "build>=1.2",
        "twine>=6.1",
        "setuptools>=77",
        "matplotlib>=3.8",
        "scikit-learn>=1.3",
        # The loops of others that docs/library.md shows.
        "accelerate>=1.0",
        "lightning>=2.4",
        # Drives the Chromium that is installed, if one is: reports and the live page are opened as a reader does.
        "playwright>=1.40",
        "websockets>=15",
        # A client of POST /v1/audio/transcriptions.
        "openai>=1.40",
    ],
}
EXTRAS["dev"] = EXTRAS["test"]
EXTRAS["all"] = sorted({package for name in EXTRAS if name not in ("test", "dev") for package in EXTRAS[name]})

SUMMARY = (
    "Self-supervised learning of speech from raw audio (wav2vec, vq-wav2vec, wav2vec 2.0, HuBERT, masked language "
    "models of tokens), CTC fine-tuning, decoding with language models, transcripts with word times of any recording, "
    "and live transcription."
)

# Each program is `main() -> int` of a module in w2v_cli; what it returns is the exit code.
PROGRAMS = (
    *("manifest", "segment", "labels", "train", "infer", "transcribe", "live", "align", "featurize", "tokenize"),
    *("kmeans", "convert", "lm", "visualize"),
)

setup(
    name="w2v",
    version=VERSION[1],
    description=SUMMARY,
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="speech recognition, self-supervised learning, wav2vec, vq-wav2vec, wav2vec 2.0, HuBERT, "
    "masked language model, CTC, forced alignment, live transcription",
    project_urls={
        "wav2vec 2.0 (paper)": "https://arxiv.org/abs/2006.11477",
        "vq-wav2vec (paper)": "https://arxiv.org/abs/1910.05453",
        "wav2vec (paper)": "https://arxiv.org/abs/1904.05862",
        "Original recipes": "https://github.com/facebookresearch/fairseq/tree/main/examples/wav2vec",
    },
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["w2v", "w2v.*", "w2v_cli", "w2v_cli.*"]),
    package_data={
        "w2v": ["py.typed", "config/recipes/*.yaml", "training/reference_curves/*.csv"],
        "w2v_cli.serve": ["page/*"],
    },
    data_files=[("share/doc/w2v", [f"docs/{path.name}" for path in sorted((HERE / "docs").glob("*.md"))])],
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["w2v=w2v.__main__:main", *(f"w2v-{name}=w2v_cli.{name}:main" for name in PROGRAMS)]
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

"""Draw the curves of training runs from their logs (`--log-format json`), one picture per quantity.

The loss is that of the prediction alone, without the penalties of a quantizer.

    python examples/wav2vec/plot_curves.py --out pictures wav2vec=a.log gumbel=b.log kmeans=c.log

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

QUANTITIES = {
    "loss": "loss of the prediction, bits",
    "accuracy": "accuracy as logged (ties count)",
    "code_perplexity": "perplexity of the codes",
}


def main() -> int:
    """Draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="NAME=LOG")
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    runs = {name: read_log(Path(path)) for name, _, path in (item.partition("=") for item in arguments.logs)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for quantity, title in QUANTITIES.items():
        figure, axes = pyplot.subplots(figsize=(6, 3.5), dpi=110)
        for number, (name, lines) in enumerate(runs.items()):
            points = [(float(line["num_updates"]), float(line[quantity])) for line in lines if quantity in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, color=f"C{number}")
        axes.set(xlabel="updates", ylabel=title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.tight_layout()
        figure.savefig(arguments.out / f"{quantity}.png")
        pyplot.close(figure)
    return 0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the objects of the `train_inner` lines; `loss_0`, where there is one, becomes the loss."""
    marker = "| train_inner | "
    lines = path.read_text(encoding="utf-8").splitlines()
    values = [json.loads(line.split(marker, 1)[1]) for line in lines if marker in line]
    return [{**line, "loss": line.get("loss_0", line["loss"])} for line in values]


if __name__ == "__main__":
    sys.exit(main())

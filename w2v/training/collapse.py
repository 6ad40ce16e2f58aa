"""Notices a model that no longer learns what it should, from values that the log has anyway.

A codebook of which one code is in use, or a task that has become too easy, makes for a falling loss and for features
that are of no use (wav2vec 2.0, section 3.2: the diversity loss is there to prevent the former). In the log it can be
seen within an hour.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from w2v.errors import TrainingError

logger = logging.getLogger(__name__)

SUSTAINED = 500
"""Updates for which a symptom must last: a codebook may narrow for a moment during warm-up."""
SINGLE_CODE = 1.01
FEW_CODES = 4.0
FEW_CODES_SHARE = 0.05
"""A codebook counts as collapsed at a perplexity per group below 4 codes and below 5 % of them; always with one."""
TOO_ACCURATE = 0.98
EARLY = 5000
ONE_CLASS = 0.02  # bits of entropy
SEVERAL_CLASSES = 0.5

CODE_CAUSES = (
    "a diversity weight of 0 or too low (the first of --loss-weights), --lr too high or its warm-up too short, a "
    "temperature that starts or ends too low (--latent-temp, --vq-temp), updates over too little audio (--max-tokens, "
    "--update-freq), silence or duplicates in the data"
)
ACCURACY_CAUSES = (
    "masks or negatives that give the answer away (--mask-prob, --mask-length, --num-negatives, --offset), the same "
    "few clips over and over, silence, a collapsed codebook (negatives that equal their positive do not count)"
)

CLASS_CAUSES = (
    "--lr too high or its warm-up too short, silence or duplicates in the data, labels that do not belong to the audio "
    "(another order of clips, another --label-rate)"
)


class CollapseMonitor:
    """Warns, or ends training, when a symptom of collapse has lasted for some hundred updates.

    A model of classes whose predictions have fallen to one class ends training in any case: no features come of it.

    Args:
        codebook: groups and codewords per group of the model's quantizer; (0, 0) without one.
        stop: end training instead of warning (`--on-collapse stop`).
    """

    def __init__(self, codebook: tuple[int, int], *, stop: bool) -> None:
        self._groups, self._num_vars = codebook
        self._stop = stop
        self._since: dict[str, int] = {}
        self._told: list[str] = []
        self._has_predicted = False  # several classes: before, a model may well begin with the most frequent one

    def look_at(self, line: Mapping[str, float]) -> None:
        """Judge a line of the training log.

        Args:
            line: averages over the updates since the last line: `num_updates`, and `code_perplexity` and `accuracy`
                where they are logged (`--log-keys`, `--infonce`).

        Raises:
            TrainingError: a symptom has lasted, and training is to end.
        """
        now = int(line["num_updates"])
        symptoms = {"codes": (self._codes(line), CODE_CAUSES), "accuracy": (_accuracy(line), ACCURACY_CAUSES)}
        for name, (text, causes) in symptoms.items():
            if not text:  # what has passed may come back, and is told of again
                self._since.pop(name, None)
                self._told = [told for told in self._told if told != name]
            elif now - self._since.setdefault(name, now) >= SUSTAINED and name not in self._told:
                self._told.append(name)
                self._tell(f"{text} for {now - self._since[name]} updates; likely causes: {causes}")
        self._look_at_classes(line, now)

    def _codes(self, line: Mapping[str, float]) -> str:
        perplexity = line.get("code_perplexity")
        if perplexity is None or self._num_vars < 2:
            return ""  # not logged, or nothing to choose from
        # The logged perplexity is summed over groups (Baevski et al. 2020, section 3.3); one code each would be 1.
        per_group = perplexity / self._groups
        if per_group <= SINGLE_CODE:
            return f"all frames have had the same code (code_perplexity {perplexity:g})"
        if per_group < min(FEW_CODES, FEW_CODES_SHARE * self._num_vars):
            return f"code_perplexity has been near its floor of {self._groups} (it is {perplexity:g})"
        return ""

    def _look_at_classes(self, line: Mapping[str, float], now: int) -> None:
        """End training where all frames of all label sets have been given one class for long (HuBERT)."""
        predicted = [value for name, value in line.items() if name.startswith("pred_entropy_")]
        labels = [value for name, value in line.items() if name.startswith("label_entropy_")]
        if not predicted:
            return
        self._has_predicted = self._has_predicted or max(predicted) > SEVERAL_CLASSES
        is_fallen = max(predicted) < ONE_CLASS and max(labels) > SEVERAL_CLASSES
        if not is_fallen or not (self._has_predicted or now > EARLY):
            self._since.pop("classes", None)
        elif now - self._since.setdefault("classes", now) >= SUSTAINED:
            raise TrainingError(
                f"all frames have been predicted to be of one class for {now - self._since['classes']} updates, where "
                f"labels have {max(labels):.1f} bits of entropy; likely causes: {CLASS_CAUSES}; the checkpoints stay "
                "as they are"
            )

    def _tell(self, text: str) -> None:
        if self._stop:
            raise TrainingError(f"{text} (--on-collapse stop; the checkpoints stay as they are)")
        logger.warning("%s", text)

    def state_dict(self) -> dict[str, Any]:
        """Return since when each symptom has lasted, and which have been told of."""
        return {"since": dict(self._since), "told": list(self._told), "has_predicted": self._has_predicted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier start of the run has seen."""
        self._since, self._told = dict(state["since"]), list(state["told"])
        self._has_predicted = state.get("has_predicted", False)


def _accuracy(line: Mapping[str, float]) -> str:
    accuracy = line.get("accuracy", 0.0)
    # Later in training, a good model may well tell targets from negatives nearly always.
    if accuracy <= TOO_ACCURATE or line["num_updates"] > EARLY:
        return ""
    return f"accuracy has been above {TOO_ACCURATE} (it is {accuracy:g})"

"""Tasks, found by `--task`. Importing this package registers the built-in ones."""

from w2v.tasks import audio_pretraining, hubert_pretraining, language_modeling, masked_lm
from w2v.tasks.base import TASKS, Task, register_task

__all__ = [
    "TASKS",
    "Task",
    "audio_pretraining",
    "hubert_pretraining",
    "language_modeling",
    "masked_lm",
    "register_task",
]

"""Where the frames of a model lie in time: `w2v.frame_times`."""

from __future__ import annotations

from w2v.errors import ArgumentError
from w2v.functional import frame_times as functional
from w2v.functional.frame_times import FrameTimes
from w2v.inference.load import LoadedModel
from w2v.models.base import W2vModel


def frame_times(model: LoadedModel | W2vModel, num_samples: int, *, sample_rate: int | None = None) -> FrameTimes:
    """Return where the frames of a clip lie: the samples that each is made of, its centre, and the frame rate.

    They are the same for every layer of a model. Files of `w2v-featurize`, the times of `w2v-infer` and this agree.

    Args:
        model: what `w2v.load_model` returned, or its `model`, which does not know its sample rate.
        num_samples: length of the clip, at the sample rate of the model.
        sample_rate: of a bare model, in Hz; without it there are no seconds and no rate.

    Raises:
        ArgumentError: the model does not say by which convolutions its frames are made.
    """
    if isinstance(model, LoadedModel):
        sample_rate = getattr(model.task.config, "sample_rate", sample_rate)
        model = model.model
    if not model.conv_layers:
        raise ArgumentError(
            f"model must say by which convolutions its frames are made (conv_layers), got {type(model)}"
        )
    return functional.frame_times(num_samples, model.conv_layers, sample_rate)

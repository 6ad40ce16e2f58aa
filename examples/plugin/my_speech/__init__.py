"""A plugin: an architecture, a criterion and a task that are no part of w2v. Importing it registers them."""

from my_speech import noisy_audio as _noisy_audio
from my_speech import shallow as _shallow
from my_speech import smoothed_infonce as _smoothed_infonce

_PARTS = (_noisy_audio, _shallow, _smoothed_infonce)

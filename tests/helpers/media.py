"""Sound in the formats of phones and of the web, written with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import soxr


def write_media(
    path: Path,
    samples: np.ndarray,
    sample_rate: int,
    codec: str,
    rate: int,
    layout: str = "mono",
    *,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    bit_rate: int = 128_000,
) -> None:
    """Write (S,) samples, resampled to `rate`; each channel is a copy.

    Args:
        path: its ending names the container.
        samples: in [-1, 1].
        sample_rate: of `samples`, in Hz.
        codec: FFmpeg's name.
        rate: in Hz.
        layout: mono or stereo.
        container_options, codec_options: FFmpeg's.
        bit_rate: of codecs that lose something.
    """
    import av

    samples = soxr.resample(samples, sample_rate, rate) if rate != sample_rate else samples
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    form = "asf" if path.suffix == ".wma" else None
    with av.open(str(path), "w", format=form, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=codec_options or {})
        # WMA is opened with a bit rate only.
        stream.bit_rate = bit_rate
        context = stream.codec_context
        if not context.is_open:
            context.open()
        resampler = av.AudioResampler(context.format, layout, rate, context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(part):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)

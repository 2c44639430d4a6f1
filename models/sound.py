"""Sound for an encoder: logarithmic mel spectra, and the convolutions that read them (Whisper)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.activations import ACTIVATIONS
from models.initial import deviation
from models.layers import normal
from models.options import Options

RATE = 16_000  # samples a second
WINDOW, HOP = 400, 160  # samples of a spectrum and between two: 25 and 10 ms


class Frames(nn.Module):
    """Spectra [B,2S,M] to what the blocks read, [B,S,D]: two convolutions of three frames, the second
    of every other one, each followed by the activation (Radford et al. 2022, section 2.2)."""

    o: Options

    @nn.compact
    def __call__(self, frames):
        o, x = self.o, frames.astype(self.o.activations)
        for name, width, step in (("conv1", o.frames, 1), ("conv2", o.width, 2)):
            x = _Convolution(o, width, step, name=name)(x)
        return x


class _Convolution(nn.Module):
    o: Options
    width: int
    step: int

    @nn.compact
    def __call__(self, x):
        o, shape = self.o, (3, self.width, self.o.width)
        kernel = self.param("kernel", normal(deviation(o, "frames")), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (o.width,), jnp.float32)
        x = jax.lax.conv_general_dilated(
            x.astype(o.dtype), kernel.astype(o.dtype), (self.step,), [(1, 1)],
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip
        return ACTIVATIONS[o.act](x.astype(o.activations) + bias.astype(o.activations))


def mels(bands: int) -> np.ndarray:
    """Triangles [bands, WINDOW / 2 + 1] of equal area, evenly spaced on Slaney's mel scale.

    The scale is linear up to 1 kHz (15 mels) and logarithmic above, log(6.4) / 27 a mel.
    """
    step = np.log(6.4) / 27
    to_hertz = lambda mel: np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))
    top = 15 + np.log(RATE / 2 / 1000) / step
    edges = to_hertz(np.linspace(0, top, bands + 2))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    widths = np.diff(edges)
    rising = (bins - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins) / widths[1:, None]
    shapes = np.maximum(0, np.minimum(rising, falling))
    return shapes * (2 / (edges[2:] - edges[:-2]))[:, None]


def spectrogram(samples, bands: int, frames: int) -> np.ndarray:
    """Whisper's input [frames, bands] float32 of samples [n] in [-1, 1] at RATE.

    Powers of Hann windows HOP apart, in mel bands, log10, at most 8 below the loudest, (x + 4) / 4.
    The sound is filled with silence to frames * HOP samples; a longer one is a ValueError.
    """
    samples = np.asarray(samples, np.float64)
    room = frames * HOP
    if samples.ndim != 1 or len(samples) > room:
        raise ValueError(
            f"the sound has shape {samples.shape}; expected one channel of at most {room:,} samples "
            f"({room / RATE:.0f} s)"
        )
    samples = np.pad(np.pad(samples, (0, room - len(samples))), WINDOW // 2, mode="reflect")
    pieces = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][:frames]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(pieces * hann, axis=-1)) ** 2
    logs = np.log10(np.maximum(power @ mels(bands).T, 1e-10))
    return ((np.maximum(logs, logs.max() - 8) + 4) / 4).astype(np.float32)

"""How fast a run goes: tokens per second and the share of the device's arithmetic that is used.

Model floating point operations count each multiplication and addition of the model's own matrix
products once forward and twice backward (Chowdhery et al. 2022, appendix B); what remat computes again
does not count.
"""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from models.options import Options

# Dense bfloat16 matrix peak in FLOP/s of what jax calls one device (TPU v2 and v3: a core, half a
# chip), from the makers' data sheets; sparse figures are twice these. The longest name that the
# device's kind contains counts.
PEAKS = {
    "TPU v2": 22.5e12, "TPU v3": 61.5e12, "TPU v4": 275e12, "TPU v5 lite": 197e12,
    "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12, "B200": 2250e12, "H200": 989e12,
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "L4": 121e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip


def peak(mesh, given: float = 0.0) -> float:
    """FLOP/s of all devices of a mesh: `given` per device, else known by name, else 0 (unknown).

    Host processors have no data sheet to go by: one float32 product is timed (20 ms), and the
    processor counts once however many devices it plays.
    """
    device = mesh.local_devices[0]
    if given:
        return given * mesh.size
    if device.platform == "cpu":
        return _matmul_rate(device) * jax.process_count()
    names = sorted((name for name in PEAKS if name in device.device_kind), key=len)
    return PEAKS[names[-1]] * mesh.size if names else 0.0


def _matmul_rate(device, size: int = 1024, times: int = 4) -> float:
    seconds = []
    with jax.set_mesh(jax.make_mesh((1,), ("own",), devices=[device])):  # not all processes' mesh
        x = jax.device_put(np.ones((size, size), np.float32), device)
        multiply = jax.jit(jnp.matmul)
        multiply(x, x).block_until_ready()
        for _ in range(times):
            start = time.perf_counter()
            multiply(x, x).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def matmul_parameters(o: Options) -> int:
    """Parameters that one token multiplies with: projections, feed-forward and the language head.

    With experts only those that a token visits, and the router. Norms, biases and tables that are
    only looked up are left out; a tied head counts once, as a head. A masked-language head is left out:
    it runs on the few positions that are masked.
    """
    attention = o.width * o.size * (2 * o.heads + 2 * o.groups)
    hidden = (3 if o.gated else 2) * o.width * o.hidden
    if o.experts:
        hidden = hidden * o.experts_per_token + o.width * o.experts
    head = o.width * o.vocab if o.head in ("lm", "double") else 0
    return o.depth * (attention * (1 + o.cross) + hidden) + head


def flops_per_token(o: Options, length: int) -> float:
    """Training operations (forward and backward) per token: 6 N + 12 H K S summed over layers.

    Attention counts as if it were not causal, with S keys: the length, or a local layer's window.
    """
    seen = {"local": o.window, "global": length}
    keys = sum(min(length, seen.get(kind, kind)) for kind in o.kinds())
    return 6.0 * matmul_parameters(o) + 12.0 * o.heads * o.size * keys


class Meter:
    """Rates between two readings; what happens while `paused` (evaluation, saving) doesn't count."""

    def __init__(self, peak: float, clock=time.perf_counter, unit: str = "tokens"):
        self.peak, self.clock, self.unit = peak, clock, unit
        self.reset()

    def reset(self):
        """Forgets what was counted; a step that was compiled is followed by this."""
        self.tokens, self.flops, self.steps = 0, 0.0, 0
        self.start = self.clock()

    def add(self, tokens: int, flops: float):
        """Counts one finished step."""
        self.tokens, self.flops, self.steps = (
            self.tokens + tokens,
            self.flops + flops,
            self.steps + 1,
        )

    @contextlib.contextmanager
    def paused(self):
        """Time in here is not training's."""
        before = self.clock()
        try:
            yield
        finally:
            self.start += self.clock() - before

    def read(self) -> dict[str, float]:
        """`tokens_per_second` (or another unit), `step_seconds`, `step_flops` and `mfu` since the last reading.

        The last two where a step's operations are known, and `mfu` only where the peak is as well.
        """
        seconds = self.clock() - self.start
        rates = {}
        if self.steps and seconds > 0:
            rates = {
                f"{self.unit}_per_second": self.tokens / seconds,
                "step_seconds": seconds / self.steps,
            }
            if self.flops:
                rates["step_flops"] = self.flops / self.steps
            if self.flops and self.peak:
                rates["mfu"] = self.flops / seconds / self.peak
        self.reset()
        return rates

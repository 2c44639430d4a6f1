"""Rates, model operations and the peak that they are held against."""

import types

import jax
import pytest

from models import families
from models.options import Options
from train.core import meter, shard


def test_model_operations_of_gpt2():
    """6 N + 12 L D T (Chowdhery et al. 2022, appendix B); N leaves out what is only looked up."""
    o = Options.of(families.row("gpt2", "124m"))
    assert meter.matmul_parameters(o) == 12 * 12 * 768**2 + 768 * 50257
    attention = 12 * 12 * 768 * 1024
    assert meter.flops_per_token(o, 1024) == 6 * (12 * 12 * 768**2 + 768 * 50257) + attention


def test_a_local_layer_reads_its_window_and_a_token_its_experts():
    row = dict(families.row("gpt3", "125m"), layers=2, pattern=("global", "local"), window=16)
    o = Options.of(row)
    both = meter.flops_per_token(o, 64) - 6.0 * meter.matmul_parameters(o)
    assert both == 12 * o.heads * o.size * (64 + 16)
    o = Options.of(families.row("moe", "8x7b"))
    visited = 2 * 3 * 4096 * 14336 + 4096 * 8
    assert meter.matmul_parameters(o) == 32 * (2 * 4096 * 128 * 40 + visited) + 4096 * 32000


def test_the_peak_is_timed_under_a_mesh_of_several_devices():
    mesh = shard.mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with jax.set_mesh(mesh):
        assert meter.peak(mesh) > 1e8
        assert meter.peak(mesh, 2e12) == 16e12


@pytest.mark.parametrize(
    ("kind", "each"), [("NVIDIA H100 80GB HBM3", 989e12), ("TPU v5 lite", 197e12), ("odd", 0.0)]
)
def test_peaks_by_name(kind, each):
    device = types.SimpleNamespace(platform="gpu", device_kind=kind)
    assert meter.peak(types.SimpleNamespace(local_devices=[device], size=4)) == 4 * each


def test_rates_leave_out_what_is_paused():
    now = [0.0]
    m = meter.Meter(peak=100.0, clock=lambda: now[0])
    for _ in range(2):
        m.add(10, 50.0)
        now[0] += 1.0
    with m.paused():
        now[0] += 100.0
    assert m.read() == {
        "tokens_per_second": 10.0,
        "step_seconds": 1.0,
        "step_flops": 50.0,
        "mfu": 0.5,
    }
    assert m.read() == {}, "nothing was counted since"
    m = meter.Meter(peak=0.0, clock=lambda: now[0])
    m.add(10, 50.0)
    now[0] += 2.0
    assert m.read() == {"tokens_per_second": 5.0, "step_seconds": 2.0, "step_flops": 50.0}

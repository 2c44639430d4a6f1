"""Eight CPU devices for every test, quick compilation, a cache that survives the run, and the markers.

Tests compile much and compute little: without the back end's optimisations the suite takes half the
time; without its fusion emitters, where they can be left out, compiling takes a third.
XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true" brings both back.
"""

import gc
import importlib.metadata
import os
import pathlib

import pytest

from tests import slow

_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 0,
}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at an unknown flag
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).resolve().parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

MAPPINGS = 15_000
MARKERS = {
    "slow": "takes more than a few seconds; tests/slow.txt lists most of them",
    "chaos": "kills processes or fills disks; run with -m chaos",
}


def pytest_configure(config):
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items):
    listed = slow.listed()
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """Compiled programs of a module go with it, before the kernel's 65,530 mappings a process are out."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()

"""Memory for the arrays of a run on a CPU: huge pages, and what a step used stays for the next one.

Every step takes its temporaries from malloc and gives them back; the kernel would map and clear
hundreds of MB anew in each, a tenth to a quarter of a step's CPU-seconds. glibc (2.35 and later) reads
when a process starts that it shall ask for huge pages, take large blocks from its heap too and never
shrink that, in one arena, whichever thread asks. So an entry point that trains starts itself once more.
Beside an accelerator arrays lie elsewhere and many threads feed it: there it asks for huge pages alone.
"""

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
KEPT = {"mmap_max": 0, "trim_threshold": 2**37, "arena_max": 1}
SWITCH = "FORMULARY_HUGE_PAGES"  # 0: leave the process as it is
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_DEVICES = Path("/dev")


def accelerated(devices: Path = _DEVICES) -> bool:
    """Whether the machine has a GPU's or a TPU's device files."""
    names = ("nvidia[0-9]*", "accel*", "vfio/[0-9]*", "kfd")
    return any(True for name in names for _ in devices.glob(name))


def wanted(environ: Mapping, mode: str, libc: tuple[str, str], kept: bool = True) -> bool:
    """Whether a process would gain: a glibc that can, something to be asked for, nobody's wish.

    `mode` is what the kernel's `transparent_hugepage/enabled` holds, `libc` what
    `platform.libc_ver()` gives; `kept`: see `environment`.
    """
    name, version = libc
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    able = name == "glibc" and numbers >= [2, 35] and environ.get(SWITCH, "1") != "0"
    return able and environment(environ, mode, kept) != dict(environ)


def environment(environ: Mapping, mode: str = "[madvise]", kept: bool = True) -> dict:
    """The environment with the tunables set that it does not have: huge pages where the kernel waits to
    be asked, and memory that is `kept`."""
    held = [part for part in environ.get(TUNABLES, "").split(":") if part]
    named = {part.partition("=")[0] for part in held}
    more = {**(KEPT if kept else {}), **({"hugetlb": 1} if "[madvise]" in mode else {})}
    asked = {f"glibc.malloc.{name}": value for name, value in more.items()}
    held += [f"{name}={value}" for name, value in asked.items() if name not in named]
    return {**environ, TUNABLES: ":".join(held)} if held else dict(environ)


def restart():
    """Starts the process anew with the tunables where it would gain, before anything is imported.

    Does nothing under a debugger, without an original command line, or the second time.
    """
    if sys.gettrace() or not sys.executable or len(sys.orig_argv) < 2:
        return
    mode = _MODE.read_text() if _MODE.exists() else ""
    kept = not accelerated()
    if wanted(os.environ, mode, platform.libc_ver(), kept):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, environment(os.environ, mode, kept))


def trim():
    """Gives back what malloc holds and nobody uses: what is left of initialising and compiling."""
    if platform.libc_ver()[0] == "glibc":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

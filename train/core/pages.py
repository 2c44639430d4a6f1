"""Huge pages for the arrays of a run on a CPU.

Every step takes its temporaries from malloc and gives them back; with pages of 4 KiB the kernel clears
and maps a hundred thousand of them in each step of a small model, a tenth to a sixth of its
CPU-seconds. glibc (2.35 and later) asks for huge pages if its tunable `glibc.malloc.hugetlb` is 1,
which it reads when a process starts. So an entry point that trains starts itself once more.
"""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
SWITCH = "FORMULARY_HUGE_PAGES"  # 0: leave the process as it is
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def wanted(environ: Mapping, mode: str, libc: tuple[str, str]) -> bool:
    """Whether a process would gain: a glibc that can, a kernel that waits to be asked, nobody's wish.

    `mode` is what the kernel's `transparent_hugepage/enabled` holds, `libc` what
    `platform.libc_ver()` gives.
    """
    if environ.get(SWITCH, "1") == "0" or TUNABLE in environ.get(TUNABLES, ""):
        return False
    name, version = libc
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return name == "glibc" and numbers >= [2, 35] and "[madvise]" in mode


def environment(environ: Mapping) -> dict:
    """The environment with the tunable set, other tunables kept."""
    held = environ.get(TUNABLES, "")
    return {**environ, TUNABLES: f"{held}:{TUNABLE}=1" if held else f"{TUNABLE}=1"}


def restart():
    """Starts the process anew with huge pages where it would gain, before anything is imported.

    Does nothing under a debugger, without an original command line, or the second time.
    """
    if sys.gettrace() or not sys.executable or len(sys.orig_argv) < 2 or not _MODE.exists():
        return
    if wanted(os.environ, _MODE.read_text(), platform.libc_ver()):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, environment(os.environ))

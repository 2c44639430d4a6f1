"""Memory: asked for where a process would gain, once, and never against somebody's wish; given back."""

import os
import subprocess
import sys

import pytest

from train.core import pages

ASKED, ALWAYS = "always [madvise] never", "[always] madvise never"
GLIBC = ("glibc", "2.36")
KEPT = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=137438953472:glibc.malloc.arena_max=1"
ALL = f"{KEPT}:glibc.malloc.hugetlb=1"


def test_wanted_where_the_kernel_waits_to_be_asked():
    assert pages.wanted({}, ASKED, GLIBC)
    assert pages.wanted({}, ALWAYS, GLIBC) and pages.wanted({}, "", GLIBC)
    assert pages.wanted({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, ASKED, GLIBC)
    assert pages.environment({}, ASKED)[pages.TUNABLES] == ALL
    assert pages.environment({}, ALWAYS)[pages.TUNABLES] == KEPT


@pytest.mark.parametrize(
    "environ, mode, libc",
    [
        ({pages.SWITCH: "0"}, ASKED, GLIBC),
        ({pages.TUNABLES: ALL.replace("hugetlb=1", "hugetlb=0")}, ASKED, GLIBC),
        ({pages.TUNABLES: KEPT}, ALWAYS, GLIBC),
        ({}, ASKED, ("glibc", "2.31")),
        ({}, ASKED, ("", "")),
    ],
)
def test_not_wanted(environ, mode, libc):
    assert not pages.wanted(environ, mode, libc)


@pytest.mark.parametrize("name", ["nvidia0", "accel3", "vfio/12", "kfd"])
def test_beside_an_accelerator_only_huge_pages_are_asked_for(tmp_path, name):
    assert not pages.accelerated(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not pages.accelerated(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert pages.accelerated(tmp_path)
    assert pages.environment({}, ASKED, False) == {pages.TUNABLES: "glibc.malloc.hugetlb=1"}
    assert pages.environment({"A": "b"}, ALWAYS, False) == {"A": "b"}
    assert not pages.wanted({}, ALWAYS, GLIBC, False)


def test_the_environment_that_is_set_is_not_wanted_again():
    held = pages.environment({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4", "A": "b"})
    rest = ALL.replace(":glibc.malloc.arena_max=1", "")
    assert held["GLIBC_TUNABLES"] == f"glibc.malloc.arena_max=4:{rest}"
    assert held["A"] == "b"
    assert not pages.wanted(held, ASKED, GLIBC)


def test_a_process_starts_itself_once_more_with_its_arguments(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom train.core import pages\n"
        f"pages._MODE = Path({str(tmp_path / 'mode')!r})\npages.platform.libc_ver = lambda: {GLIBC}\n"
        "pages.accelerated = lambda: False\n"
        "print('here', flush=True)\npages.restart()\n"
        "print(sys.argv[1:], os.environ['GLIBC_TUNABLES'])\n"
    )
    (tmp_path / "mode").write_text(ASKED)
    environ = {k: v for k, v in os.environ.items() if k != pages.TUNABLES}
    environ.pop(pages.SWITCH, None)
    done = subprocess.run(
        [sys.executable, str(script), "--a=b c", "d"],
        capture_output=True, text=True, check=True, env={**environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == [
        "here",
        "here",
        f"['--a=b c', 'd'] {ALL}",
    ]


USES = """
import resource
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use = lambda: np.ones(32 << 20, np.uint8).sum()
use()
before = faults()
for _ in range(4):
    use()
print(faults() - before)
"""


def test_large_blocks_are_cleared_once_and_not_in_each_step():
    plain = {k: v for k, v in os.environ.items() if k != pages.TUNABLES}
    counted = []
    for environ in (plain, pages.environment(plain, ALWAYS)):
        done = subprocess.run(
            [sys.executable, "-c", USES], capture_output=True, text=True, check=True, env=environ
        )
        counted.append(int(done.stdout))
    assert counted[1] * 4 < counted[0]


def test_what_is_not_used_is_given_back():
    code = (
        "import numpy as np\nfrom train.core import pages\n"
        "rows = [np.ones(1 << 20, np.uint8) for _ in range(64)]\nlast = bytearray(1 << 20)\ndel rows\n"
        "held = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "before = held()\npages.trim()\nprint(before - held())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=pages.environment(os.environ, ALWAYS),
    )  # fmt: skip
    assert int(done.stdout) * os.sysconf("SC_PAGE_SIZE") > 48 << 20

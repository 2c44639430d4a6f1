"""Huge pages: asked for where a process would gain, once, and never against somebody's wish."""

import os
import subprocess
import sys

import pytest

from train.core import pages

ASKED, ALWAYS = "always [madvise] never", "[always] madvise never"
GLIBC = ("glibc", "2.36")


def test_wanted_where_the_kernel_waits_to_be_asked():
    assert pages.wanted({}, ASKED, GLIBC)
    assert pages.wanted({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, ASKED, GLIBC)


@pytest.mark.parametrize(
    "environ, mode, libc",
    [
        ({pages.SWITCH: "0"}, ASKED, GLIBC),
        ({pages.TUNABLES: "glibc.malloc.hugetlb=0"}, ASKED, GLIBC),
        ({}, ALWAYS, GLIBC),
        ({}, ASKED, ("glibc", "2.31")),
        ({}, ASKED, ("", "")),
    ],
)
def test_not_wanted(environ, mode, libc):
    assert not pages.wanted(environ, mode, libc)


def test_the_environment_that_is_set_is_not_wanted_again():
    held = pages.environment({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1", "A": "b"})
    assert held["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
    assert held["A"] == "b"
    assert not pages.wanted(held, ASKED, GLIBC)


def test_a_process_starts_itself_once_more_with_its_arguments(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom train.core import pages\n"
        f"pages._MODE = Path({str(tmp_path / 'mode')!r})\npages.platform.libc_ver = lambda: {GLIBC}\n"
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
        "['--a=b c', 'd'] glibc.malloc.hugetlb=1",
    ]

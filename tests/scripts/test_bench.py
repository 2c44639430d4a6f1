"""The benchmark's arithmetic, its files, its report; and, where torch is installed, the peer itself."""

import importlib.util
import json
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from models import families
from scripts.bench import __main__ as bench
from scripts.bench import contest, material, report

TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="torch is not installed")
ROOT = Path(__file__).resolve().parents[2]


def row(side, lr, seed, bits, **more):
    curve = [[60.0, bits + 1], [120.0, bits]]
    made = {"side": side, "lr": lr, "seed": seed, "bits_per_character": bits, "curve": curve}
    made |= {"seconds": 120.0, "steps": 100, "tokens": 240_000, "parameters": 1_000_000}
    return {**made, "minutes": 2.0, **more}


ROWS = [
    row("torch stock", 1e-3, 0, 2.5),
    row("formulary", 1e-3, 0, 2.2),
    row("torch stock", 2e-3, 0, 2.4),
    row("formulary", 2e-3, 0, 2.3),
    row("formulary", 1e-3, 1, 2.6),
    row("torch stock", 2e-3, 1, 2.44),
]


# The report


def test_the_best_rate_is_chosen_on_the_tuning_seed_alone():
    assert report.best_lr(ROWS, "formulary") == 1e-3
    assert report.best_lr(ROWS, "torch stock") == 2e-3
    with pytest.raises(ValueError, match="jax tpu"):
        report.best_lr(ROWS, "jax tpu")


def test_the_summary_is_of_the_seeds_at_the_best_rate():
    found = report.summary(ROWS, "formulary")
    assert (found["lr"], found["seeds"], found["low"], found["high"]) == (1e-3, 2, 2.2, 2.6)
    assert found["bits"] == pytest.approx(2.4)
    assert found["tokens_per_second"] == pytest.approx(2000)


def test_the_table_has_ours_first_and_every_rate():
    lines = report.table(ROWS).splitlines()
    assert lines[2].startswith("| formulary | 1,000,000 | 0.001 | 2 | 2.00 | 100 | 2,000 |")
    assert "2.4000 (2.2000 to 2.6000)" in lines[2]
    assert lines[3].startswith("| torch stock | 1,000,000 | 0.002 |")
    assert lines[5] == "| bits per character, seed 0 | lr 0.001 | lr 0.002 |"
    assert lines[7:] == ["| formulary | 2.2000 | 2.3000 |", "| torch stock | 2.5000 | 2.4000 |"]
    columns = {line.count("|") for line in lines[:4]}
    assert len(columns) == 1


def test_verdicts_count_seeds_and_say_what_is_unfair():
    assert report.verdicts(ROWS, 2.0) == [
        "Formulary is 0.0200 bits per character lower than torch stock, lower in 1 of 2 seeds."
    ]
    slow = [{**r, "seconds": 130.0} if r["side"] == "formulary" else r for r in ROWS]
    assert "NOT EQUAL TIME: formulary trained 2.17 minutes" in report.verdicts(slow, 2.0)[0]
    big = [{**r, "parameters": 1_030_000} if r["side"] != "formulary" else r for r in ROWS]
    assert any("NOT EQUAL SIZE: torch stock" in line for line in report.verdicts(big, 2.0))
    worse = [{**r, "bits_per_character": 3.0} if r["side"] == "formulary" else r for r in ROWS]
    assert "higher than torch stock, lower in 0 of 2" in report.verdicts(worse, 2.0)[0]


def test_runs_are_kept_line_by_line(tmp_path):
    path = tmp_path / "a" / "runs.jsonl"
    assert report.load(path) == []
    for each in ROWS:
        report.append(path, each)
    assert report.load(path) == ROWS
    path.write_text(path.read_text() + '{"side": "tor')
    with pytest.raises(ValueError, match="line 7"):
        report.load(path)


def test_the_report_is_written_with_its_curves(tmp_path):
    pytest.importorskip("matplotlib")
    text = report.write(ROWS, tmp_path, 2.0, ["on a toy"], "A title")
    assert (tmp_path / "report.md").read_text() == text
    assert text.startswith("# A title\n\n| |") and text.endswith("- on a toy\n")
    png = (tmp_path / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000


# Calibration


def test_steps_follow_from_the_minutes_and_the_start():
    step, first = contest.pace([5.5, 0.5, 0.4, 0.6, 0.5])
    assert (step, first) == (0.5, 5.0)
    assert contest.fitting("x", step, first, 1.0, 5) == 110
    with pytest.raises(ValueError, match="x: 0 steps fit into 0.05 minutes"):
        contest.fitting("x", step, first, 0.05, 5)
    with pytest.raises(ValueError, match="--calibrate"):
        contest.pace([1.0])


def test_runs_on_record_are_not_done_again(tmp_path):
    done = []

    def run(lr, seed, steps, calibrate=False):
        done.append((lr, seed, steps, calibrate))
        made = row("formulary", lr, seed, 2.0, version="jax")
        return {**made, "steps": steps, "times": [1.0, 0.5, 0.5]}

    side = types.SimpleNamespace(name="formulary", score="bits_per_character", run=run)
    args = types.SimpleNamespace(lrs=[1e-3], seeds=[0], calibrate=3, minutes=2.0, points=2)
    lane = contest.Lane(side, args)
    for seed in (0, 0, 1):
        lane.once(tmp_path, 1e-3, seed)
    assert done == [(1e-3, 0, 3, True), (1e-3, 0, 239, False), (1e-3, 1, 239, False)]
    rows = contest.finished(tmp_path, [lane])
    assert [r["seed"] for r in rows] == [0, 1] and "times" not in rows[0]
    lane.minutes = 3.0
    assert contest.finished(tmp_path, [lane]) == []


def test_our_runs_seconds_leave_evaluations_out(tmp_path):
    sides = pytest.importorskip("scripts.bench.sides")
    (tmp_path / "run.json").write_text("{}")
    began = (tmp_path / "run.json").stat().st_mtime
    rows = [
        {"step": 1, "time": began + 4.0, "loss": 3.0},
        {"step": 10, "time": began + 9.0, "loss": 2.5, "step_seconds": 0.5},
        {"step": 10, "time": began + 99.0, "heldout/bits_per_character": 3.0},
        {"step": 20, "time": began + 109.0, "loss": 2.0, "step_seconds": 0.25},
        {"step": 21, "time": began + 112.0, "loss": 2.0},
        {"step": 21, "time": began + 199.0, "heldout/bits_per_character": 2.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = sides.read_run(tmp_path, tokens=8)
    assert found["seconds"] == pytest.approx(4.0 + 9 * 0.5 + 10 * 0.25 + 3.0, abs=1e-3)
    assert found["curve"] == [[pytest.approx(8.5, abs=1e-3), 3.0], [found["seconds"], 2.5]]
    assert (found["steps"], found["tokens"], found["bits_per_character"]) == (21, 168, 2.5)
    assert len(found["times"]) == 21 and found["times"][0] == pytest.approx(4.0, abs=1e-3)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="held-out"):
        sides.read_run(tmp_path, tokens=8)


def test_a_failing_process_says_where_to_look(tmp_path):
    sides = pytest.importorskip("scripts.bench.sides")
    path = tmp_path / "a" / "out.log"
    code = "import sys; print('one'); print('two'); print('three'); sys.exit(3)"
    with pytest.raises(ValueError) as caught:
        sides.process([sys.executable, "-c", code], path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} (exit status 3) ends with:" and lines[1:] == ["two", "three"]
    code = "import os; print(os.environ['NEW'])"
    assert sides.process([sys.executable, "-c", code], path, {"NEW": "x"}) == "x\n"


# The peer's material


def batches(count, vocab=50, shape=(2, 8), weighted=False):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        rows = rng.integers(0, vocab, (shape[0], shape[1] + 1)).astype(np.int32)
        weights = np.ones(shape, np.float32)
        if weighted:
            weights[-1, shape[1] // 2 :] = 0
        made.append({"tokens": rows[:, :-1], "targets": rows[:, 1:], "weights": weights})
    return made


def test_batches_are_written_flat_and_counted(tmp_path):
    folder = material.write_batches(tmp_path / "stream", batches(3))
    assert material.steps_in(folder) == 3 and material.steps_in(tmp_path) == 0
    tokens = np.load(folder / "tokens.npy")
    assert tokens.dtype == np.uint16 and tokens.shape == (48,)
    assert (tokens[16:32] == batches(3)[1]["tokens"].reshape(-1)).all()
    assert not (folder / "weights.npy").exists()
    material.write_batches(tmp_path / "wide", batches(1, vocab=2**20, weighted=True))
    assert np.load(tmp_path / "wide" / "tokens.npy").dtype == np.uint32
    assert np.load(tmp_path / "wide" / "weights.npy").sum() == 12
    with pytest.raises(ValueError, match="no batches"):
        material.write_batches(tmp_path / "none", [])


def test_packed_documents_are_refused(tmp_path):
    batch = batches(1)[0]
    material.write_batches(tmp_path, [{**batch, "segments": np.ones((2, 8), np.int32)}])
    packed = {**batch, "segments": np.repeat([[1, 1, 1, 2, 2, 2, 0, 0]], 2, 0)}
    with pytest.raises(ValueError, match="contiguous"):
        material.write_batches(tmp_path, [packed])


def test_what_the_peer_lacks_is_said():
    plain = {"name": "adamw", "ema": 0.0, "freeze": "", "multipliers": ()}
    config = Mapping({**plain, "ema": 0.99, "name": "muon"})
    assert material.differences(config) == [
        "optim.name=muon (peer: adamw)",
        "optim.ema=0.99",
    ]
    assert material.differences(Mapping(plain)) == []


class Mapping(dict):
    """A config section: a dict whose items are attributes as well."""

    __getattr__ = dict.__getitem__


def test_the_shim_answers_yes(tmp_path):
    import ctypes

    library = material.shim(tmp_path)
    assert library is not None, "no C compiler"
    assert ctypes.CDLL(str(library)).mkl_serv_intel_cpu_true() == 1


def test_no_compiler_means_no_shim(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert material.shim(tmp_path) is None


# The command


def test_the_command_names_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit) as caught:
        bench.main(["shakespear"])
    assert caught.value.code == 2 and "shakespeare" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["shakespeare", "--settings", "fast"])
    assert "stock" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        bench.main(["shakespeare", "--config", "configs/nothing.py"])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_every_command_has_its_parts():
    for module in bench.COMMANDS.values():
        assert module.HELP and callable(module.arguments) and callable(module.run)


# The peer, with torch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Toy models on two threads spend their time waiting for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def options(**more):
    small = {"vocab": 50, "context": 8, "layers": 2, "width": 16, "heads": 4}
    return families.row("gpt2", **{**small, **more})


VARIETIES = {
    "gpt2": options(),
    "llama": families.row(
        "llama", "3-8b", vocab=50, context=8, layers=2, width=16, heads=4, kv_heads=2, ff=24
    ),
    "plain": options(positions="none", head_bias=True, tied=False, act="relu", final_norm=False),
}


@needs_torch
@pytest.mark.parametrize("name", VARIETIES)
def test_the_peer_computes_what_we_compute(name):
    """Equal logits from equal weights, so that equal architecture is more than a word."""
    import jax
    import torch

    from models.build import build, example
    from models.options import Options
    from scripts.bench import nanogpt

    o = Options.of({**VARIETIES[name], "init_std": 0.2})
    model = build(o)
    variables = model.init(jax.random.key(1), example(o))
    variables = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), variables
    )
    peer = nanogpt.GPT(o.plain())
    assert sum(p.numel() for p in peer.parameters()) == sum(
        x.size for x in jax.tree.leaves(variables)
    )
    with torch.no_grad():
        for key, value in peer.named_parameters():
            value.copy_(torch.tensor(ours_for(key, variables["params"], value.shape)))
    peer.eval()
    tokens = np.arange(16).reshape(2, 8) * 3 % 50
    ours = model.apply(variables, {"tokens": tokens})["logits"]
    theirs = peer(torch.tensor(tokens)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def ours_for(name, params, shape):
    """Our array for a parameter of the peer, in its layout ([out, in], fused queries, keys, values)."""
    from scripts.bench import nanogpt

    path = nanogpt.path_of(name).split("/")
    parts = [path]
    if ".qkv." in name:
        parts = [[*path[:-2], letter, path[-1]] for letter in "qkv"]
    arrays = []
    for part in parts:
        value = params
        for key in part:
            value = value[key]
        value = np.asarray(value)
        if part[-1] == "kernel":
            inputs = 2 if part[-2] == "o" else 1
            value = value.reshape(math.prod(value.shape[:inputs]), -1).T
        elif part[-1] == "bias":
            value = value.reshape(-1)
        arrays.append(value)
    return np.concatenate(arrays).reshape(shape)


@needs_torch
def test_the_peer_refuses_another_architecture():
    from scripts.bench import nanogpt

    for change in (
        {"norm_place": "post"},
        {"pattern": ("global", "local"), "window": 4},
        {"experts": 4},
        {"positions": "sinusoidal"},
        {"k_bias": False},
    ):
        with pytest.raises(ValueError, match="the torch peer"):
            nanogpt.GPT({**options(), **change})


@needs_torch
def test_the_peer_decays_what_our_regex_names():
    from scripts.bench import nanogpt

    model = nanogpt.GPT(options())
    recipe = {"weight_decay": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "fused": False}
    groups = nanogpt.optimizer(model, {**recipe, "decay": r"kernel$"}).param_groups
    decayed = sum(p.numel() for p in groups[0]["params"])
    assert decayed == 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)
    assert groups[1]["weight_decay"] == 0.0
    groups = nanogpt.optimizer(model, {**recipe, "decay": r"(kernel|embedding)$"}).param_groups
    assert sum(p.numel() for p in groups[0]["params"]) == decayed + 16 * (50 + 8)


@needs_torch
@pytest.mark.parametrize("autocast", [False, True])
def test_the_peer_learns_and_scores_every_target(tmp_path, autocast):
    repeated = batches(1) * 60
    held = batches(2, weighted=True)
    job = material.job(
        tmp_path / "job.json",
        options(drop_embed=0.0, drop_attn=0.0, drop_resid=0.0),
        Mapping(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, decay="kernel$", clip=1.0),
        [3e-3] * 60,
        data=str(material.write_batches(tmp_path / "data", repeated)),
        heldout=str(material.write_batches(tmp_path / "held", repeated[:1] + held)),
        characters=20,
        seed=0,
        points=[1, 30],
        evaluate=True,
        autocast=autocast,
        compile=False,
        fused=autocast,
    )
    command = [sys.executable, "-m", "scripts.bench.nanogpt", job]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["steps"], result["tokens"], len(result["times"])) == (60, 960, 60)
    assert [len(point) for point in result["curve"]] == [2, 2, 2]
    assert result["curve"][0][0] == pytest.approx(result["times"][0])
    # 16 + 12 + 12 targets of log2(50) bits each over 20 characters, before anything is learnt.
    assert result["curve"][0][1] == pytest.approx(40 * math.log2(50) / 20, rel=0.05)
    first, last = (losses_of(tmp_path, step) for step in (1, 60))
    assert last < first


def losses_of(folder, step):
    """The peer's loss in nats on the repeated batch after so many steps."""
    from scripts.bench import nanogpt

    job = json.loads((folder / "job.json").read_text())
    job |= {"steps": step, "heldout": job["data"], "characters": 1, "points": [], "evaluate": True}
    return nanogpt.train(job)["bits_per_character"]


@needs_torch
def test_the_whole_benchmark_in_seconds(tmp_path, capsys):
    """Both sides on a toy config, calibration, tuning, seeds, report: the numbers mean nothing."""
    config = tmp_path / "toy.py"
    config.write_text(TOY)
    arguments = (
        f"shakespeare --config {config} --settings stock --minutes 0.1 --seeds 0 1 --lrs 1e-3 "
        f"3e-3 --points 2 --calibrate 4 --out {tmp_path / 'out'}"
    ).split()
    assert bench.main(arguments) == 0
    rows = report.load(tmp_path / "out" / "runs.jsonl")
    assert [(r["side"], r["seed"]) for r in rows] == [
        ("formulary", 0),
        ("torch stock", 0),
        ("formulary", 0),
        ("torch stock", 0),
        ("formulary", 1),
        ("torch stock", 1),
    ]
    assert len({r["parameters"] for r in rows}) == 1
    assert all(0 < r["bits_per_character"] < 12 for r in rows)
    assert (tmp_path / "out" / "curves.png").exists()
    assert "torch stock" in capsys.readouterr().out


TOY = '''
"""A toy."""
from ml_collections import ConfigDict
from models import families


def get_config(variant=""):
    return ConfigDict(
        dict(
            loop="lm", steps=10, batch=8, length=16,
            model=families.row("gpt2", vocab=352, layers=1, width=16, heads=2, context=16),
            data=dict(source="shakespeare", tokenizer="char", heldout=("sonnets",)),
            optim=dict(lr=1e-3, warmup=2),
        )
    )
'''

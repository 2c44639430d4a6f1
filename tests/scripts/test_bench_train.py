"""The training benchmark: sizes, equal batches, its table, and a toy run of our side (and torch's)."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from scripts.bench import __main__ as bench
from scripts.bench import ours as bench_ours
from scripts.bench import sizes, tables

TORCH = importlib.util.find_spec("torch") is not None
TRANSFORMERS = TORCH and importlib.util.find_spec("transformers") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="torch is not installed")
needs_transformers = pytest.mark.skipif(not TRANSFORMERS, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The workers are to see the machine, not the eight devices that the tests pretend."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def side(name, seconds, **more):
    info = {"version": "v", "first_loss": 5.5, "init_seconds": 1.0, "first_step_seconds": 2.0}
    made = {"name": name, "side": name.split()[0], "setting": None, "dtype": "float32"}
    made |= {"info": info, "peak": 2_000_000_000, "cpu": seconds, "wall": seconds}
    return {**made, "loss": [5.0], **more}


def result(**more):
    ours = side("formulary", [1.0, 2.0, 3.0])
    ours["info"] = {**ours["info"], "trace_seconds": 0.5, "compile_seconds": 1.5}
    made = {"bench": "train", "family": "gpt2", "size": "12m", "batch": 4, "length": 256}
    made |= {"threads": 1, "flops": 80e9, "first": {}, "command": "c"}
    made["peaks"] = {"float32": {"1": 100e9, "2": 160e9}}
    made["sides"] = [ours, side("nanogpt stock", [3.0, 3.0, 3.0])]
    return {**made, **more}


def test_sizes_have_no_dropout_and_unknown_ones_are_named():
    o = sizes.options("gpt2", "124m")
    assert (o.layers, o.width, o.vocab, o.dropout) == (12, 768, 50257, False)
    o = sizes.options("gpt2", "12m", remat="full")
    assert (o.layers, o.width, o.heads, o.context, o.vocab) == (6, 384, 6, 256, 4096)
    assert o.remat == "full" and o.init_residual
    assert sizes.options("llama", "12m").norm == "rms"
    with pytest.raises(ValueError, match="no size '13m'; known: 124m.*12m"):
        sizes.options("gpt2", "13m")
    with pytest.raises(ValueError, match="no family"):
        sizes.options("gpt22", "12m")


def test_variants_are_options():
    assert sizes.variant("") == {}
    assert sizes.variant("remat=full,scan=true,layers=3") == {
        "remat": "full", "scan": True, "layers": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="'remat' is no variant"):
        sizes.variant("remat")


def test_the_table_has_seconds_ratios_and_shares():
    text = tables.train(result())
    ours = next(line for line in text.splitlines() if line.startswith("| formulary"))
    # 80 GFLOP in the median 2 s on a core of 100 GFLOP/s; 1024 tokens in 2 s
    assert "2.000 (1.000 to 3.000)" in ours and "| 40 % | 512 | 2.00 | 0.5 + 1.5 | 5.0 |" in ours
    assert "| nanogpt stock | 1.50 (1.00 to 3.00) |" in text
    assert "float32 100 (1 core)" in text
    wall = tables.train(result(threads=2))
    assert "| 25 % |" in wall and "wall, 2 cores" in wall


def test_the_command_hides_the_paths_of_one_machine():
    parser = bench.Parser()
    bench.COMMANDS["train"].arguments(parser)
    args = parser.parse_args(["--torch_python", "/a/python", "--variants", "", "--no_peak"])
    text = tables.command("train", args)
    assert "/a" not in text and "--no_peak" in text and "--variants ''" in text
    assert "--first" not in text


def test_our_side_runs_and_is_kept(tmp_path, capsys):
    out = tmp_path / "result.json"
    words = "train --size tiny --length 16 --batch 2 --rounds 2 --against none --no_peak --out"
    assert bench.main([*words.split(), str(out)]) == 0
    kept = json.loads(out.read_text())
    (own,) = kept["sides"]
    assert len(own["cpu"]) == len(own["wall"]) == 2 and own["peak"] > 2**26
    assert own["info"]["first_loss"] == pytest.approx(np.log(256), abs=0.3)
    assert own["info"]["temporaries"] > 0 and own["info"]["compile_seconds"] > 0
    assert "| formulary |" in capsys.readouterr().out


def test_without_torch_the_error_says_what_to_give(tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    for words in ("train --size tiny --length 16 --no_peak", "decode --size tiny"):
        with pytest.raises(SystemExit) as caught:
            bench.main([*words.split(), "--torch_python", str(python)])
        assert caught.value.code == 2
        assert "has no torch and transformers; give --torch_python" in capsys.readouterr().err


def test_a_length_beyond_the_context_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main("train --size tiny --length 65 --against none --no_peak".split())
    assert "--length 65 is beyond the context of 64" in capsys.readouterr().err


@needs_torch
def test_both_sides_draw_the_same_batches():
    from scripts.bench import peer

    ours = bench_ours.rows(300, 2, 8, 3)
    tokens, targets = peer.batch(300, 2, 8, 3)
    assert (ours["tokens"] == tokens.numpy()).all() and (ours["targets"] == targets.numpy()).all()


@needs_transformers
def test_the_peers_run_in_turns_with_us(tmp_path):
    out = tmp_path / "result.json"
    words = (
        "train --size tiny --length 16 --batch 2 --rounds 2 --against transformers nanogpt "
        "--settings stock best --no_peak --out"
    )
    assert bench.main([*words.split(), str(out), "--torch_python", sys.executable]) == 0
    sides = json.loads(out.read_text())["sides"]
    assert [s["name"] for s in sides] == [
        "formulary", "transformers stock", "transformers best", "nanogpt stock", "nanogpt best",
    ]  # fmt: skip
    assert len({s["info"]["parameters"] for s in sides}) == 1
    assert all(abs(s["info"]["first_loss"] - np.log(256)) < 0.3 for s in sides)

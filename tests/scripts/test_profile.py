"""The profile: programs are read, operations are joined and named; and one toy step is profiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import rounds
from scripts.profile import __main__ as profile
from scripts.profile import trace

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """HloModule jit_step, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (p.1: f32[2], p.2: f32[2]) -> f32[2] {
  %p.1 = f32[2]{0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%p.1, %p.1), metadata={op_name="inner"}
}

%sums (p.3: f32[2]) -> f32[] {
  %p.3 = f32[2]{0} parameter(0)
  ROOT %reduce.1 = f32[] reduce(%p.3, %c), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %ynn_fusion.1 = f32[2,2]{1,0} fusion(%a), kind=kCustom, calls=%fused, metadata={op_name="jit(step)/jvp(D)/up/dot"}
  %fusion.2 = f32[] fusion(%a), kind=kLoop, calls=%sums, metadata={op_name="a"}
  %copy.1 = f32[2]{0} copy(%a)
  %while.1 = (s32[], f32[2]{0}) while(%t), condition=%c, body=%b
  ROOT %add.9 = f32[2]{0} add(%a, %copy.1), metadata={op_name="jit(step)/add"}
}
"""


def test_programs_are_read():
    found = trace.parse(PROGRAM)
    assert found["ynn_fusion.1"]["inside"] == {"parameter", "dot"}
    assert found["ynn_fusion.1"]["library"] and not found["fusion.2"]["library"]
    assert found["ynn_fusion.1"]["shape"] == "f32[2,2]"
    assert found["while.1"]["opcode"] == "while"
    kinds = {name: trace.kind(row) for name, row in found.items()}
    assert kinds["ynn_fusion.1"] == "products in the library"
    assert kinds["fusion.2"] == "reductions outside of it"
    assert kinds["copy.1"] == "copies and casts" and kinds["add.9"] == "elementwise, apart"
    assert trace.kind(None) == "unknown"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (
            "jit(step)/transpose(jvp(Decoder.features))/blocks/3/mlp/up/btd,df->btf/dot_general",
            "Decoder.features/blocks/*/mlp/up backward",
        ),
        (
            "jit(step)/jvp(Decoder.features)/blocks/jit(layer)/CheckpointBlock/checkpoint/attn/o/dot_general",
            "Decoder.features/blocks/*/attn/o forward",
        ),
        ("jit(step)/jvp(Decoder.features)/norm/reduce_sum", "Decoder.features/norm forward"),
        ("jit(step)/jvp(jit(_where))/select_n", "_where forward"),
        ("jit(step)/add", "add"),
        ("", "(no name)"),
    ],
)
def test_places_pool_layers_and_tell_the_direction(path, wanted):
    assert trace.place(path) == wanted


def test_events_are_joined_by_step():
    known = {"jit_step": trace.parse(PROGRAM)}
    found = [("jit_step", "ynn_fusion.1", 4e6)] * 4 + [("jit_step", "copy.1", 2e6)] * 2
    found += [("jit_step", "while.1", 9e9), ("jit_other", "x", 1e6)]
    rows = trace.join(found, known, steps=2)
    assert [(r["name"], r["count"], r["ms"]) for r in rows] == [
        ("ynn_fusion.1", 2, 8.0), ("copy.1", 1, 2.0), ("x", 0.5, 0.5),
    ]  # fmt: skip
    text = profile.show({"what": "w", "seconds": 0.01, "operations": rows}, 5)
    assert "| products in the library | 2 | 8.00 | 76.2 % |" in text
    assert "| unknown | 0.5 | 0.50 | 4.8 % |" in text


def test_an_empty_trace_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no trace"):
        trace.events(tmp_path)


def test_a_toy_step_is_profiled(tmp_path):
    out = tmp_path / "profile.json"
    command = [sys.executable, "-m", "scripts.profile", "--size", "tiny", "--variant", "layers=1"]
    command += ["--length", "16", "--batch", "2", "--steps", "2", "--save", str(out)]
    one_device = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=one_device)
    assert done.returncode == 0, done.stderr
    assert "| kind | count | ms | share |" in done.stdout
    rows = json.loads(out.read_text())["operations"]
    assert sum(row["ms"] for row in rows if row["kind"].startswith("products")) > 0
    assert any("mlp/up" in row["place"] for row in rows)
    known = [row for row in rows if row["kind"] != "unknown"]
    assert len(known) > 0.9 * len(rows)


def test_a_round_of_answers_is_what_is_profiled():
    words = "--what rollout --size tiny --rows 2 --prompt 6 --new 4".split()
    once, what = profile.work(profile.parser().parse_args(words), [])
    assert what == "gpt2 tiny: a round of 2 answers, 6 + 4 tokens"
    assert set(once()["parts"]) == set(rounds.PARTS)


def test_a_config_must_exist(capsys):
    with pytest.raises(SystemExit):
        profile.main(["--config=configs/nothing.py"])
    assert "error: " in capsys.readouterr().err

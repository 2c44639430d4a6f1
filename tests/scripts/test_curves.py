"""One metric of several runs: what is added up, what is drawn, what is refused."""

import json

import pytest

from scripts import curves

pytest.importorskip("matplotlib")
ROWS = [
    {"step": 10, "loss": 3.0, "step_seconds": 6.0, "step_flops": 1e12},
    {"step": 10, "heldout/loss": 2.5},
    {"step": 11, "loss": 2.9},  # compiled anew: the last known rates count
    {"step": 20, "loss": 2.0, "step_seconds": 3.0, "step_flops": 2e12},
    {"step": 20, "heldout/loss": 2.0},
]


def run(path, rows=ROWS):
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"--from={path}"


@pytest.mark.parametrize(
    ("over", "places"),
    [("steps", [10, 20]), ("minutes", [1.0, 1.1 + 9 * 0.05]), ("flops", [10, 11 + 18])],
)
def test_places_are_sums_over_the_training_steps(over, places):
    found = curves.line(ROWS, "heldout/loss", over)
    assert found[:, 0] == pytest.approx(places) and found[:, 1].tolist() == [2.5, 2.0]


def test_a_line_for_each_run_is_drawn(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    argv = [run(tmp_path / "a"), run(tmp_path / "b"), f"--out={tmp_path / 'c.png'}", "--over=flops"]
    assert curves.main(argv) == 0
    assert "b: heldout/loss 2.0000 at 29 (training operations, TFLOP)" in capsys.readouterr().out
    with Image.open(tmp_path / "c.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_what_is_not_there_is_named(tmp_path):
    bare = [{"step": 1, "loss": 2.0}]
    one = run(tmp_path / "a", bare)
    with pytest.raises(ValueError, match="a: no line has 'heldout/loss'.*loss"):
        curves.main([one])
    with pytest.raises(ValueError, match="no line says step_flops"):
        curves.main([one, "--metric=loss", "--over=flops"])
    with pytest.raises(ValueError, match="two runs are called a"):
        curves.main([one, one, "--metric=loss"])

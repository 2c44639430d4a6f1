"""scripts.convert on convolutional nets: running statistics go along, into a run and back."""

from pathlib import Path

import numpy as np

from models.interop import tensors
from scripts import convert

CASE = Path(__file__).parents[1] / "golden/parity/resnet/first"


def test_a_folder_becomes_a_run_and_a_folder_again(tmp_path, capsys):
    assert convert.main(["--from", str(CASE), "--to", str(tmp_path / "run"), "--as", "run"]) == 0
    assert "stages of (2, 1) blocks" in capsys.readouterr().out
    assert convert.main(["--from", str(tmp_path / "run"), "--to", str(tmp_path / "back")]) == 0
    before, after = tensors.open_folder(CASE), tensors.open_folder(tmp_path / "back")
    assert set(before) == set(after)
    assert any(name.endswith("running_var") for name in after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])

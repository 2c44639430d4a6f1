"""What a fine-tuning run reads, and what it refuses of it."""

import json

import pytest
from ml_collections import ConfigDict

from train.data import task


@pytest.mark.parametrize("given", [(0.0, 0.0), (float("nan"), 1.0), (-1.0, 1.0)])
def test_weights_that_weigh_nothing_are_refused(given):
    made = ConfigDict({"data": {"class_weights": given}})
    with pytest.raises(ValueError, match="class_weights=.*: expected numbers of at least 0"):
        task.open_material(made, None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("temperature", 0.0, "config.data.temperature is 0.0; expected more than 0"),
        ("temperature", -0.05, "config.data.temperature is -0.05"),
        ("longest", 0, "config.data.longest is 0; expected at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(field, value, words):
    """A temperature below 0 would push a query away from its own passage."""
    with pytest.raises(ValueError, match=words):
        task.open_material(ConfigDict({"data": {field: value}}), None)


@pytest.mark.parametrize("kind", ["classify", "tokens"])
def test_one_label_is_nothing_to_learn(tmp_path, kind):
    rows = [{"text": f"a {n}", "label": "yes", "words": f"a {n}", "tags": "O O"} for n in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": str(tmp_path / "t.jsonl"), "task": kind}
    with pytest.raises(ValueError, match="t.jsonl: every label is '(yes|O)'; expected two or more"):
        task.open_material(ConfigDict({"data": data, "length": 8}), None)

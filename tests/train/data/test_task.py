"""What a fine-tuning run reads, and what it refuses of it."""

import pytest
from ml_collections import ConfigDict

from train.data import task


@pytest.mark.parametrize("given", [(0.0, 0.0), (float("nan"), 1.0), (-1.0, 1.0)])
def test_weights_that_weigh_nothing_are_refused(given):
    made = ConfigDict({"data": {"class_weights": given}})
    with pytest.raises(ValueError, match="class_weights=.*: expected numbers of at least 0"):
        task.open_material(made, None)

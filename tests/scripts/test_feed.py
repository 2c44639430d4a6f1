"""The speed of a stream of pictures, measured without a model."""

import pytest

from scripts import feed


def test_it_says_how_fast_pictures_come(capsys):
    argv = ["--config", "configs/vit.py:tiny", "--batches", "2", "--config.batch=8"]
    assert feed.main(argv) == 0
    said = capsys.readouterr().out
    assert "batches of 8" in said
    rate = said.splitlines()[-2].replace("│", " ").split()[-1]
    assert float(rate.replace(",", "")) > 0


def test_a_wrong_field_is_named():
    with pytest.raises(ValueError, match="no field"):
        feed.main(["--config", "configs/vit.py:tiny", "--config.data.sorce=x"])

"""Settings of augmentation that draw nothing sensible are refused by name."""

import pytest

from train.data.prepare import Augment


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(crop="sides"), r"scale is \(0.08, 1.0\); a crop=sides needs sides in pixels"),
        (dict(crop="sides", scale=(-4.0, 9.0)), "needs sides in pixels"),
        (dict(crop="area", scale=(-0.1, 1.0)), "needs shares above 0, at most 1"),
        (dict(crop="area", scale=(0.5, 1.5)), "needs shares above 0, at most 1"),
        (dict(crop="area", scale=(0.5, float("nan"))), "needs shares above 0, at most 1"),
        (dict(crop="area", scale=(0.9, 0.5)), "expected at least 1, and \\(least, most\\)"),
    ],
)
def test_scales_of_crops_that_cannot_be_drawn(settings, words):
    with pytest.raises(ValueError, match=words):
        Augment(**settings)


def test_scales_in_shares_and_in_pixels():
    assert Augment(crop="area", scale=(1.0, 1.0)).crop == "area"
    assert Augment(crop="sides", scale=(256.0, 480.0)).scale[1] == 480

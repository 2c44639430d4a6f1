"""What a picture's settings may be; batches that they make are in `test_images`, ops in `test_augment`."""

import pytest

from train.data import crops, prepare


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("resample", "nearest", "config.data.resample is 'nearest'; expected one of bicubic"),
        ("max_pixels", 0, "config.data.max_pixels is 0"),
        ("mean", (0.5,), "config.data.mean has 1 numbers"),
        ("crop_share", 0.0, "crop_share=0"),
    ],
)
def test_a_shape_that_there_is_not_is_refused_before_a_picture_is_read(field, value, words):
    with pytest.raises(ValueError, match=words):
        prepare.Shape(8, **{field: value})


def test_every_filter_is_taken():
    assert [prepare.Shape(8, resample=name).resample for name in crops.FILTERS] == [*crops.FILTERS]

"""Masks of pre-training: blocks that fit, and what is refused because most masks would be empty."""

import math

import pytest

from train.data.visual import Masked


@pytest.mark.parametrize("least", [7, 0, -3, math.nan])
def test_blocks_that_are_no_blocks_or_do_not_fit_are_refused(least):
    with pytest.raises(ValueError, match=f"config.mask.least is {least}.*at most the 6"):
        Masked(None, (4, 4), 6, "blocks", least)


def test_the_largest_block_masks_and_scattered_patches_heed_none():
    masks = [Masked(None, (7, 7), 6, "blocks", 6).mask(0, sample) for sample in range(50)]
    assert all(0 < mask.sum() <= 6 for mask in masks)
    assert Masked(None, (4, 4), 6, "scattered", 7).mask(0, 0).sum() == 6


def test_a_row_of_patches_holds_no_block():
    with pytest.raises(ValueError, match="a grid of 1 x 16 patches holds no block"):
        Masked(None, (1, 16), 6, "blocks", 4)
    assert Masked(None, (1, 16), 6, "scattered").mask(0, 0).sum() == 6

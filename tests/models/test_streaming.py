"""Text in pieces: characters stay whole and stop strings never leak."""

import jax
import numpy as np
import pytest

from models import families, prompts, streaming
from models.build import build, example
from models.options import Options
from models.settings import Settings


def from_bytes(ids):
    return bytes(ids).decode("utf-8", "replace")


def words(ids):
    """Like a SentencePiece decoder: a space before every word but the first."""
    return " ".join(f"w{i}" for i in ids)


@pytest.mark.parametrize("text", ["plain", "naïve — 日本語 🙂🙂", "🙂", "a\ufffdb", "é"])
def test_pieces_make_up_the_text_and_split_no_character(text):
    reader = streaming.Detokenizer(from_bytes, b"prompt ")
    pieces = [reader.add(byte) for byte in text.encode()]
    assert "".join(pieces) + reader.flush() == text
    if "\ufffd" not in text:
        assert "".join(pieces) == text
        assert all(len(piece.encode()) in (0, 1, 2, 3, 4) for piece in pieces)
        assert "\ufffd" not in "".join(pieces)


def test_an_unfinished_character_comes_at_the_end():
    reader = streaming.Detokenizer(from_bytes)
    assert [reader.add(byte) for byte in "ok🙂".encode()[:-1]] == ["o", "k", "", "", ""]
    assert reader.flush() == "\ufffd"
    assert reader.flush() == ""


def test_a_character_that_the_prompt_begins_is_whole_in_the_text():
    euro = "€".encode()
    reader = streaming.Detokenizer(from_bytes, b"a" + euro[:1])
    assert [reader.add(byte) for byte in (*euro[1:], *b"bc")] == ["", "€", "b", "c"]
    reader = streaming.Detokenizer(from_bytes, b"a" + euro[:1])
    assert [reader.add(byte) for byte in b"bc"] == ["b", "c"]


def test_the_space_before_the_first_new_word_is_kept():
    assert streaming.Detokenizer(words, [1, 2]).add(3) == " w3"
    assert streaming.Detokenizer(words).add(3) == "w3"
    reader = streaming.Detokenizer(words, range(20))
    assert (
        "".join(reader.add(i) for i in range(20, 40)) == words(range(40))[len(words(range(20))) :]
    )


def shown(stop, pieces):
    stops, out = streaming.Stops(stop), []
    for piece in pieces:
        text, hit = stops.add(piece)
        out.append(text)
        if hit:
            return out, True
    return [*out, stops.flush()], False


def test_stop_strings_split_across_pieces():
    assert shown(("END",), ["a", "bE", "N", "D", "more"]) == (["a", "b", "", ""], True)
    assert shown(("END",), ["E", "EN", "EX"]) == (["", "E", "ENEX", ""], False)
    assert shown(("END",), ["xEN"]) == (["x", "EN"], False)
    assert shown(("aab",), ["a", "a", "a", "b"]) == (["", "", "a", ""], True)
    assert shown(("bc", "abcd"), ["ab", "c"]) == (["", "a"], True)
    assert shown((), ["any", "thing"]) == (["any", "thing", ""], False)


@pytest.fixture(scope="module")
def tiny():
    o = Options.of(families.row("gpt2", vocab=40, context=64, layers=1, width=8, heads=2))
    model = build(o)
    variables = model.init(jax.random.key(1), example(o))
    return model, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, variables)


def letters(ids):
    """Two letters for each token, so that stop strings lie across tokens."""
    return "".join("abcdefghij"[i % 10] + "klmn"[i // 10] for i in ids)


PROMPTS = [[1, 2, 3], [4], [30, 31]]
DRAWN = dict(max_new_tokens=20, temperature=1.5)


def test_generation_stops_at_text(tiny):
    tokens, mask = prompts.left_pad(PROMPTS)
    call = lambda **more: streaming.generate(  # noqa: E731
        *tiny, tokens, mask, Settings(**DRAWN, **more), letters, seeds=[1, 2, 3]
    )
    free, whole = call()
    assert whole == [letters(new) for new in free.new()]
    stop = (whole[0][7:10], whole[1][24:27])
    out, texts = call(stop=stop)
    for row in range(3):
        cut = min((whole[row].find(text) for text in stop if text in whole[row]), default=None)
        assert texts[row] == whole[row][:cut]
        assert out.finish[row] == ("length" if cut is None else "stop")
        count, new = int(out.lengths[row]), out.new()[row]
        assert new.tolist() == free.new()[row][:count].tolist()
        if cut is not None:
            assert any(text in letters(new) for text in stop)
            assert not any(text in letters(new[:-1]) for text in stop)
        rest = np.asarray(out.sequences)[row, out.prompt + count :]
        assert (rest == 0).all() and not np.asarray(out.log_probs)[row, count:].any()
        np.testing.assert_allclose(
            np.asarray(out.log_probs)[row, :count], free.log_probs[row, :count], atol=1e-6
        )


def test_streamed_pieces_are_the_text(tiny):
    tokens, mask = prompts.left_pad(PROMPTS)
    free, whole = streaming.generate(*tiny, tokens, mask, Settings(**DRAWN), letters, [1, 2, 3])
    settings = Settings(**DRAWN, stop=(whole[2][9:12],), eos=(int(free.new()[1][5]),))
    end, texts = streaming.generate(*tiny, tokens, mask, settings, letters, [1, 2, 3])
    said = ["", "", ""]
    steps = streaming.stream(*tiny, tokens, mask, settings, letters, [1, 2, 3])
    while True:
        try:
            pieces = next(steps)
        except StopIteration as last:
            got = last.value
            break
        said = [a + b for a, b in zip(said, pieces, strict=True)]
        assert not any(settings.stop[0] in text for text in said)
    assert said == texts
    np.testing.assert_array_equal(got.sequences, end.sequences)
    assert got.finish == end.finish


def test_beams_are_not_streamed(tiny):
    with pytest.raises(ValueError, match="beams"):
        next(streaming.stream(*tiny, [[1]], None, Settings(num_beams=2), letters))


def test_pieces_of_no_token_are_refused(tiny):
    with pytest.raises(ValueError, match="chunk is 0; expected at least 1"):
        next(streaming.stream(*tiny, [[1]], None, Settings(max_new_tokens=3), letters, chunk=0))

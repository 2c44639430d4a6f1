"""scripts.predict: what each head of an encoder says of texts, by the names that the model brings."""

import io
import json

import jax
import numpy as np
import pytest
import tokenizers

from models import families, interop
from models.build import build, example
from models.interop.about import PROBLEMS, About
from models.interop.tokens import ROLES
from models.options import Options
from scripts import convert, predict
from tests.models.test_tokens import trained
from train.core.errors import cleanly
from train.data.sentences import Frame

TOKENS = trained()
FRAME = Frame.of(TOKENS)
CAT, DOG = "the cat sat", "a dog lay by the door"


def made(folder, head, labels=0, told=None, family="bert", **more):
    size = dict(vocab=TOKENS.vocab, context=24, layers=1, width=16, heads=2, ff=16, labels=labels)
    o = Options.of(families.row(family, "base", **{**size, **more}, head=head))
    variables = jax.jit(build(o).init)(jax.random.key(1), example(o))
    params = jax.tree.map(lambda x: np.asarray(x * 8 if x.ndim > 1 else x), variables["params"])
    special = {role: getattr(TOKENS, role) for role in ROLES}
    interop.export(folder, o, params, TOKENS.raw, special, told=told)
    return str(folder)


def call(capsys, *arguments) -> list:
    assert predict.main(["--from", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def direct(folder, first, second=None, what="scores"):
    """The model's own output for one row that is not padded."""
    loaded = interop.load(folder)
    parts = TOKENS.encode_batch([first] if second is None else [first, second])
    ids, types = FRAME.join(*parts)
    batch = {"tokens": ids[None], "token_types": types[None], "mask": np.ones((1, len(ids)), int)}
    return np.asarray(build(loaded.options).apply(loaded.variables, batch)[what])[0]


def test_classes_have_their_names_and_probabilities(tmp_path, capsys):
    folder = made(tmp_path, "classify", 3, About(("sad", "so-so", "glad")))
    found = call(capsys, folder, "--text", CAT, "--text", DOG, "--top", "2")
    for text, row in zip((CAT, DOG), found, strict=True):
        want = np.asarray(jax.nn.softmax(direct(folder, text)))
        names = [("sad", "so-so", "glad")[i] for i in np.argsort(-want)[:2]]
        assert [name for name, _ in row["classes"]] == names
        chances = [p for _, p in row["classes"]]
        np.testing.assert_allclose(chances, np.sort(want)[:0:-1], atol=1e-5)
    assert predict.main(["--from", folder, "--text", CAT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == CAT and len(lines) == 4 and lines[1].split()[1] in ("sad", "so-so", "glad")


def test_pairs_have_two_types(tmp_path, capsys):
    folder = made(tmp_path / "a", "classify", 2)
    found = call(capsys, folder, "--text", CAT, "--text", DOG, "--pair", DOG)
    want = np.asarray(jax.nn.softmax(direct(folder, CAT, DOG)))
    assert dict(found[0]["classes"])["1"] == pytest.approx(want[1], abs=1e-5)
    folder = made(tmp_path / "b", "pair")
    found = call(capsys, folder, "--text", CAT, "--pair", DOG)
    want = np.asarray(jax.nn.softmax(direct(folder, CAT, DOG)))
    assert dict(found[0]["classes"])["follows"] == pytest.approx(want[0], abs=1e-5)


def test_a_regression_gives_its_number_and_many_labels_each_a_chance(tmp_path, capsys):
    folder = made(tmp_path / "a", "classify", 1, About(problem=PROBLEMS[0]))
    value = call(capsys, folder, "--text", CAT)[0]["value"]
    assert value == pytest.approx(float(direct(folder, CAT)[0]), abs=1e-5)
    folder = made(tmp_path / "b", "classify", 2, About(("x", "y"), PROBLEMS[2]))
    found = dict(call(capsys, folder, "--text", CAT)[0]["classes"])
    want = np.asarray(jax.nn.sigmoid(direct(folder, CAT)))
    np.testing.assert_allclose([found["x"], found["y"]], want, atol=1e-5)


def test_every_word_has_the_tag_of_its_first_piece(tmp_path, capsys):
    folder = made(tmp_path, "tokens", 3, About(("O", "B-X", "I-X")))
    found = call(capsys, folder, "--text", "cat  door zz")[0]
    assert found["words"] == ["cat", "door", "zz"]
    pieces = TOKENS.encode_batch(["cat", " door", " zz"], special=False)
    loaded, ids = interop.load(folder), np.concatenate(pieces)
    tokens = FRAME.join(ids)[0][None]
    scores = build(loaded.options).apply(loaded.variables, {"tokens": tokens})["scores"][0]
    slots = 1 + np.cumsum([0, *(len(p) for p in pieces)])[:-1]
    assert found["tags"] == [("O", "B-X", "I-X")[int(np.argmax(scores[slot]))] for slot in slots]


def test_words_without_tokens_or_room_have_no_tag(tmp_path, capsys):
    folder = made(tmp_path, "tokens", 2, About(("O", "B-X")))
    reader = predict.Reader(folder)
    reader.tokenizer.raw.normalizer = tokenizers.normalizers.Replace(" zz", "")
    found = predict.predict(reader, [("cat", "zz", "dog"), ("cat",) * 30], truncate=True)
    assert found[0]["tags"][1] is None and None not in (found[0]["tags"][0], found[0]["tags"][2])
    gone = [tag is None for tag in found[1]["tags"]]
    assert len(gone) == 30 and gone == sorted(gone) and 0 < sum(gone) < 30
    predict.show(found[0])
    assert " zz/- " in capsys.readouterr().out


def test_classes_may_have_one_name(tmp_path, capsys):
    """ImageNet has two cranes."""
    folder = made(tmp_path, "classify", 3, About(("crane", "ant", "crane")))
    found = call(capsys, folder, "--text", CAT)[0]["classes"]
    assert sorted(name for name, _ in found) == ["ant", "crane", "crane"]


@pytest.mark.parametrize("family", ["bert", "longformer"])
def test_an_answer_is_a_part_of_the_text_wherever_it_stands(family, tmp_path, capsys):
    """Over windows: a text of several times what the model reads."""
    more = dict(windows=(8,), position_pad=TOKENS.pad) if family == "longformer" else {}
    folder = made(tmp_path, "spans", family=family, **more)
    text = " ".join(f"{CAT} number {n}" for n in range(30))
    found = call(capsys, folder, "--question", "who sat", "--text", text)[0]
    assert found["answer"] in text and np.isfinite(found["margin"])
    assert len(found["answer"].split()) <= 30


def test_a_text_without_a_word_has_no_answer(tmp_path, capsys):
    """What is printed is JSON, which has no infinity."""
    folder = made(tmp_path, "spans")
    assert call(capsys, folder, "--question", "who sat", "--text", "")[0] == {
        "answer": "", "margin": None,
    }  # fmt: skip
    predict.main(["--from", str(folder), "--question", "who sat", "--text", ""])
    assert "''  (no span)" in capsys.readouterr().out


def test_masks_are_filled_with_the_likeliest_tokens(tmp_path, capsys):
    folder = made(tmp_path, "masked")
    text = "the [MASK] sat on [MASK]"
    found = call(capsys, folder, "--text", text, "--top", "3")[0]["masks"]
    logits = direct(folder, text, what="logits")
    slots = np.flatnonzero(FRAME.join(TOKENS.encode(text))[0] == TOKENS.mask)
    assert len(found) == len(slots) == 2
    for chances, slot in zip(found, slots, strict=True):
        best = np.sort(np.asarray(jax.nn.softmax(logits[slot])))[::-1][:3]
        np.testing.assert_allclose([p for _, p in chances], best, atol=1e-5)


def test_choices_share_one_probability(tmp_path, capsys):
    folder = made(tmp_path, "choice")
    found = call(capsys, folder, "--text", CAT, "--choice", DOG, "--choice", "door")
    found = dict(found[0]["classes"])
    assert set(found) == {DOG, "door"} and sum(found.values()) == pytest.approx(1)


def test_a_run_and_its_folder_say_the_same(tmp_path, capsys):
    folder = made(tmp_path / "folder", "classify", 2, About(("no", "yes")))
    run = str(tmp_path / "run")
    convert.write_run(tmp_path / "run", interop.load(folder))
    assert call(capsys, folder, "--text", CAT) == call(capsys, run, "--text", CAT)


def test_lines_of_input_are_texts(tmp_path, capsys, monkeypatch):
    folder = made(tmp_path, "classify", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CAT}\n{DOG}\n"))
    assert len(call(capsys, folder, "--text", "-")) == 2


@pytest.mark.parametrize(
    "head, arguments, words",
    [
        ("classify", ["--text", "cat " * 40], "1 of 1 texts are longer than the 24 tokens"),
        ("classify", ["--text", CAT, "--question", "who"], "--question goes with a head of spans"),
        ("spans", ["--text", CAT], "--question goes with a head of spans"),
        ("tokens", ["--text", CAT, "--pair", DOG], "--pair goes with classes and pairs"),
        ("classify", ["--text", CAT, "--pair", "a", "--pair", "b"], "2 --pair for 1 texts"),
        ("pair", ["--text", CAT], "give it with --pair"),
        ("masked", ["--text", CAT], r"a text has no [MASK]"),
        ("classify", ["--text", CAT, "--top", "0"], "--top is 0"),
        ("none", ["--text", CAT], "scripts.search compares"),
    ],
)
def test_mistakes_cost_a_line(head, arguments, words, tmp_path, capsys):
    folder = made(tmp_path, head, 2 if head in ("classify", "tokens") else 0)
    with pytest.raises(SystemExit) as stopped:
        cleanly(predict.main)(["--from", folder, *arguments])
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and words in text and len(text.splitlines()) <= 3
    if "longer" in words:
        assert len(call(capsys, folder, *arguments, "--truncate")) == 1

"""The tokenizers: every kind trains, saves, reloads and gives every text back unchanged."""

import json
import lzma
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from train.data import tokenizer, tokenizer_file, vocab
from train.data.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog.\n  And then?\tIt sleeps.\n\n" * 20,
    "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer\n" * 20,
    "Kœnigsberg, café, naïve; 日本語のテキスト。\n" * 10,
]
CORPUS.append("## heading\n### lower\n##.### ## #\n" * 40)
with lzma.open(tokenizer.EMBEDDED / "shakespeare.jsonl.xz", "rt", encoding="utf-8") as file:
    CORPUS.append(json.loads(next(file))["text"][:60_000])
HARD = [
    "",
    " ",
    "\n",
    "Hello world, this is GPT-2!",
    "  leading,  double\n\n\ttab\r\n and trailing  ",
    "cafe\u0301 is not café; ﬁ ½ Å",
    "日本語と漢字、한국어, ไทย",
    "مرحبا بالعالم \u200fשלום\u200e",
    "👩‍👩‍👧‍👦 🇫🇷 🏳️‍🌈 👍🏽",
    "\u00a0no-break\u3000wide\u2028line\u0085next\ufeffmark",
    "\u2581literal \u2581\u2581 blocks",
    "# ## ### #x ##ing a#b",
    "<unk> <0x41> <0x0A><|endoftext|> [CLS] Ġ Ċ",
    "\x00\x01\x7f\ud7ff\ue000\U0010ffff",
    "a" * 2000,
    "don't can't I'LL 'tis 1234567 3.14",
]
KINDS = ["byte", "char", "word:700", "bpe:500", "wordpiece:700", "unigram:420"]


@pytest.fixture(scope="module", params=[*KINDS, "gpt2"])
def trained(request):
    return tokenizer.named(request.param, CORPUS)


def test_text_comes_back_unchanged(trained, tmp_path):
    trained.save(tmp_path)
    reloaded = Tokenizer.load(tmp_path)
    assert reloaded.hash == trained.hash and reloaded.kind == trained.kind
    for text in HARD + CORPUS:
        for special in (True, False):
            ids = trained.encode(text, special=special)
            assert ids.dtype == np.int32 and ids.ndim == 1
            assert not ids.size or (ids.min() >= 0 and ids.max() < trained.vocab)
            assert trained.decode(ids) == text
            np.testing.assert_array_equal(ids, reloaded.encode(text, special=special))
        assert reloaded.decode(ids) == text


def test_random_unicode_comes_back_unchanged(trained):
    rng = np.random.default_rng(0)
    valid = np.r_[0:0xD800, 0xE000:0x3000, 0xE000:0x110000]
    for _ in range(30):
        text = "".join(map(chr, rng.choice(valid, 40)))
        assert trained.decode(trained.encode(text, special=False)) == text


def test_roles_survive_saving_and_special_text_is_data_when_asked(trained, tmp_path):
    trained.save(tmp_path)
    reloaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert reloaded.eos == reloaded.bos == trained.eos >= 0
    assert (reloaded.pad, reloaded.unk) == (-1, -1)
    text = "one <|endoftext|> two"
    assert trained.eos in trained.encode(text)
    assert trained.eos not in trained.encode(text, special=False)
    assert trained.decode(trained.encode(text), skip_special=True) == "one  two"


@pytest.mark.parametrize("spec", ["char", "byte"])
def test_the_fast_path_gives_the_library_s_ids(spec):
    made = tokenizer.named(spec, CORPUS)
    for text in HARD + CORPUS:
        slow = made.plain.encode(text, add_special_tokens=False).ids
        assert made.encode(text, special=False).tolist() == slow


@pytest.mark.parametrize("spec", ["gpt2", *KINDS])
def test_long_texts_are_cut_without_changing_ids(spec, monkeypatch):
    made = tokenizer.named(spec, CORPUS)
    text = "".join(CORPUS) + "x \n y\n\n\nz\n  indented\nlast line" + "\r\n a" * 9
    whole = made.encode(text)
    monkeypatch.setattr(tokenizer, "CHUNK", 40)
    assert len(tokenizer._cut(text)) > 20
    np.testing.assert_array_equal(made.encode(text), whole)


@pytest.mark.parametrize("spec", KINDS[1:])
def test_long_texts_are_cut_without_changing_what_is_learnt(spec, monkeypatch):
    texts = ["".join(CORPUS) + "x \n y\n\n\nz\n  indented\nlast line", CORPUS[0]]
    whole = tokenizer.named(spec, texts)
    monkeypatch.setattr(tokenizer, "CHUNK", 400)
    monkeypatch.setattr(vocab, "GROUP", 1000)
    longest, train = [], vocab.TRAINERS[spec.split(":")[0]]

    def seen(given, *rest):
        longest.append(max(map(len, given)))
        return train(given, *rest)

    monkeypatch.setitem(vocab.TRAINERS, spec.split(":")[0], seen)
    assert tokenizer.named(spec, texts).hash == whole.hash
    assert longest[0] < 2000 < len(texts[0])


def test_pieces_of_a_word_without_end_are_looked_up_in_parts():
    """Longest match first is cubic: a word of 20,000 letters took minutes."""
    pieces = tokenizer.train("wordpiece", CORPUS, 700)
    for text in ("a" * 20_000, "日本" * 4000, "é" * 99 + "b" * 101 + " end"):
        words = [word for word, _ in pieces.raw.pre_tokenizer.pre_tokenize_str(text)]
        assert max(map(len, words)) <= vocab.LONGEST
        assert pieces.decode(pieces.encode(text, special=False)) == text


def test_gpt2_ids_are_the_published_ones():
    made = tokenizer.gpt2()
    assert made.vocab == 50257 and made.eos == 50256
    want = [15496, 995, 11, 428, 318, 402, 11571, 12, 17, 0]
    assert made.encode("Hello world, this is GPT-2!").tolist() == want
    assert made.encode("<|endoftext|>").tolist() == [50256]


def test_words_are_words_and_pieces_are_marked():
    words = tokenizer.train("word", CORPUS, 700)
    assert [words.decode([i]) for i in words.encode("The lazy dog.")] == [
        "The",
        " lazy",
        " dog",
        ".",
    ]
    pieces = tokenizer.train("wordpiece", CORPUS, 700)
    spelt = pieces.raw.encode(" themselves").tokens
    assert spelt[0] == "Ġthe" and all(piece.startswith("##") for piece in spelt[1:])


@pytest.mark.parametrize(
    "spec,vocabulary",
    [("word:300", 300), ("bpe:600", 600), ("wordpiece:700", 700), ("unigram:600", 600)],
)
def test_the_size_asked_for_is_the_size_in_all(spec, vocabulary):
    assert tokenizer.named(spec, CORPUS).vocab == vocabulary


def test_training_is_deterministic_across_processes():
    code = (
        "from train.data import tokenizer; from tests.train.data.test_tokenizer import *\n"
        "print(*[tokenizer.named(spec, CORPUS).hash for spec in KINDS])"
    )
    run = [sys.executable, "-c", code]
    first, second = (subprocess.run(run, capture_output=True, text=True).stdout for _ in "ab")
    assert len(first.split()) == len(KINDS) and len(set(first.split())) == len(KINDS)
    assert first == second


def test_other_vocabularies_have_other_hashes():
    assert tokenizer.train("bpe", CORPUS, 400).hash != tokenizer.train("bpe", CORPUS, 401).hash


def write(path, contents):
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return path


def test_any_tokenizer_json_loads(tmp_path):
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 7}, "[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.enable_truncation(2)
    raw.save(str(tmp_path / "tokenizer.json"))
    config = {"unk_token": {"content": "[UNK]"}, "chat_template": "{{ x }}", "eos_token": "gone"}
    write(tmp_path / "tokenizer_config.json", config)
    made = Tokenizer.load(tmp_path)
    assert made.encode("a b c a").tolist() == [1, 7, 0, 1]
    assert (made.vocab, made.unk, made.eos, made.chat_template) == (8, 0, -1, "{{ x }}")
    assert made.kind == "file"
    write(tmp_path / "tokenizer_config.json", "{}")
    write(tmp_path / "chat_template.jinja", "{{ y }}")
    assert Tokenizer.load(tmp_path).chat_template == "{{ y }}"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    write(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert Tokenizer.load(tmp_path).chat_template == "d"
    (tmp_path / "chat_template.jinja").unlink()
    for odd in ([1], [{"name": "default"}], 5):
        write(tmp_path / "tokenizer_config.json", {"chat_template": odd})
        assert Tokenizer.load(tmp_path).chat_template == ""


@pytest.mark.parametrize("name", ["WordLevel", "WordPiece", "Unigram"])
def test_a_word_that_a_foreign_vocabulary_lacks_is_a_sentence(tmp_path, name):
    vocabulary = [["a", -1.0]] if name == "Unigram" else {"a": 0}
    model = {"type": name, "vocab": vocabulary, "unk_token": "[UNK]"}
    if name == "WordPiece":
        model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    made = Tokenizer.load(write(tmp_path / "tokenizer.json", {"version": "1.0", "model": model}))
    assert made.encode("a").tolist() == [0]
    with pytest.raises(
        ValueError, match=r"this tokenizer \(file\) cannot encode a text: .*(?i:unk)"
    ):
        made.encode("z")


@pytest.mark.parametrize(
    "contents,match",
    [
        ("not json", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([1], "no model"),
        ({"model": {"type": "BPE", "vocab": {"a": 2**40}}}, "token id 1099511627776"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "token id -1"),
        ({"model": {"type": "BPE", "vocab": {"a": 0.5}}}, "token id 0.5"),
        ({"model": {"type": "BPE", "vocab": {"a" * 200_000: 0}}}, "a token of 200,000"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 1 << 33}]}, "id 85"),
        ({"model": {"type": "Nonsense", "vocab": {"a": 0}, "merges": []}}, "cannot|can be built"),
        ({"model": {"type": "Unigram", "vocab": [["a", "b"]], "unk_id": 9}}, "can be built"),
        ({"model": {"type": "Unigram", "vocab": [1, 2]}}, r"holds \[piece, score\] alone"),
        ({"model": {"type": "Unigram", "vocab": [{"a": 1}]}}, r"holds \[piece, score\] alone"),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(tmp_path, contents, match):
    with pytest.raises(ValueError, match=match) as caught:
        Tokenizer.load(write(tmp_path / "tokenizer.json", contents))
    assert str(caught.value).count("\n") < 3 and len(str(caught.value)) < 600


def test_a_file_over_the_cap_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "FILE_LIMIT", 10)
    with pytest.raises(ValueError, match="more than the 10 that are read"):
        Tokenizer.load(write(tmp_path / "tokenizer.json", "{" + " " * 20 + "}"))


@pytest.mark.parametrize(
    "spec,match",
    [
        ("cahr", "did you mean 'char'"),
        ("bpe:x", "'x' is not a vocabulary size"),
        ("bpe:100", "too small"),
        ("unigram:270", "too small"),
        ("no/such/path", "nor an existing path"),
    ],
)
def test_wrong_specs_are_explained(spec, match):
    with pytest.raises(ValueError, match=match):
        tokenizer.named(spec, CORPUS)


def test_wrong_input_is_explained():
    made = tokenizer.gpt2()
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        made.encode("a\ud800b")
    with pytest.raises(ValueError, match="outside the vocabulary"):
        made.decode([50257])
    with pytest.raises(ValueError, match="not in the vocabulary"):
        Tokenizer.wrap(made.raw, eos="<none>")
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        Tokenizer.load("/nonexistent")
    assert vocab.byte_alphabet()[32] == "Ġ" and len(set(vocab.byte_alphabet())) == 256

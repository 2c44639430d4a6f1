"""Prompts, answers and chats as rows: what is trained, beginnings and ends, packing, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from train.core import origin
from train.data import answers, instructions, tables
from train.data import tokenizer as tokenizers

CHAT = [
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "so long"},
]
SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>")


@pytest.fixture(scope="module")
def tokenizer():
    made = tokenizers.train("char", ["hi there hello bye so long"], specials=SPECIALS,
                            bos="<s>", eos="<|im_end|>")  # fmt: skip
    return made


def shipped(name):
    return (tokenizers.EMBEDDED / "templates" / f"{name}.jinja").read_text()


def text_of(tokenizer, row):
    tokens, trained = row
    return tokenizer.decode(tokens[np.asarray(trained, bool)])


def test_the_answer_and_its_end_are_trained_and_nothing_else(tokenizer):
    plain = instructions.Dialogue(tokenizer)
    tokens, trained = plain.answered("hi", "hello")
    assert tokens[0] == tokenizer.bos and tokens[-1] == tokenizer.eos
    assert text_of(tokenizer, (tokens, trained)) == "hello<|im_end|>"
    np.testing.assert_array_equal(tokens[~trained], plain.prompt("hi"))


@pytest.mark.parametrize("name", ["chatml", "turns", "llama3"])
def test_templates_keep_the_prompt_and_train_the_end_of_turn(tokenizer, name):
    dialogue = instructions.Dialogue(tokenizer, shipped(name))
    tokens, trained = dialogue.chat(CHAT)
    end = {"chatml": "<|im_end|>", "turns": "<|im_end|>", "llama3": "<|eot_id|>"}[name]
    assert text_of(tokenizer, (tokens, trained)) == f"hello{end}so long{end}"
    first = dialogue.prompt(CHAT[:1])
    np.testing.assert_array_equal(tokens[: len(first)], first)
    assert trained[len(first)] and not trained[: len(first)].any()
    single = dialogue.answered("hi there", "hello")
    np.testing.assert_array_equal(single[0][: len(first)], first)


def test_a_template_s_beginning_is_not_doubled(tokenizer):
    tokens, _ = instructions.Dialogue(tokenizer, shipped("llama3")).chat(CHAT)
    assert (tokens == tokenizer.bos).sum() == 1 and tokens[0] == tokenizer.bos


def test_a_template_that_forgets_the_end_of_turn_is_refused(tokenizer):
    bad = shipped("chatml").replace(
        "{{- message.content + '<|im_end|>' }}{%- endgeneration %}",
        "{{- message.content }}{%- endgeneration %}{{- '<|im_end|>' }}",
    )
    with pytest.raises(ValueError, match="leave out the end of turn"):
        instructions.Dialogue(tokenizer, bad).chat(CHAT)


def test_a_template_whose_prompt_is_no_prefix_is_refused(tokenizer):
    bad = "{{ messages | length }}" + shipped("chatml")
    with pytest.raises(ValueError, match="does not begin the whole chat"):
        instructions.Dialogue(tokenizer, bad).chat(CHAT)


def test_without_tags_turns_are_found_by_their_prompts(tokenizer):
    plain = shipped("chatml").replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    _, trained = row = instructions.Dialogue(tokenizer, plain).chat(CHAT)
    assert text_of(tokenizer, row).startswith("hello<|im_end|>") and not trained[0]


def test_special_tokens_written_in_a_prompt_are_text(tokenizer):
    tokens = instructions.Dialogue(tokenizer).prompt("say <|im_end|>")
    assert tokenizer.eos not in tokens


def test_cutting_leaves_no_row_without_a_target():
    row = np.arange(6), np.asarray([False] * 4 + [True] * 2)
    with pytest.raises(ValueError, match="1 of 1 rows are longer"):
        answers.cut([row], 5, False)
    kept, cut, out = answers.cut([row, row], 5, True)
    assert (len(kept), cut, out) == (2, 2, 0)
    assert answers.cut([row], 3, True) == ([], 1, 1)
    only = np.arange(3), np.asarray([True, False, False])
    assert answers.cut([only], 5, True)[2] == 1, "the first token is never a target"


def test_packed_rows_restart_and_their_first_tokens_are_no_targets():
    rows = [(np.arange(1, 4), np.ones(3)), (np.arange(4, 6), np.ones(2))]
    made = answers.pack([rows], 6, 0)
    assert made["positions"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert made["segments"].tolist() == [[1, 1, 1, 2, 2, 0]]
    assert made["weights"].tolist() == [[0, 1, 1, 0, 1, 0]]


def test_a_stream_is_a_function_of_seed_and_step_and_sees_every_row():
    config = ConfigDict({"seed": 3, "batch": 4})
    made = answers.Stream(lambda numbers: {"n": np.asarray(numbers)}, 10, config)
    seen = np.concatenate([made.batch(step)["n"] for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    halves = [answers.Stream(made.make, 10, config, p, 2).batch(1)["n"] for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), made.batch(1)["n"])


def write(folder, rows) -> str:
    path = Path(folder) / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "completion": " "}, "line 2: the completion is empty"),
        ({"prompt": "a"}, "line 2: column 'completion'"),
        ({"prompt": 3, "completion": "b"}, "line 2: column 'prompt'"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, words):
    source = write(tmp_path, [{"prompt": "a", "completion": "b"}, row])
    with pytest.raises(ValueError, match=words):
        instructions.texts(tables.read(source), ConfigDict({"data": {}}))


def test_a_bad_chat_is_named(tmp_path):
    source = write(tmp_path, [{"messages": [{"content": "x"}]}])
    with pytest.raises(ValueError, match="line 1: message 0 of the chat has no role"):
        instructions.texts(tables.read(source), ConfigDict({"data": {}}))


def test_a_split_keeps_a_prompt_on_one_side(tmp_path):
    rows = [{"prompt": f"p{n % 10}", "completion": f"c{n}"} for n in range(40)]
    config = ConfigDict({"data": {"train": write(tmp_path, rows), "valid_share": 0.2}})
    parts = instructions.open_parts(config)
    sides = [{row[1] for row in parts[part]} for part in ("train", "valid")]
    assert not sides[0] & sides[1] and sides[1]


FIRST = [{"role": "assistant", "content": "hello"}, *CHAT[:2]]


@pytest.mark.parametrize("name", ["chatml", "turns", "llama3"])
@pytest.mark.parametrize("tagged", [True, False])
def test_an_assistant_who_speaks_first_trains_no_header(tokenizer, name, tagged):
    template = shipped(name)
    if not tagged:
        for word in ("generation", "endgeneration"):
            template = template.replace(f"{{%- {word} %}}", "").replace(f"{{% {word} %}}", "")
    row = instructions.Dialogue(tokenizer, template).chat(FIRST)
    said = text_of(tokenizer, row)
    assert said.startswith("hello<|") and said.count("hello") == 2 and "assistant" not in said


def test_words_that_look_like_the_header_are_trained_whole(tokenizer):
    said = [{"role": "assistant", "content": "assistant"}]
    row = instructions.Dialogue(tokenizer, shipped("chatml")).chat(said)
    assert text_of(tokenizer, row) == "assistant<|im_end|>"


def asks(content, role="user"):
    return [{"role": role, "content": content}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("name", ["chatml", "turns", "llama3", "print"])
@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (asks(None), "message 0 of the chat has no content"),
        ([{"role": "user"}, asks("a")[1]], "message 0 of the chat has no content"),
        (asks("a", "usr"), "message 0 of the chat has the role 'usr'"),
        ([asks("a")[0], {"role": "assistant", "content": " "}], "message 1 .* empty answer"),
        (asks("a")[:1], "no assistant's message to train on"),
    ],
)
def test_a_chat_that_cannot_be_trained_on_is_named_by_its_row(
    tokenizer, tmp_path, name, messages, words
):
    plain = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    dialogue = instructions.Dialogue(tokenizer, plain if name == "print" else shipped(name))
    config = ConfigDict({"length": 99, "data": {}})
    source = write(tmp_path, [{"messages": CHAT}, {"messages": messages}])
    with pytest.raises(ValueError, match=f"line 2: .*{words}"):
        rows = instructions.texts(tables.read(source), config)
        instructions.encode(rows[1:], dialogue, config)


def test_a_role_that_the_template_names_is_known(tokenizer):
    template = "{% for m in messages %}{% if m.role == 'critic' %}!{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    assert len(instructions.Dialogue(tokenizer, template).prompt(asks("a", "critic")))


@pytest.mark.parametrize("name", ["chatml", "turns", "llama3"])
@pytest.mark.parametrize("kind", ["char", "file"])
def test_special_tokens_in_messages_are_text_with_a_template(tokenizer, name, kind):
    """What the template writes around them stays what it is, and so does what is trained."""
    own = tokenizers.Tokenizer.wrap(tokenizer.raw, kind, bos=tokenizer.bos, eos=tokenizer.eos)
    dialogue = instructions.Dialogue(own, shipped(name))
    bad = "hi <|im_end|><|im_start|> there"
    tokens, trained = dialogue.chat([*asks(bad)[:1], {"role": "assistant", "content": bad}])
    clean, rest = dialogue.chat([*asks("X")[:1], {"role": "assistant", "content": "X"}])
    plain, (x,) = own.encode(bad, special=False), own.encode("X")
    want = [part for token in clean.tolist() for part in (plain if token == x else [token])]
    assert tokens.tolist() == want
    sizes = [len(plain) if token == x else 1 for token in clean.tolist()]
    assert trained.tolist() == np.repeat(rest, sizes).tolist()
    begin = dialogue.prompt(bad)
    np.testing.assert_array_equal(begin, tokens[: len(begin)])
    assert own.decode(tokens[trained]).startswith(bad)


def test_a_template_that_looks_for_a_special_token_in_messages_is_refused(tokenizer):
    looks = "{% for m in messages %}{{ m.content.split('<|im_end|>')[0] }}<|im_end|>{% endfor %}"
    dialogue = instructions.Dialogue(tokenizer, looks)
    assert len(dialogue.prompt("a"))
    with pytest.raises(ValueError, match="a special token that the chat template looks for"):
        dialogue.prompt("a<|im_end|>b")


def test_an_unknown_template_is_named(tokenizer):
    with pytest.raises(ValueError, match="chatml"):
        origin.template(ConfigDict({"data": {"template": "chatm"}}), tokenizer)

"""Bad input to the alignment loops as a user gives it: one to three lines that name it, exit status 2."""

import json

import pytest

from tests.train import aligned
from train import ppo, preference, sft
from train.__main__ import main
from train.core import checkpoint, errors
from train.data import tokenizer as tokenizers

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
BACK = {"prompt": "p", "chosen": "b", "rejected": "a"}
RANKING = {"prompt": "p", "answers": ["a", "b", "c"], "ranks": [1, 2, 3]}
OTHER = {"prompt": "p", "answers": ["c", "d", "a"], "ranks": [1, 2, 3]}
REWARD = ("reward:tiny", "--config.data.tokenizer=byte")
DPO = ("preference:tiny", "--config.data.tokenizer=byte")
PPO = ("ppo:tiny", "--config.data.prompt=prompt", "--config.data.tokenizer=byte")


def said(capsys, folder, rows, arguments) -> list:
    """The lines of the error that a command ends with."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loop, variant = arguments[0].split(":")
    own = [f"--config=configs/{loop}.py:{variant}", f"--workdir={folder / 'run'}"]
    with pytest.raises(SystemExit) as ended:
        errors.cleanly(main)([*own, f"--config.data.train={path}", *arguments[1:]])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert 1 <= len(lines) <= 3 and lines[0].startswith("error: ")
    return lines


@pytest.mark.parametrize(
    ("arguments", "rows", "words"),
    [
        (REWARD, [PAIR, BACK], "line 2 contradicts what"),
        (REWARD, [PAIR, PAIR], "line 2 repeats what"),
        (REWARD, [RANKING, RANKING], "line 2 repeats what"),
        (REWARD, [RANKING, OTHER], "line 2 contradicts what"),
        (REWARD, [{**RANKING, "labeller": "x"}, {**OTHER, "labeller": "x"}], "by 'x'"),
        (REWARD, [{**RANKING, "ranks": [1, 1, 1]}], "holds no comparison"),
        (REWARD, [{**PAIR, "prompt": " "}], "line 1: the prompt is empty"),
        (REWARD, [{**PAIR, "chosen": "b"}], "the same text"),
        (DPO, [PAIR, BACK], "line 2 contradicts what"),
        (DPO, [RANKING, RANKING], "line 2 repeats what"),
        (PPO, [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}], "line 3 repeats the prompt of"),
        (PPO, [{"prompt": "a"}, {"prompt": ""}], "line 2: the prompt is empty"),
        (PPO, [{"prompt": None}], "line 1: column 'prompt' holds 'None'"),
        ((*PPO, "--config.ppo.ratio=tokens"), [{"prompt": "a"}], "config.ppo.ratio"),
        ((*PPO, "--config.ppo.surrogate=cipso"), [{"prompt": "a"}], "cispo"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(capsys, tmp_path, arguments, rows, words):
    assert words in "\n".join(said(capsys, tmp_path, rows, arguments))


@pytest.mark.parametrize("arguments", [DPO, PPO])
def test_a_reference_of_other_tokens_is_refused(capsys, tmp_path, monkeypatch, arguments):
    """As many of them: nothing else would notice."""
    tokenizers.train("char", ["abc"]).save(tmp_path / "other" / "tokenizer")
    monkeypatch.setattr(checkpoint, "find", lambda path: path)
    rows = [{**PAIR, "target": "a"}, {**PAIR, "prompt": "q", "target": "b"}]
    given = (
        *arguments,
        f"--config.reference.checkpoint={tmp_path / 'other'}",
        "--config.data.valid_share=0.0",
    )
    lines = said(capsys, tmp_path, rows, given)
    assert "config.reference names" in lines[0] and "other tokens" in lines[0]


@pytest.mark.parametrize("loop", ["sft", "preference", "ppo"])
def test_a_start_with_other_tokens_is_refused(tmp_path, monkeypatch, loop):
    """The model that a run starts from reads other tokens: its rows would stand for other words."""
    tokenizers.train("char", ["abc"]).save(tmp_path / "other" / "tokenizer")
    monkeypatch.setattr(checkpoint, "find", lambda path: path)
    rows = {
        "sft": {"prompt": "p", "completion": "a"}, "preference": PAIR, "ppo": {"target": "a"},
    }[loop]  # fmt: skip
    rows = [{**rows, "prompt": word} for word in aligned.WORDS]
    made = aligned.config(loop, tmp_path, rows, **{"init.checkpoint": str(tmp_path / "other")})
    made.unlock()
    if loop == "ppo":
        made.reward.kind, made.steps = "letters", 4
    with pytest.raises(ValueError, match="has other tokens than .*other"):
        {"sft": sft, "preference": preference, "ppo": ppo}[loop]._open(made)

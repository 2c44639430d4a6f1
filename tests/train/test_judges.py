"""Reward models with other tokens than the policy's: what they read, what PPO does with them, mistakes."""

import jax
import numpy as np
import pytest

from eval import preference
from models import families
from models.build import build
from tests.train import aligned
from train import ppo, reward
from train.core import judges, log, rollout
from train.core.config import complete
from train.data import tokenizer as tokenizers
from train.data.prompts import Prompt

PROMPTS = [{"prompt": f"{word} {n}", "target": word} for n in range(4) for word in aligned.WORDS]
PAIRS = [{"prompt": p["prompt"], "chosen": p["target"], "rejected": "zz"} for p in PROMPTS]
ASKED = [Prompt("good 1"), Prompt("tea 2")]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A BERT with WordPieces that judges, and the config of a policy of bytes that it judges."""
    path = tmp_path_factory.mktemp("judge")
    made = aligned.config("reward", path, PAIRS, "score", length=16, steps=1)
    made.unlock()
    size = {**aligned.SIZE, "vocab": 600, "token_types": 2}
    made.model = families.row("bert", **size, head="classify", labels=1)
    made.data.tokenizer = "wordpiece:600"
    reward.run(complete(made), path / "reward")
    changes = {
        "ppo.new": 6, "ppo.epochs": 1, "ppo.minibatches": 2, "reward.kind": "model", "steps": 4,
        "reward.checkpoint": str(path / "reward"), "reward.missing_eos": "none", "length": 24,
    }  # fmt: skip
    return lambda folder, **more: aligned.config("ppo", folder, PROMPTS, **{**changes, **more})


def reader(kind="bert", length=12, reads="pair"):
    words = [text for p in PROMPTS for text in p.values()]
    own = tokenizers.named("wordpiece:600", words, encoder=kind == "bert")
    size = {**aligned.SIZE, "vocab": 600}
    o = families.row(kind, **size, head="classify", labels=1)
    return judges.Reader(judges.Options.of(o), own, length, reads), own


def test_an_encoder_reads_prompt_and_answer_in_its_own_frame():
    read, own = reader()
    batch, cut = read(ASKED, ["fine", "bad tea"])
    pieces = lambda text: own.encode(text, special=False).tolist()
    want = [own.cls, *pieces("tea 2"), own.sep, *pieces("bad tea"), own.sep]
    n = len(want)
    assert batch["tokens"][1, :n].tolist() == want and not cut.any()
    assert (batch["tokens"][1, n:] == own.pad).all()
    assert batch["mask"][1].tolist() == [1] * n + [0] * (12 - n)
    first = len(pieces("tea 2")) + 2
    assert batch["token_types"][1].tolist() == [0] * first + [1] * (n - first) + [0] * (12 - n)


@pytest.mark.parametrize(("reads", "said"), [("joined", "good 1 fine"), ("answer", " fine")])
def test_what_is_read_is_what_the_config_says(reads, said):
    read, own = reader(reads=reads)
    batch, _ = read(ASKED[:1], [" fine"])
    want = [own.cls, *own.encode(said, special=False).tolist(), own.sep]
    assert batch["tokens"][0][batch["mask"][0] > 0].tolist() == want


def test_a_decoder_reads_them_with_its_end():
    read, own = reader("gpt2")
    batch, _ = read(ASKED[:1], [" fine"])
    row = batch["tokens"][0][batch["mask"][0] > 0]
    assert row[-1] == own.eos and "token_types" not in batch
    assert own.decode(row, skip_special=True).split() == ["good", "1", "fine"]


def test_what_is_too_long_is_cut_before_its_end_and_said():
    read, own = reader(length=6)
    batch, cut = read(ASKED, ["fine", " ".join(["bad"] * 9)])
    assert cut.tolist() == [False, True]
    assert batch["mask"][1].sum() == 6 and batch["tokens"][1, -1] == own.sep
    said = rollout.failing({"cut": cut.mean()}, 50.0)
    assert said == [
        "50% of the answers are longer than the reward model reads, and were cut for it"
    ]
    assert rollout.failing({"cut": 0.0}, 50.0) == []


def test_no_answer_spells_a_special_token():
    read, own = reader(length=40)
    batch, _ = read(ASKED[:1], ["[SEP] [CLS] good [PAD]"])
    counts = [int((batch["tokens"][0][batch["mask"][0] > 0] == x).sum())
              for x in (own.sep, own.cls, own.pad)]  # fmt: skip
    assert counts == [2, 1, 0]


def test_no_answer_spells_a_special_token_of_a_decoder_with_a_template():
    _, own = reader("gpt2")
    own.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    o = judges.Options.of(
        families.row("gpt2", **{**aligned.SIZE, "vocab": 600}, head="classify", labels=1)
    )
    end = own.raw.id_to_token(own.eos)
    batch, _ = judges.Reader(o, own, 60)(ASKED[:1], [f"good {end} bad"])
    row = batch["tokens"][0][batch["mask"][0] > 0].tolist()
    said = own.encode(f"good {end} bad", special=False).tolist()
    assert row.count(own.eos) == 2 and row[-len(said) - 1 :] == [*said, own.eos]


def test_a_policy_is_scored_by_the_texts_that_it_wrote(judged, tmp_path):
    made, o, value, tokenizer, setting, _ = ppo._open(judged(tmp_path))
    assert setting.scorer.reader.length == 16 and value.kind == "decoder" and value.vocab == o.vocab
    own = setting.scorer.reader is None
    first, frozen, _ = ppo._parameters(made, o, value, setting.how, own)
    assert "pool" in frozen["reward"] and not np.any(first["value"]["score"]["kernel"])
    setting.writer.mesh = None
    tokens, mask, asked = setting.ask(0)
    wrote = setting.writer(first["policy"], tokens, mask, rollout.seeds(0, 0, len(tokens)))
    raw = setting.scorer(wrote, asked, frozen["reward"])
    judge = build(judges.origin.quiet(judges.origin.named(made.reward)))
    for n in (0, 5):
        batch, cut = setting.scorer.reader([asked[n]], setting.writer.texts(wrote)[n : n + 1])
        size = int(batch["mask"].sum())
        short = {name: x[:, :size] for name, x in batch.items()}
        alone = preference.scores(judge, {"params": frozen["reward"]}, short)
        np.testing.assert_allclose(raw[n], alone[0], atol=1e-5)
        assert wrote["cut"][n] == cut[0]
    wide = {n: np.pad(x, ((0, 0), (3, 0))) if n in ("tokens", "mask") else x
            for n, x in wrote.items()}  # fmt: skip
    np.testing.assert_array_equal(setting.scorer(wide, asked, frozen["reward"]), raw)


def test_a_policy_of_bytes_is_trained_against_it(judged, tmp_path):
    fitted = ppo.run(judged(tmp_path), tmp_path / "run")
    rows = [row for row in log.read(tmp_path / "run") if "round/reward" in row]
    assert len(rows) == 2 and all(np.isfinite(row["round/reward"]) for row in rows)
    assert 0 <= rows[0]["round/cut"] <= 1 and np.isfinite(fitted.metrics["valid/reward"])
    moved = jax.device_get(fitted.state.params["value"]["score"]["kernel"])
    assert np.any(moved), "the value net learns from the judge's scores"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward.reads": "pairs"}, "config.reward.reads is 'pairs'; did you mean .pair"),
        ({"reward.checkpoint": ""}, "names none"),
    ],
)
def test_what_does_not_fit_is_named(judged, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        ppo.check(judged(tmp_path, **changes))


def test_messages_are_not_joined():
    read, _ = reader(reads="joined")
    with pytest.raises(ValueError, match="a prompt is messages; use pair or answer"):
        read([Prompt([{"role": "user", "content": "good"}])], ["fine"])


@pytest.mark.parametrize("same", [True, False])
def test_a_decoder_reads_the_rows_as_written_only_with_the_policy_s_tokens(monkeypatch, same):
    _, own = reader("gpt2")
    size = {**aligned.SIZE, "vocab": 600}
    o = judges.Options.of(families.row("gpt2", **size, head="classify", labels=1))
    other = tokenizers.named("wordpiece:600", ["something else"], encoder=False)
    monkeypatch.setattr(judges.origin, "named", lambda reward: o)
    monkeypatch.setattr(judges.tasks, "of_model", lambda reward, find: own)
    monkeypatch.setattr(judges.checkpoint, "find", lambda path: path)
    monkeypatch.setattr(judges.checkpoint, "read_config", lambda folder: {"length": 12})
    how = {"kind": "model", "checkpoint": "x", "reads": "pair"}
    found = judges.opened(how, own if same else other)
    assert (found.reader is None) == same

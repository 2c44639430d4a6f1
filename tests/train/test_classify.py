"""Fine-tuning: every task learns or scores, adapters, class weights, layer-wise rates, mistakes."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from models import families
from models.options import Options
from train import classify
from train.core import checkpoint, forms, log
from train.core import config as configs
from train.core.config import complete
from train.data import labelled

SIZE = {
    "vocab": 600, "context": 24, "layers": 2, "width": 32, "heads": 2, "ff": 64,
    "drop_embed": 0.0, "drop_attn": 0.0, "drop_resid": 0.0, "drop_head": 0.0,
}  # fmt: skip
HEADS = {"classify": 2, "regress": 1, "tokens": 3, "choice": 0, "spans": 0, "embed": 0}
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


def rows(task, count=64, seed=0):
    """Examples that a bag of words can learn."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        right = int(rng.integers(0, 2))
        word, other = (rng.choice(GOOD), rng.choice(BAD))[:: 1 if right else -1]
        filler = " ".join(f"w{i}" for i in rng.integers(0, 20, 3))
        if task == "classify":
            made.append({"text": f"{filler} {word} {n}", "label": "yes" if right else "no"})
        elif task == "regress":
            made.append({"text": f"{filler} {word} {n}", "label": right * 2.0})
        elif task == "tokens":
            tags = ["O", "O", "O", "B-X" if right else "O", "I-X" if right else "O"]
            made.append({"words": f"{filler} {word} w{n % 20}", "tags": " ".join(tags)})
        elif task == "choice":
            choices = [other, word] if right else [word, other]
            choices = [rng.choice(BAD), rng.choice(BAD)]
            choices[right] = rng.choice(GOOD)
            made.append({"text": f"{filler} {n}", "choices": list(choices), "label": right})
        elif task == "spans":
            context = f"{filler} {word} end {n}"
            answers = {"text": [str(word)], "answer_start": [context.index(word)]}
            made.append({"question": "which", "context": context, "answers": answers})
        else:
            made.append({"text": f"ask w{n % 20} {n}", "passage": f"said {n} w{n % 20}"})
    return made


def config(folder, task, count=64, seed=0, **changes):
    """A small run on `count` training examples; 64 others are held out."""
    for part, size, other in (("train", count, 0), ("valid", 64, 1)):
        lines = "\n".join(map(json.dumps, rows(task, size, 2 * seed + other))) + "\n"
        (folder / f"{part}.jsonl").write_text(lines)
    head = "classify" if task == "regress" else task
    made = ConfigDict(
        dict(
            loop="classify", steps=2, batch=16, length=24,
            model=families.row("bert", "base", **SIZE, head=head, labels=HEADS[task]),
            data=dict(
                train=str(folder / "train.jsonl"), valid=str(folder / "valid.jsonl"), task=task,
                tokenizer="wordpiece:600", pair="passage" if task == "embed" else "", stride=4,
            ),
            optim=dict(lr=5e-3, warmup=1), log=dict(every=1), init=dict(model=False),
            best=dict(metric=""), lora=dict(rank=0),
        )
    )  # fmt: skip
    made.update_from_flattened_dict(changes)
    return complete(made)


@pytest.mark.parametrize(
    ("task", "metric", "start"),
    [
        ("classify", "accuracy", 0.9), ("regress", "pearson", 0.8), ("tokens", "f1", 0.7),
        ("choice", "accuracy", 0.75), ("spans", "exact", 0.7), ("embed", "recall@1", 0.2),
    ],
)  # fmt: skip
def test_every_task_learns(tmp_path, task, metric, start):
    made = config(tmp_path, task, 256, steps=80, **{"optim.lr": 3e-3, "optim.warmup": 8})
    fitted = classify.run(made, tmp_path / "run")
    assert fitted.metrics[f"valid/{metric}"] >= start
    given = {name.partition("/")[2] for name in fitted.metrics if name.startswith("valid/")}
    assert given <= set(fitted.plan.task.measures["valid"])
    losses = [row["loss"] for row in log.read(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-4:]) < losses[0]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    made = config(folder, "classify", steps=40)
    made.unlock()
    made.best.metric = "valid/accuracy"
    made.eval.every = 20
    made.data.test = made.data.valid
    classify.run(complete(made), folder / "run")
    return folder


def test_the_best_scores_the_test_part(parent):
    found = json.loads((parent / "run" / "test.json").read_text())
    history = json.loads((parent / "run" / "best.json").read_text())["history"]
    assert found["test/accuracy"] == pytest.approx(max(value for _, value in history))


def test_adapters_train_on_a_run_of_ours_and_the_run_loads_merged(parent, tmp_path):
    made = config(tmp_path, "classify", steps=6, **{
        "lora.rank": 2, "lora.alpha": 4.0, "lora.targets": r"attn/(q|v)/kernel$",
        "lora.whole": r"^(score|pool)/",
    })  # fmt: skip
    made.unlock()
    made.init.update(checkpoint=str(parent / "run"), model=True)
    made.data.tokenizer = "init"
    fitted = classify.run(complete(made), tmp_path / "run")
    names = forms.flat(fitted.state.params)
    assert {name.split("/")[0] for name in names} == {"lora", "score", "pool"}
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    _, model, variables, tokenizer = checkpoint.load_run(tmp_path / "run")
    old = forms.flat(checkpoint.load_run(parent / "run")[2]["params"])
    new = forms.flat(variables["params"])
    assert old.keys() == new.keys() and tokenizer is not None
    moved = {name for name in new if np.abs(new[name] - old[name]).max() > 0}
    assert all(name.split("/")[0] in ("score", "pool") or "attn/q" in name or "attn/v/k" in name
               for name in moved)  # fmt: skip
    assert any("attn/v/kernel" in name for name in moved)


def test_another_head_on_a_run_of_ours_starts_fresh(parent, tmp_path):
    made = config(tmp_path, "tokens")
    made.unlock()
    made.init.update(checkpoint=str(parent / "run"), model=True)
    made.data.tokenizer = ""
    found, o, material, _ = classify._open(complete(made))
    assert o.head == "tokens" and o.labels == 3 and o.width == 32
    assert material.labels == ("B-X", "I-X", "O")
    classify.run(complete(made), tmp_path / "run")


def test_copies_of_a_querys_passages_are_not_its_negatives():
    """Rows (a, p), (b, p), (c, q), (c, r): each is told from what is not its query's alone."""
    texts = {"a": 1, "b": 2, "c": 3, "p": 4, "q": 5, "r": 6}
    pairs = ["ap", "bp", "cq", "cr"]
    tokens = np.array([[[texts[text], 0] for text in pair] for pair in pairs])
    axes = {"a": 0, "b": 1, "c": 2, "p": 0, "q": 2, "r": 3}
    vectors = np.eye(4, dtype=np.float32)[[axes[text] for pair in pairs for text in pair]]
    nats, right = classify.objective(
        "embed", vectors, {"targets": np.zeros(4, np.int32), "tokens": tokens}, 1.0
    )
    e = np.e  # a: p 1; q, r 0. b: p, q, r 0. c, to q: q 1; p, p 0. c, to r: r, p, p 0
    want = [np.log((e + 2) / e), np.log(3), np.log((e + 2) / e), np.log(3)]
    np.testing.assert_allclose(nats, want, rtol=1e-6)
    negatives = np.stack([tokens[:, 0], tokens[:, 1], tokens[::-1, 1]], 1)
    scores = classify.contrast(np.ones((12, 1), np.float32), negatives)
    assert (np.asarray(scores) > 0).astype(int).tolist() == [
        [1, 0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 1], [1, 1, 0, 1, 0, 0, 1, 1],
    ]  # fmt: skip


def test_a_cross_encoder_ranks_the_candidates_of_each_query(tmp_path):
    rows = [
        {"query": f"q{n // 4}", "text": f"w{n // 4}", "passage": f"{GOOD[0] if n % 4 == 1 else BAD[0]} {n}",
         "label": int(n % 4 == 1)}
        for n in range(64)
    ]  # fmt: skip
    made = config(tmp_path, "classify", steps=30, **{"data.rank": "query", "data.pair": "passage"})
    for part in ("train", "valid"):
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = classify.run(made, tmp_path / "run").metrics
    assert found["valid/mrr"] == found["valid/ndcg@10"] == found["valid/recall@1"] == 1


@pytest.mark.parametrize("task", HEADS)
def test_the_table_variant_takes_every_task(tmp_path, task):
    own = config(tmp_path, task)
    made = configs.load("configs/minilm.py:table")
    assert set(made.data) == {*configs.DEFAULTS["data"], *labelled.FIELDS}
    made.model.update({**SIZE, "dtype": "float32"})
    made.init.reference = ""
    made.update(batch=16, length=24)
    made.data.update({n: own.data[n] for n in ("train", "task", "tokenizer", "pair", "stride")})
    planned, batch = classify.check(made)
    _, o, material, _ = classify._open(made)
    assert o.head == own.model.head and o.labels == HEADS[task] and len(batch["targets"]) == 16
    assert set(material.rows) == {"train", "valid", "test"} and "valid" in planned.task.evaluators


def test_class_weights(tmp_path):
    made = config(tmp_path, "classify")
    _, o, material, stream = classify._open(made)
    assert classify.class_weights(made, material) is None
    made.unlock()
    made.data.balanced = True
    weights = np.asarray(classify.class_weights(made, material))
    counts = np.bincount(material.rows["train"].targets)
    np.testing.assert_allclose(weights * counts, [32, 32], rtol=1e-6)
    made.data.class_weights = (1.0, 3.0)
    task = classify.make_task(made, o, material, stream)
    batch = stream.batch(0)
    params, _ = task.init(jax.random.key(0))
    totals = task.totals(batch)
    assert float(totals["rows"]) == pytest.approx(1.0 * (batch["targets"] == 0).sum()
                                                  + 3.0 * (batch["targets"] == 1).sum())  # fmt: skip
    value, (_, sums) = task.loss(params, (), {}, batch, None, totals)
    assert float(value) == pytest.approx(float(sums["nll"][0] / sums["nll"][1]), rel=1e-5)
    made.data.class_weights = (1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="expected 2 weights"):
        classify.class_weights(made, material)


def test_layerwise_rates():
    o = Options.of(families.row("bert", "base", **SIZE, head="classify", labels=2))
    rows = dict(classify.layerwise(o, 0.5, ConfigDict({})))
    assert rows == {r"(^|/)blocks/0/": 0.25, r"(^|/)blocks/1/": 0.5, r"^embed/": 0.125}
    shared = o.replace(share_groups=1)
    with pytest.raises(ValueError, match="shares them"):
        classify.layerwise(shared, 0.5, ConfigDict({}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.labels": 3}, "model.labels=2"),
        ({"model.head": "tokens"}, "model.head='classify'"),
        ({"model.vocab": 300}, "model.vocab="),
        ({"data.tokenizer": ""}, "config.data.tokenizer is empty"),
        ({"init.model": True}, "takes the model of init"),
        ({"data.valid_shar": 0.1}, 'no field .valid_shar.; did you mean "valid_share"'),
        ({"data.classweights": (1.0, 2.0)}, 'did you mean "class_weights"'),
        ({"best.metric": "valid/acuracy"}, 'did you mean "valid/accuracy"'),
        ({"best.metric": "valid/accuracy", "data.valid": ""}, "none: no part is held out"),
        ({"data.balanced": 1}, "config.data.balanced is 1; expected bool"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        classify.check(config(tmp_path, "classify", **changes))

"""Search on the command line: passages, ranks, and models that give no embeddings."""

import json

import numpy as np
import pytest

from models import families
from models.interop import hf, sentences
from models.options import Options
from scripts import search
from tests.models.test_adapters import GOLDEN, drawn
from tests.train.test_classify import config
from train import classify
from train.data import tokenizer


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    classify.run(config(folder, "embed", steps=30), folder / "embed")
    (folder / "other").mkdir()
    classify.run(config(folder / "other", "classify"), folder / "classify")
    rows = [json.loads(line) for line in (folder / "valid.jsonl").read_text().splitlines()]
    text = "\n\n".join(f"{row['passage']} and so on and on" for row in rows)
    (folder / "notes.txt").write_text(text + "\n\nshort")
    return folder


def test_passages_are_ranked(runs, capsys):
    query = "ask w3 3"
    search.main([query, "--from", str(runs / "embed"), "--corpus", str(runs / "notes.txt"),
                 "--top", "3"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[1]) for line in lines if line.strip()[:2] in ("1.", "2.", "3.")]
    assert lines[0].startswith("64 passages of") and query in lines
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and scores[0] <= 1


def test_embeddings_have_length_one_and_keep_their_order(runs):
    searcher = search.load(runs / "embed")
    texts = [f"said {'w1 ' * n}" for n in (5, 1, 9, 2)]
    whole = searcher.embed(texts, 24, batch=2)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(searcher.embed(texts[2:3], 24), whole[2:3], atol=1e-5)
    searcher.embed(["w1 " * 50], 24)
    assert searcher.cut == 1


def test_a_query_of_several_passages_is_asked_once():
    class Given:
        def embed(self, texts, length):
            table = {"pear plum": [1, 1, 0], "pear tree": [1, 0, 0], "plum tree": [0, 1, 0]}
            return np.float32([table.get(text, [0, 0, 1]) for text in texts])

    queries = ["pear plum", "pear plum", "rose"]
    every = search.recall(Given(), queries, ["pear tree", "plum tree", "rose bush"], 8)
    for found in every.values():
        assert (found["mrr"], found["recall@1"], found["ndcg@10"]) == (1.0, 0.75, 1.0)


def test_what_gives_no_embeddings_is_refused(runs):
    with pytest.raises(ValueError, match="head='classify'; search needs embed"):
        search.load(runs / "classify")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        search.load(runs / "nothing")
    with pytest.raises(ValueError, match="no encoder with a tokenizer"):
        search.load(GOLDEN / "base")


def test_a_corpus_without_passages_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short\n\nlines")
    with pytest.raises(ValueError, match="no passage"):
        search.passages(str(tmp_path / "a.txt"))


def test_an_exported_run_pools_as_it_was_trained(tmp_path):
    """sentence-transformers' files say so; a folder without them is averaged."""
    o = Options.of(
        families.row(
            "bert", "base", vocab=560, context=20, layers=1, width=16, heads=2, head="embed",
            pooler=False, pool="first",
        )
    )  # fmt: skip
    words = tokenizer.named("wordpiece:560", lambda: ["red blue green cat dog"] * 3, True)
    special = {role: getattr(words, role) for role in ("pad", "unk", "cls", "sep", "mask")}
    for pool in ("first", "mean"):
        hf.export(tmp_path / pool, o.replace(pool=pool), drawn(o), words.raw, special)
        assert search.load(tmp_path / pool).model.o.pool == pool
    modules = json.loads((tmp_path / "first" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]


def pooled(tmp_path, told):
    (tmp_path / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(told))
    return sentences.pool(tmp_path)


@pytest.mark.parametrize(
    ("told", "pool"),
    [
        ({}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "first"),
    ],
)
def test_a_reference_folder_is_pooled_as_it_says(tmp_path, told, pool):
    assert sentences.pool(tmp_path) == "mean"
    assert pooled(tmp_path, told) == pool
    assert hf.options(GOLDEN / "base").kind == "encoder"


@pytest.mark.parametrize(
    "told",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "max"},
        {"pooling_mode": [{}]},
    ],
)
def test_other_vectors_than_ours_are_refused(tmp_path, told):
    """Averaged, they would be ranked all the same, and wrongly."""
    with pytest.raises(ValueError, match="pools by .*expected the first token or the mean"):
        pooled(tmp_path, told)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    (tmp_path / "2_Normalize").mkdir()
    assert sentences.pool(tmp_path) == "mean"
    (tmp_path / "2_Dense").mkdir()
    with pytest.raises(ValueError, match="vectors with 2_Dense"):
        sentences.pool(tmp_path)

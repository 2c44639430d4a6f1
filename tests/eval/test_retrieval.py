"""Rankings against scikit-learn and against loops."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from eval import retrieval


def material(seed, queries=20, passages=30, wanted=1):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(queries, passages))
    relevant = np.zeros((queries, passages), bool)
    for row in relevant:
        row[rng.choice(passages, wanted, replace=False)] = True
    return scores + relevant, relevant


@pytest.mark.parametrize("seed", range(4))
def test_one_relevant_passage(seed):
    scores, relevant = material(seed)
    found = retrieval.metrics(retrieval.relevant_ranks(scores, relevant))
    want = label_ranking_average_precision_score(relevant, scores)  # with one: reciprocal rank
    assert found["mrr"] == pytest.approx(want)
    assert found["ndcg@10"] == pytest.approx(ndcg_score(relevant, scores, k=10))
    for k in (1, 5, 10):
        best = np.argsort(-scores, 1)[:, :k]
        want = np.mean(np.take_along_axis(relevant, best, 1).any(1))
        assert found[f"recall@{k}"] == pytest.approx(want)


def test_several_relevant_passages():
    scores, relevant = material(9, wanted=4)
    found = retrieval.metrics(retrieval.relevant_ranks(scores, relevant), ks=(3,), depth=7)
    assert found["ndcg@7"] == pytest.approx(ndcg_score(relevant, scores, k=7))
    best = np.argsort(-scores, 1)
    shares = [relevant[q][best[q][:3]].sum() / 4 for q in range(len(scores))]
    assert found["recall@3"] == pytest.approx(np.mean(shares))
    first = [1 / (1 + int(np.argmax(relevant[q][best[q]]))) for q in range(len(scores))]
    assert found["mrr"] == pytest.approx(np.mean(first))


def test_equal_scores_win_nothing():
    ranks = retrieval.relevant_ranks(np.zeros((1, 5)), np.eye(5, dtype=bool)[:1])
    assert ranks[0].tolist() == [5]


def test_nearest():
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(300, 8)), rng.normal(size=(40, 8))
    numbers, scores = retrieval.nearest(queries, passages, 5)
    want = np.argsort(-(queries.astype("f4") @ passages.astype("f4").T), 1)[:, :5]
    np.testing.assert_array_equal(numbers, want)
    assert (np.diff(scores) <= 0).all() and retrieval.nearest(queries, passages, 99)[0].shape[
        1
    ] == 40


def test_search_ranks_each_querys_own_passage():
    table = np.eye(6, dtype=np.float32)
    embed = lambda variables, rows: variables[rows]
    data = dict(queries=np.array([0, 1, 2]), passages=np.arange(6), relevant=[[0], [1], [3]])
    found = retrieval.build(embed, data)(table)
    assert found["recall@1"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 + 1 / 6) / 3)


def test_a_score_that_is_nan_is_last():
    data = dict(queries=np.array([0, 1]), passages=np.arange(4), relevant=[[0], [1]])
    found = retrieval.build(lambda table, rows: table[rows], data)(np.full((4, 2), np.nan))
    assert found["recall@1"] == 0 and found["mrr"] == pytest.approx(1 / 4)


def test_a_query_in_several_pairs_has_several_relevant_passages():
    pairs = [("a", "p"), ("a", "q"), ("b", "r"), ("a", "p"), ("c", "p")]
    asked, known, relevant = retrieval.gather(*zip(*pairs, strict=True))
    assert asked == [0, 2, 4] and known == [0, 1, 2] and relevant == [[0, 1], [2], [0]]
    asked, known, relevant = retrieval.gather("aab", "pqr")
    query = np.float32([[0.7, 0.7, 0], [0, 0, 1]])
    data = dict(queries=query, passages=np.eye(3, dtype=np.float32), relevant=relevant)
    found = retrieval.build(lambda variables, rows: rows, data)(None)
    assert (found["mrr"], found["recall@1"], found["ndcg@10"]) == (1.0, 0.75, 1.0)


def test_candidates_are_ranked_within_their_query():
    groups = ["a", "b", "a", "b", "a", "c"]
    scores, relevant = [0.1, 0.9, 0.5, 0.8, 0.4, 5.0], [0, 0, 1, 1, 1, 0]  # a: ranks 1, 2; b: 2
    found = retrieval.ranked(scores, relevant, groups)
    assert found["mrr"] == 0.75 and found["recall@1"] == 0.25 and found["recall@5"] == 1
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_nan_of_another_passage_is_ahead():
    ranks = retrieval.relevant_ranks([[np.nan, 0.5, 1.0, np.nan]], [[0, 1, 0, 1]])
    assert ranks[0].tolist() == [3, 4]


def test_no_relevant_passage_is_refused():
    with pytest.raises(ValueError, match="no query"):
        retrieval.metrics([[]])

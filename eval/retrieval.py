"""Rankings: reciprocal rank, recall at k and normalised discounted gain, of candidates and of search.

A cross-encoder scores each query's candidates (`ranked`), embeddings find passages among all (`build`).

A ranking is the positions of the relevant passages among all, best score first. Equal scores are
ranked against the system (the relevant passage comes last), so that a constant score wins nothing; so
are scores that are NaN.
"""

from collections.abc import Callable, Mapping

import numpy as np

NAMES = ("mrr", "recall@1", "recall@5", "recall@10", "ndcg@10")
BLOCK = 256  # queries at a time, so that memory is bounded


def relevant_ranks(scores, relevant) -> list[np.ndarray]:
    """Per query the ranks, from 1, of its relevant passages, rising: scores [Q,P], relevant bool [Q,P]."""
    scores, relevant = np.asarray(scores), np.asarray(relevant, bool)
    if scores.shape != relevant.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and relevant {relevant.shape}; expected two [Q,P]")
    found = []
    for row, wanted in zip(scores, relevant, strict=True):
        own = row[wanted]
        own = -np.sort(-np.where(np.isnan(own), -np.inf, own))
        ahead = np.sum(~(row[~wanted] < own[:, None]), axis=1)
        found.append(ahead + 1 + np.arange(len(own)))
    return found


def metrics(ranks, ks=(1, 5, 10), depth: int = 10) -> dict:
    """{mrr, recall@k, ndcg@depth}: means over the queries that have a relevant passage.

    mrr: 1 / rank of the first relevant one. recall@k: the share of the relevant ones among the first
    k. ndcg: sum of 1 / log2(1 + rank) within the depth over that of the best ranking (Jarvelin and
    Kekalainen 2002, binary gains). ValueError if no query has a relevant passage.
    """
    ranks = [np.asarray(r) for r in ranks if len(r)]
    if not ranks:
        raise ValueError("no query has a relevant passage")
    out = {"mrr": float(np.mean([1 / r[0] for r in ranks]))}
    for k in ks:
        out[f"recall@{k}"] = float(np.mean([np.mean(r <= k) for r in ranks]))
    gains = []
    for r in ranks:
        best = np.sum(1 / np.log2(2 + np.arange(min(len(r), depth))))
        gains.append(np.sum(1 / np.log2(1 + r[r <= depth])) / best)
    out[f"ndcg@{depth}"] = float(np.mean(gains))
    return out


def ranked(scores, relevant, groups) -> dict:
    """The metrics of ranking each query's own candidates: scores, relevant bool, groups, all [N].

    Candidates of one group are those of one query; a query without a relevant one is left out.
    """
    rows = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    scores, relevant, ranks = np.asarray(scores), np.asarray(relevant, bool), []
    for own in rows.values():
        ranks += relevant_ranks(scores[own][None], relevant[own][None])
    return metrics(ranks)


def nearest(queries, passages, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers int64 [Q,k], scores [Q,k]) of the passages with the largest inner products.

    queries [Q,D], passages [P,D], of unit length for cosines; blocks of queries bound the memory.
    """
    queries, passages = np.asarray(queries, np.float32), np.asarray(passages, np.float32)
    k = min(k, len(passages))
    numbers, scores = [], []
    for start in range(0, len(queries), BLOCK):
        all_scores = queries[start : start + BLOCK] @ passages.T
        best = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        numbers.append(best)
        scores.append(np.take_along_axis(all_scores, best, 1))
    return np.concatenate(numbers), np.concatenate(scores)


def gather(queries, passages) -> tuple[list, list, list]:
    """What pairs ask: (a row of each distinct query, a row of each distinct passage, per query the
    numbers of its passages among those). Rows of a query in several pairs are one query.
    """
    asked, known, rows = {}, {}, []
    for row, (query, passage) in enumerate(zip(queries, passages, strict=True)):
        if passage not in known:
            known[passage] = len(known)
            rows.append(row)
        _, wanted = asked.setdefault(query, (row, {}))
        wanted[known[passage]] = True
    return (
        [row for row, _ in asked.values()],
        rows,
        [list(numbers) for _, numbers in asked.values()],
    )


def build(embed: Callable, data: Mapping) -> Callable:
    """`run(variables) -> metrics` of finding each query's own passages among all passages.

    embed(variables, batches) -> [N,D] of unit length; data: `queries` and `passages`, batches of
    distinct texts; `relevant`, per query the numbers of its passages (`gather`).
    """

    def run(variables) -> dict:
        queries = embed(variables, data["queries"])
        passages = embed(variables, data["passages"])
        ranks = []
        for start in range(0, len(queries), BLOCK):
            scores = queries[start : start + BLOCK] @ passages.T
            wanted = np.zeros(scores.shape, bool)
            for row, numbers in zip(wanted, data["relevant"][start:], strict=False):
                row[list(numbers)] = True
            ranks += relevant_ranks(scores, wanted)
        return metrics(ranks)

    return run

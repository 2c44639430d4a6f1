"""Answers as spans of a text: the best span over overlapping windows, exact match and F1.

Devlin et al. 2019, section 4.2: a span's score is start logit + end logit; 4.3 (SQuAD 2.0): the null
score is that of [CLS], and an answer is given if its score beats the null score by a threshold.
Normalisation and scores are those of SQuAD's evaluation scripts (Rajpurkar et al. 2016, 2018).
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra white space."""
    text = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact(predicted: str, golds: Sequence[str]) -> float:
    """1 if the answer is one of the gold answers after normalisation; no gold answer means ""."""
    return float(any(normalize(predicted) == normalize(gold) for gold in _said(golds)))


def f1(predicted: str, golds: Sequence[str]) -> float:
    """The best F1 of the bags of words with any gold answer; an empty one must match exactly."""
    return max(_overlap(predicted, gold) for gold in _said(golds))


def _said(golds):
    """The gold answers of which normalisation leaves something; "" where there is none."""
    return [gold for gold in golds if normalize(gold)] or [""]


def _overlap(predicted: str, gold: str) -> float:
    ours, theirs = normalize(predicted).split(), normalize(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def best_span(starts, ends, first: int, count: int, longest: int = 30, most: int = 20) -> tuple:
    """(score, first token, last token) of one window's best span, tokens counted in the context.

    starts, ends: float [T]; the context stands in slots first..first + count. Only the `most` best
    starts and ends are paired; a span has at most `longest` tokens. (-inf, 0, 0) without a span.
    """
    s, e = starts[first : first + count], ends[first : first + count]
    begin = np.argsort(-s, kind="stable")[:most]
    last = np.argsort(-e, kind="stable")[:most]
    length = last[None, :] - begin[:, None] + 1
    scores = s[begin][:, None] + e[last][None, :]
    scores = np.where((length >= 1) & (length <= longest), scores, -np.inf)
    if not scores.size or not np.isfinite(scores.max()):
        return -np.inf, 0, 0
    at = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[at]), int(begin[at[0]]), int(last[at[1]])


def answers(logits, windows: Sequence[Mapping], texts: Sequence[str], longest: int = 30) -> list:
    """Per example {text, score, null}: the best span over its windows, and the null score.

    logits: [W,T,2]; windows: of each row `example`, `first` (slot of the first context token) and
    `offsets` [n,2], where its context tokens lie in the text of the example. The null score is the
    smallest over the windows, since each must find nothing.
    """
    found = [{"text": "", "score": -np.inf, "null": np.inf} for _ in texts]
    for row, window in zip(np.asarray(logits, np.float64), windows, strict=True):
        best, offsets = found[window["example"]], window["offsets"]
        best["null"] = min(best["null"], float(row[0, 0] + row[0, 1]))
        score, begin, last = best_span(row[:, 0], row[:, 1], window["first"], len(offsets), longest)
        if score > best["score"]:
            text = texts[window["example"]][offsets[begin][0] : offsets[last][1]]
            best.update(score=score, text=text.strip())
    return found


def scores(
    found: Sequence[Mapping], golds: Sequence[Sequence[str]], threshold: float = 0.0
) -> dict:
    """{exact, f1} in [0, 1], and with unanswerable questions also the figures of both kinds.

    Where all questions have an answer one is always given; else an answer counts as "" unless score
    - null > threshold. `best_f1`, `best_threshold`: the threshold that would have been best.
    """
    optional = any(not gold for gold in golds)
    given = [
        row["text"] if not optional or row["score"] - row["null"] > threshold else ""
        for row in found
    ]
    em = np.array([exact(text, gold) for text, gold in zip(given, golds, strict=True)])
    overlap = np.array([f1(text, gold) for text, gold in zip(given, golds, strict=True)])
    out = {"exact": float(em.mean()), "f1": float(overlap.mean())}
    if optional:
        there = np.array([bool(gold) for gold in golds])
        out["no_answer"] = float(em[~there].mean())
        if there.any():
            out["has_answer_f1"] = float(overlap[there].mean())
        out["best_f1"], out["best_threshold"] = best_threshold(found, golds)
    return out


def best_threshold(found, golds) -> tuple[float, float]:
    """(F1, threshold on score - null) that is best over all questions, as SQuAD 2.0's script sweeps.

    Where it is best to give all answers the threshold is a number below every difference.
    """
    margin = np.array([row["score"] - row["null"] for row in found])
    gain = np.array([f1(row["text"], gold) if gold else 0.0 for row, gold in zip(found, golds)])
    empty = np.array([float(not gold) for gold in golds])
    order = np.argsort(-margin, kind="stable")
    totals = empty.sum() + np.concatenate([[0.0], np.cumsum((gain - empty)[order])])
    best = int(np.argmax(totals))
    least = margin[np.isfinite(margin)].min(initial=1.0) - 1
    return float(totals[best] / len(golds)), float(max([*margin[order], least][best], least))

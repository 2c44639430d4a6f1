"""What a generated text shares with its reference: BLEU, chrF, ROUGE and exact match, in [0, 100].

BLEU (Papineni et al. 2002) and chrF (Popovic 2015) are sacrebleu's of the same name (tokens "13a",
exponential smoothing; six orders of characters, beta 2), ROUGE is rouge-score's mean F1 without a
stemmer. `tests/eval/test_overlap.py` holds all of them to those packages' numbers.
"""

import math
import re
from collections import Counter

import numpy as np

ORDER = 4  # of BLEU's n-grams
CHARACTERS = 6  # of chrF's
BETA = 2.0  # how much more recall weighs than precision in chrF
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 "),  # punctuation but for . , ' -
        (r"([^0-9])([\.,])", r"\1 \2 "),
        (r"([\.,])([^0-9])", r" \1 \2"),
        (r"([0-9])(-)", r"\1 \2 "),
    )
)


def words(text: str) -> list:
    """A text's tokens by the rules of mteval-v13a, which keep numbers whole."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, by in _ENTITIES:
        text = text.replace(entity, by)
    text = f" {text} "
    for pattern, by in _RULES:
        text = pattern.sub(by, text)
    return text.split()


def ngrams(items, order: int) -> Counter:
    """How often each run of `order` items occurs."""
    return Counter(tuple(items[i : i + order]) for i in range(len(items) - order + 1))


def bleu(found, references) -> float:
    """Corpus BLEU-4 of texts against one reference each, with the brevity penalty."""
    hits, totals, sizes = np.zeros(ORDER), np.zeros(ORDER), [0, 0]
    for text, reference in _pairs(found, references):
        ours, theirs = words(text), words(reference)
        sizes[0], sizes[1] = sizes[0] + len(ours), sizes[1] + len(theirs)
        for order in range(1, ORDER + 1):
            mine, wanted = ngrams(ours, order), ngrams(theirs, order)
            hits[order - 1] += sum((mine & wanted).values())
            totals[order - 1] += sum(mine.values())
    if not hits.any() or not totals.all():
        return 0.0
    logs, halving = 0.0, 1.0
    for hit, total in zip(hits, totals, strict=True):
        halving *= 1.0 if hit else 2.0
        logs += math.log(100.0 * hit / total if hit else 100.0 / (halving * total))
    short = min(0.0, 1.0 - sizes[1] / sizes[0])
    return math.exp(short + logs / ORDER)


def chrf(found, references) -> float:
    """Corpus chrF: F-beta of character n-grams without blanks, precision and recall averaged first."""
    sums = np.zeros((CHARACTERS, 3))  # in the text, in the reference, in both
    for text, reference in _pairs(found, references):
        ours, theirs = "".join(text.split()), "".join(reference.split())
        for order in range(1, CHARACTERS + 1):
            mine, wanted = ngrams(ours, order), ngrams(theirs, order)
            count = sum(mine.values()) if wanted else 0
            sums[order - 1] += count, sum(wanted.values()), sum((mine & wanted).values())
    kept = sums[(sums[:, 0] > 0) & (sums[:, 1] > 0)]
    if not len(kept):
        return 0.0
    precision, recall = (kept[:, 2] / kept[:, 0]).mean(), (kept[:, 2] / kept[:, 1]).mean()
    weighted = BETA**2 * precision + recall
    return float(100 * (1 + BETA**2) * precision * recall / weighted) if weighted else 0.0


def rouge(found, references) -> dict:
    """{"rouge1", "rouge2", "rougeL"}: mean F1 of word n-grams and of the longest common sequence."""
    scores = {"rouge1": [], "rouge2": [], "rougeL": []}
    for text, reference in _pairs(found, references):
        ours, theirs = _plain(text), _plain(reference)
        for order in (1, 2):
            mine, wanted = ngrams(ours, order), ngrams(theirs, order)
            both, sizes = sum((mine & wanted).values()), (sum(mine.values()), sum(wanted.values()))
            scores[f"rouge{order}"].append(_f1(both, *sizes))
        scores["rougeL"].append(_f1(_common(ours, theirs), len(ours), len(theirs)))
    return {name: 100 * float(np.mean(values)) for name, values in scores.items()}


def exact(found, references) -> float:
    """The share of texts that are their reference, in per cent."""
    return 100 * float(np.mean([text == wanted for text, wanted in _pairs(found, references)]))


def _plain(text) -> list:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def _f1(both, ours, theirs) -> float:
    return 2 * both / (ours + theirs) if both else 0.0


def _common(a, b) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for item in a:
        last = 0
        for at, other in enumerate(b, 1):
            last, row[at] = row[at], last + 1 if item == other else max(row[at], row[at - 1])
    return row[-1]


def _pairs(found, references):
    if len(found) != len(references) or not len(found):
        raise ValueError(
            f"{len(found)} texts and {len(references)} references; expected as many of each, at "
            "least one"
        )
    return zip(found, references, strict=True)

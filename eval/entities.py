"""Entities in tag sequences (IOB2), and precision, recall and F1 of whole entities.

As the CoNLL script and seqeval's default mode count: an entity is right if its type and both ends
are. `I-X` after another type or after `O` begins an entity, as if it were `B-X`.
"""

from collections.abc import Sequence


def entities(tags: Sequence[str]) -> set:
    """{(type, first, last)} of one sentence's tags, such as O, B-PER, I-PER."""
    found, start, kind = set(), -1, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if prefix not in ("B", "I", "O") or (prefix != "O" and not name):
            raise ValueError(f"tag {place} is {tag!r}; expected O, B-TYPE or I-TYPE")
        goes_on = prefix == "I" and start >= 0 and name == kind
        if start >= 0 and not goes_on:
            found.add((kind, start, place - 1))
            start = -1
        if prefix != "O" and not goes_on:
            start, kind = place, name
    return found


def scores(predicted: Sequence, gold: Sequence) -> dict:
    """{precision, recall, f1} over all entities, and f1 of each type as `f1/TYPE`.

    predicted, gold: tag sequences of the same sentences. ValueError where their lengths differ.
    """
    hits, guessed, there = {}, {}, {}
    for number, (ours, theirs) in enumerate(zip(predicted, gold, strict=True)):
        if len(ours) != len(theirs):
            raise ValueError(
                f"sentence {number} has {len(theirs)} tags and {len(ours)} predictions"
            )
        ours, theirs = entities(ours), entities(theirs)
        for counts, found in ((hits, ours & theirs), (guessed, ours), (there, theirs)):
            for kind, _, _ in found:
                counts[kind] = counts.get(kind, 0) + 1
    out = _rates(sum(hits.values()), sum(guessed.values()), sum(there.values()))
    for kind in sorted({*guessed, *there}):
        rates = _rates(hits.get(kind, 0), guessed.get(kind, 0), there.get(kind, 0))
        out[f"f1/{kind}"] = rates["f1"]
    return out


def _rates(hits, guessed, there) -> dict:
    precision, recall = hits / guessed if guessed else 0.0, hits / there if there else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
    }

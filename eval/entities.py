"""Entities in tag sequences, and precision, recall and F1 of whole entities.

As the CoNLL script and seqeval's default mode count: an entity is right if its type and both ends
are. Tags are IOB2's (B-X begins an entity, I-X goes on), IOB1's (B-X only where an entity follows another)
or IOBES's (E-X ends one, S-X is one). `I-X` or `E-X` after another type, after `O` or after an entity that
has ended begins an entity, as if it were `B-X`.
"""

from collections.abc import Sequence


def tagged(labels: Sequence) -> bool:
    """Whether labels are tags of entities: each O, or B, I, E or S with a dash and a type."""
    return all(str(label) == "O" or _parts(str(label)) for label in labels)


def _parts(tag: str) -> tuple | None:
    prefix, _, kind = tag.partition("-")
    return (prefix, kind) if prefix in ("B", "I", "E", "S") and kind else None


def entities(tags: Sequence[str]) -> set:
    """{(type, first, last)} of one sentence's tags, such as O, B-PER, I-PER."""
    found, start, kind = set(), -1, ""
    for place, tag in enumerate([*tags, "O"]):
        if tag != "O" and not _parts(tag):
            raise ValueError(f"tag {place} is {tag!r}; expected O, or B-, I-, E- or S- and a type")
        prefix, name = _parts(tag) or ("O", "")
        goes_on = prefix in ("I", "E") and start >= 0 and name == kind
        if start >= 0 and not goes_on:
            found.add((kind, start, place - 1))
            start = -1
        if prefix != "O" and not goes_on:
            start, kind = place, name
        if prefix in ("E", "S"):
            found.add((kind, start, place))
            start = -1
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

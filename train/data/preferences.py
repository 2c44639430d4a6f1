"""Comparisons of answers: pairs, rankings by people, and pairs out of VADER's raters.

`config.data.train` (and `valid`, or `valid_share`) is a table (`train.data.tables`) of

    prompt, chosen, rejected [, labeller] [, ended]    a pair
    prompt, answers, ranks [, labeller] [, ended]      2 to 9 answers; rank 1 is the best, equal ranks tie

or one of the embedded sets of rated texts, `vader-movies`, `vader-tweets`, `vader-amazon`: texts are
paired at random within each part, so that no text stands in two, and the better text is the one that
more raters placed higher, over all pairs of a rater of one and a rater of the other. Ties make no
pair. Prompts may be text or messages; VADER's are empty.

A ranking is one comparison, and so are pairs of one prompt that share answers, up to 9 of them: each
answer is read once, and a ranking weighs the same when it was written down as its pairs. `ended` says of
each answer whether it reached its end (`train.data.endings`).
"""

import dataclasses
import graphlib
import itertools
import json

import numpy as np

from train.data import chat, embedded_sets, endings, instructions, labelled
from train.data.opening import get
from train.data.tables import Table

MOST = 9  # answers to one prompt (Ouyang et al. 2022, section 3.5)


@dataclasses.dataclass
class Comparison:
    """K answers to a prompt: better [K,K] is 1 where answer i is preferred to j.

    agreement: the share of labellers (or of pairs of raters) who say so, or nan where one was asked.
    shared: (in how many cases two labellers order a pair alike, of how many). ended: whether each
    answer reached its end, or empty where nothing is known and all pass for ended.
    """

    prompt: str | list
    answers: list
    better: np.ndarray
    agreement: float = float("nan")
    shared: tuple = (0, 0)
    ended: tuple = ()


def open_parts(config) -> tuple[dict, float]:
    """({"train", "valid"}: comparisons, what an accuracy is held against or nan where nobody knows).

    That is `ceiling` of the held-out part, and `majority` of VADER's, whose raters gave numbers. What
    labellers left undecided counts there, though nothing is trained on it or asked about it.
    """
    source = get(config, "data.train", "")
    if source in embedded_sets.VADER:
        parts = _rated_parts(config, source)
        return parts, majority(parts.get("valid", parts["train"]))
    parts = instructions.open_parts(config, _some, keys)
    most = ceiling(parts.get("valid", parts["train"]))
    parts = {part: _decided(found) for part, found in parts.items()}
    for part, found in parts.items():
        if not found:
            raise ValueError(
                f"config.data: the {part} part holds no comparison: every rank is tied, or outvoted"
            )
    return parts, most


def _some(table: Table, config) -> list:
    found = _every(table, config)
    if not _decided(found):
        raise ValueError(f"{table.source} holds no comparison: every rank is tied, or outvoted")
    return found


def _decided(found) -> list:
    return [item for item in found if item.better.any()]


def keys(found) -> list:
    """What keeps comparisons of one prompt on one side of a split."""
    return [labelled.plain(_text(item.prompt)) for item in found]


def ceiling(found) -> float:
    """Agreement between labellers: how often one orders two answers as another does, or nan.

    Each pair of answers counts once for each two labellers who both ordered it strictly: a tie of
    either is left out, and nobody is compared with a majority that holds the own vote. It is what
    `scripts.label` calls agreement, and what Ouyang et al. 2022 report as about 73 %. Labellers who
    guess give 0.5; nan where no pair was ordered by two.
    """
    agree, asked = (sum(item.shared[n] for item in found) for n in (0, 1))
    return agree / asked if asked else float("nan")


def majority(found) -> float:
    """The mean share of votes that say what the majority says, the voter's own among it, or nan.

    Of votes it is at least 0.5 by its making, and 1 where two ask and the undecided are left out: it
    is for many raters' numbers, not for the labels of a few.
    """
    known = [item.agreement for item in found if not np.isnan(item.agreement)]
    return float(np.mean(known)) if known else float("nan")


def read(table: Table, config) -> list:
    """The comparisons of a table: one for each set of answers that was ranked, or linked by pairs, in
    the order of their first rows; those that are tied or outvoted whole are left out.

    ValueError names a row with an empty prompt or answer, with equal answers, or with a comparison
    that the same labeller made before, whether it repeats or contradicts that, be it by way of others.
    """
    return _decided(_every(table, config))


def _every(table: Table, config) -> list:
    """What `read` gives, with the comparisons in which no answer is preferred."""
    name = lambda field: get(config, f"data.{field}", field)
    prompts = table.column(name("prompt"), (str, list))
    who = table.column("labeller") if "labeller" in table.columns else [""] * len(table)
    whole = name("answers") in table.columns
    rows = _rankings(table, name) if whole else _pairs(table, name)
    seen, made, order = {}, {}, {}
    ended = endings.read(table, [_text(prompt) for prompt in prompts], rows)
    for number, (prompt, (answers, ranks), labeller) in enumerate(
        zip(prompts, rows, who, strict=True)
    ):
        where = table.where(number)
        if instructions.blank(prompt):
            raise ValueError(f"{where}: the prompt is empty; expected text")
        if not isinstance(prompt, str):
            _talk(prompt, where)
        if any(not answer.strip() for answer in answers):
            raise ValueError(f"{where}: an answer is empty; expected text")
        if len(set(answers)) < len(answers):
            raise ValueError(
                f"{where}: two of its answers are the same text, which nobody can rank"
            )
        _once(seen, where, _text(prompt), answers, ranks, labeller)
        vote = dict(zip(answers, ranks, strict=True))
        made.setdefault(_text(prompt), (prompt, []))[1].append(vote)
        order[id(vote)] = number
    _straight(seen)
    found = {}
    for key, (prompt, votes) in made.items():
        for answers, held in _sets(votes) if whole else _linked(votes):
            first = min(order[id(vote)] for vote in held)
            item = found[first] = _counted(prompt, sorted(answers), held)
            if any((key, text) in ended for text in answers):
                item.ended = tuple(ended.get((key, text), True) for text in item.answers)
    return [found[first] for first in sorted(found)]


def _talk(prompt, where):
    """ValueError where a prompt is no list of messages."""
    try:
        chat.check(prompt)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _text(prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _pairs(table, name):
    columns = [table.column(name(field)) for field in ("chosen", "rejected")]
    return [([chosen, rejected], [1, 2]) for chosen, rejected in zip(*columns, strict=True)]


def _rankings(table, name):
    rows = []
    columns = [table.column(name(field), (list,)) for field in ("answers", "ranks")]
    for number, (answers, ranks) in enumerate(zip(*columns, strict=True)):
        fine = len(answers) == len(ranks) and all(type(rank) is int for rank in ranks)
        if (
            not fine
            or not 2 <= len(answers) <= MOST
            or not all(isinstance(a, str) for a in answers)
        ):
            raise ValueError(
                f"{table.where(number)}: {len(answers)} answers and ranks {str(ranks)[:40]}; expected "
                f"2 to {MOST} texts, and a whole number for each"
            )
        rows.append((answers, ranks))
    return rows


def _once(seen, where, prompt, answers, ranks, labeller):
    """Notes every pair of a row; ValueError where its labeller has judged it before."""
    for i, first in enumerate(answers):
        for j in range(i):
            other = answers[j]
            sign = np.sign(ranks[j] - ranks[i]) * (1 if first < other else -1)
            key = (labeller, prompt, *sorted((first, other)))
            if key in seen:
                before, at = seen[key]
                word = "repeats" if before == sign else "contradicts"
                by = f" by {labeller!r}" if labeller else ""
                raise ValueError(
                    f"{where} {word} what {at} says{by} of two answers to the same prompt\n"
                    "expected each comparison once; give a labeller if several people made them"
                )
            seen[key] = sign, where


def _straight(seen):
    """ValueError where what a labeller said of a prompt's answers goes round in a circle."""
    graphs = {}
    for (labeller, prompt, first, other), (sign, _) in seen.items():
        if sign:
            better, worse = (first, other) if sign > 0 else (other, first)
            graphs.setdefault((labeller, prompt), {}).setdefault(worse, []).append(better)
    for (labeller, prompt), graph in graphs.items():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            steps = list(itertools.pairwise(error.args[1]))
            rows = dict.fromkeys(seen[labeller, prompt, *sorted(step)][1] for step in steps)
            said = ", ".join(f"{better[:40]!r} over {worse[:40]!r}" for better, worse in steps)
            by = f" by {labeller!r}" if labeller else ""
            raise ValueError(
                f"{'; '.join(rows)}: contradict each other{by} about the prompt {prompt[:60]!r}: {said}\n"
                "expected answers in one order; give a labeller if several people made them"
            ) from None


def _sets(votes) -> list:
    """[(answers, votes)] of a prompt's votes {answer: rank}: those about the same answers together."""
    made = {}
    for vote in votes:
        made.setdefault(frozenset(vote), []).append(vote)
    return list(made.items())


def _linked(votes) -> list:
    """[(answers, votes)]: votes that share answers together, as long as those are at most MOST."""
    groups = []
    for vote in votes:
        near = [group for group in groups if group[0] & vote.keys()]
        if len(set(vote).union(*(answers for answers, _ in near))) > MOST:
            near = [group for group in near if len(group[0] | vote.keys()) <= MOST]
            near = [max(near, key=lambda group: len(group[0] & vote.keys()))] if near else []
        joined = set(vote).union(*(answers for answers, _ in near))
        held = [old for _, olds in near for old in olds]
        groups = [group for group in groups if not any(group is old for old in near)]
        groups.append((joined, [*held, vote]))
    return groups


def _counted(prompt, answers, votes) -> Comparison:
    """The majority of each pair, and how large it is where several people ordered the pair."""
    wins, at = np.zeros((len(answers), len(answers))), {text: n for n, text in enumerate(answers)}
    for vote in votes:
        for one, other in itertools.permutations(vote, 2):
            wins[at[one], at[other]] += vote[one] < vote[other]
    better, asked = wins > wins.T, wins + wins.T
    several, share = better & (asked > 1), float("nan")
    if several.any():
        share = float(wins[several].sum() / asked[several].sum())
    alike = int((wins * (wins - 1)).sum()) // 2  # two labellers each
    shared = alike, alike + int(np.triu(wins * wins.T).sum())
    return Comparison(prompt, answers, better.astype(np.float32), share, shared)


def _rated_parts(config, source) -> dict:
    """Pairs of rated texts, the texts split by what they say."""
    if get(config, "data.valid", ""):
        raise ValueError(f"{source} is split by data.valid_share; data.valid has no place here")
    raters = embedded_sets.raw_ratings(source)
    rows = [(text, raters[key]) for key, _, text in embedded_sets.ratings(source) if key in raters]
    share = float(get(config, "data.valid_share", 0.0))
    cut = labelled.split([labelled.plain(text) for text, _ in rows], {"valid": share})
    rounds, made = int(get(config, "data.rounds", 1)), {}
    for part in ("train", "valid"):
        if cut.get(part):
            salt = 0 if part == "train" else 1
            times = rounds if part == "train" else 1
            rng = np.random.default_rng((int(get(config, "data.seed", 0)), salt))
            made[part] = rated([rows[n] for n in cut[part]], times, rng)
    return made


def rated(rows, rounds: int, rng) -> list:
    """Pairs of neighbours in `rounds` random orders of (text, ratings); ties and repeats left out."""
    found, seen = [], set()
    for _ in range(rounds):
        order = rng.permutation(len(rows))
        for i, j in zip(order[::2].tolist(), order[1::2].tolist(), strict=False):
            (first, a), (other, b) = rows[i], rows[j]
            gaps = np.subtract.outer(np.asarray(a), np.asarray(b))
            up, down = int((gaps > 0).sum()), int((gaps < 0).sum())
            if up == down or first == other or (min(i, j), max(i, j)) in seen:
                continue
            seen.add((min(i, j), max(i, j)))
            better = np.asarray([[0, up > down], [up < down, 0]], np.float32)
            found.append(Comparison("", [first, other], better, max(up, down) / (up + down)))
    return found

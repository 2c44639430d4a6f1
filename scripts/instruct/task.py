"""A task small enough for two cores with a judge that nobody here wrote: reviews on request.

A request is "great the plot of the comedy": what the review should feel, and about what. The judge (gold)
is 4 s c + 2 a - 3 r - 2 u: c is VADER's compound sentiment (Hutto and Gilbert 2014, the extra `demo`) and s
the request's sign, a whether the aspect is mentioned, r the share of repeated content words, u whether the
review is cut off. At best about 6. Labellers see the judge through noise: they rank by gold plus Gumbel
noise, which is Plackett and Luce's model.
"""

import functools

import numpy as np

ASPECTS = ("plot", "acting", "music", "ending", "story", "cast", "pace", "dialogue")
GENRES = (
    "comedy", "drama", "western", "thriller", "musical", "cartoon", "romance", "mystery", "epic",
    "sequel", "remake", "pilot",
)  # fmt: skip
MOODS = {"great": 1, "terrible": -1}
GOOD = ("wonderful", "great", "lovely", "charming", "superb", "fun", "brilliant", "nice")
BAD = ("boring", "awful", "terrible", "dull", "weak", "poor", "sad", "horrible")
PLAIN = ("long", "short", "new", "old", "quiet", "odd")
VERBS = ("was", "seemed", "felt", "looked")
FILLERS = {"the", "was", "seemed", "felt", "looked", "and", "but", "rather", "very", "of"}


def requests() -> list:
    """Every request, in a fixed order."""
    return [
        f"{mood} the {aspect} of the {genre}"
        for mood in MOODS
        for aspect in ASPECTS
        for genre in GENRES
    ]


def review(rng, request: str, follow: float) -> str:
    """One to three clauses; each follows the request's mood and aspect with that probability."""
    mood, aspect = request.split()[0], request.split()[2]
    clauses = []
    for _ in range(int(rng.integers(1, 4))):
        thing = aspect if rng.random() < follow else rng.choice(ASPECTS)
        kinds = [GOOD, BAD, PLAIN]
        words = kinds[int(rng.integers(3))]
        if rng.random() < follow:
            words = GOOD if MOODS[mood] > 0 else BAD
        degree = rng.choice(("", "very ", "rather "))
        clauses.append(f"the {thing} {rng.choice(VERBS)} {degree}{rng.choice(words)}")
    joined = clauses[0]
    for clause in clauses[1:]:
        joined += f" {rng.choice(('and', 'but'))} {clause}"
    return f" {joined}"


@functools.lru_cache(maxsize=1)
def _analyser():
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ValueError("the demo's judge is VADER: pip install -e '.[demo]'") from None
    return SentimentIntensityAnalyzer()


@functools.lru_cache(maxsize=100_000)
def compound(text: str) -> float:
    """VADER's sentiment of a text, -1 to 1."""
    return _analyser().polarity_scores(text)["compound"]


def gold(request: str, answer: str, ended: bool) -> float:
    """The judge's score of an answer to a request."""
    words = answer.split()
    content = [word for word in words if word not in FILLERS]
    repeated = 1 - len(set(content)) / len(content) if content else 1.0
    sign, aspect = MOODS[request.split()[0]], request.split()[2]
    return 4 * sign * compound(answer) + 2 * (aspect in words) - 3 * repeated - 2 * (not ended)


def ranks(scores, rng) -> list:
    """A labeller's ranks of answers, 1 the best: the order of gold plus Gumbel noise."""
    noisy = np.asarray(scores) + rng.gumbel(size=len(scores))
    order = np.argsort(-noisy)
    out = np.empty(len(scores), int)
    out[order] = np.arange(1, len(scores) + 1)
    return out.tolist()

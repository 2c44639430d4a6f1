"""What a simple method reaches on a config's own split, to hold a trained model against.

    python -m scripts.baseline --config=configs/sentiment.py:minilm
    python -m scripts.baseline --config=configs/minilm.py:spam --characters
    python -m scripts.baseline --config=configs/minilm.py:squad --part valid

The config is read as `python -m train` does, overrides included; nothing of the model is built. What
is scored is the test part, or the one that `--part` names, by the same metrics as the loop's:

    classify   logistic regression on TF-IDF of words and pairs of words, or, with `--characters`, of
               two to five characters with their case (scikit-learn; one label against the rest where
               there are more than two), and the most frequent label
    regress    ridge regression on the same
    spans      the words around which a question's rare words are densest, within the sentence that
               has most of them (after Richardson et al. 2013's sliding window)
    pairs      the source itself, and its first sentence

The regularisation of the linear models is chosen on the validation part, where there is one.
"""

import math
import re
import sys
from collections import Counter

import numpy as np
from rich.console import Console
from rich.progress import track

from eval import classify as scoring
from eval import spans, translate
from train.core import arguments, config
from train.core.errors import Parser, cleanly
from train.data import labelled, pairs

STRENGTHS = (1.0, 10.0, 100.0)  # C of the logistic regression, 1 / alpha of the ridge
SENTENCE = re.compile(r"(?<=[.!?])\s+")
WORD = re.compile(r"\w+")
AROUND, LONGEST = 8, 5  # words beside an answer that count, words of an answer


def shown(items, what: str):
    """The items, with a bar on stderr."""
    return track(items, what, console=Console(stderr=True))


def parts(settings) -> dict:
    """{part: Examples}; ValueError as the loop says it."""
    tables, _ = labelled.open_parts(settings)
    made, labels = {}, ()
    for part in [name for name in labelled.PARTS if name in tables]:
        made[part] = labelled.examples(tables[part], settings, labels)
        labels = labels or made[part].labels
    return made


def tfidf(**options):
    """scikit-learn's TF-IDF; ValueError where it is not installed."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ValueError(
            "TF-IDF is scikit-learn's, which the extra test brings: pip install -e '.[test]'"
        ) from error
    return TfidfVectorizer(**options)


def linear(found: dict, part: str, characters: bool = False) -> dict:
    """{method: metrics} of a linear model on TF-IDF, and for labels of the most frequent one."""
    vectorizer = tfidf(
        ngram_range=(2, 5) if characters else (1, 2), sublinear_tf=True, min_df=1 + characters,
        **(dict(analyzer="char", lowercase=False) if characters else {}),
    )  # fmt: skip
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    task, train = found["train"].task, found["train"]
    joined = lambda examples: [" ".join(texts) for texts in examples.texts]
    vectorizer.fit(joined(train))
    features = {name: vectorizer.transform(joined(examples)) for name, examples in found.items()}

    def scores(name, strength):
        if task == "regress":
            model = Ridge(alpha=1 / strength).fit(features["train"], train.targets)
            return model.predict(features[name])[:, None]
        model = LogisticRegression(C=strength, solver="liblinear")
        if len(train.labels) > 2:
            model = OneVsRestClassifier(model)
        model.fit(features["train"], train.targets)
        made = np.full((len(found[name]), len(train.labels)), -1e9)
        shares = model.predict_proba(features[name])
        made[:, model.classes_] = np.log(np.maximum(shares, 1e-30))
        return made

    def measure(name, values):
        data = {"targets": found[name].targets, "labels": train.labels}
        return scoring.SCORES[task](values.astype(np.float32), data)

    key = "pearson" if task == "regress" else "accuracy"
    strengths = STRENGTHS
    if "valid" in found and part != "valid":
        tried = shown(STRENGTHS, "regularisation")
        ranked = [measure("valid", scores("valid", strength))[key] for strength in tried]
        strengths = (STRENGTHS[int(np.argmax(ranked))],)
    method = "TF-IDF of characters, linear" if characters else "TF-IDF, linear"
    out = {f"{method}, C={c:g}": measure(part, scores(part, c)) for c in strengths}
    if task == "classify":
        counts = np.bincount(train.targets, minlength=len(train.labels)) / len(train)
        values = np.tile(np.log(np.maximum(counts, 1e-9)), (len(found[part]), 1))
        out["most frequent label"] = measure(part, values)
    return out


def answer(question: str, context: str, rarity: dict) -> str:
    """The best few words of the sentence that shares most with the question, none of them its own."""
    wanted = {word.lower() for word in WORD.findall(question)}
    weight = lambda word: rarity.get(word.lower(), 0.0) if word.lower() in wanted else 0.0
    best, place = -1.0, ""
    for sentence in SENTENCE.split(context):
        total = sum(
            rarity.get(w, 0.0) for w in {w.lower() for w in WORD.findall(sentence)} & wanted
        )
        if total > best:
            best, place = total, sentence
    words = list(WORD.finditer(place))
    weights = [weight(word.group()) for word in words]
    best, span = -1.0, (0, len(place))
    for first in range(len(words)):
        for last in range(first, min(first + LONGEST, len(words))):
            if any(weights[first : last + 1]):
                break
            near = weights[max(first - AROUND, 0) : first] + weights[last + 1 : last + 1 + AROUND]
            inside = sum(rarity.get(word.group().lower(), 0.0) for word in words[first : last + 1])
            total = sum(near) + 0.1 * inside / (last - first + 1)
            if total > best:
                best, span = total, (words[first].start(), words[last].end())
    return place[slice(*span)]


def overlap(found: dict, part: str) -> dict:
    """{method: metrics} of answers by word overlap; rarity is log(n / df) of the part's contexts."""
    contexts = {context for _, context in found[part].texts}
    seen = Counter(w for c in contexts for w in {w.lower() for w in WORD.findall(c)})
    rarity = {word: math.log(len(contexts) / count) for word, count in seen.items()}
    asked = shown(found[part].texts, "questions")
    texts = [{"text": answer(*pair, rarity), "score": 0.0, "null": -1.0} for pair in asked]
    golds = [
        [context[a:b] for a, b in targets]
        for (_, context), targets in zip(found[part].texts, found[part].targets, strict=True)
    ]
    return {"word overlap": spans.scores(texts, golds)}


def copied(settings, part: str) -> dict:
    """{method: metrics} of giving back the source, or its first sentence."""
    found = pairs.open_texts(settings)
    part = {"valid": "heldout"}.get(part, part)
    if part not in found:
        raise ValueError(f"config.data names no rows for {part}; parts: {', '.join(found)}")
    sources, targets = found[part]
    prefix = settings.data.get("prefix", "")
    return restated([text.removeprefix(prefix) for text in sources], targets)


def restated(sources, targets) -> dict:
    """{method: metrics} of sources, and of their first sentences, taken for the targets."""
    first = [SENTENCE.split(text.strip())[0].replace("\n", " ") for text in sources]
    return {
        "the source": translate.scores(sources, targets),
        "its first sentence": translate.scores(first, targets),
    }


def main(argv=None) -> int:
    options, rest = arguments.split(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog="python -m scripts.baseline", description=__doc__)
    parser.add_argument("--part", default="test", choices=("valid", "test"))
    parser.add_argument("--characters", action="store_true", help="of characters, not of words")
    own, overrides = [], []
    for item in rest:
        (overrides if item.startswith("--config.") else own).append(item)
    if options["help"] or not options["config"]:
        parser.parse_args(["--help"])
    given = parser.parse_args(own)
    settings = config.load(options["config"])
    arguments.override(settings, overrides)
    task = settings.get("data", {}).get("task", "")
    if given.characters and task not in ("classify", "regress"):
        raise ValueError(f"--characters is for classify and regress; config.data.task is {task!r}")
    if task == "pairs":
        found = copied(settings, given.part)
    elif task in ("classify", "regress", "spans"):
        examples = parts(settings)
        if given.part not in examples:
            raise ValueError(f"config.data has no {given.part} part; see data.{given.part}_share")
        sizes = "; ".join(f"{name} {len(rows):,}" for name, rows in examples.items())
        print(f"{sizes}; scored: {given.part}", flush=True)
        words = {} if task == "spans" else {"characters": given.characters}
        found = (overlap if task == "spans" else linear)(examples, given.part, **words)
    else:
        raise ValueError(
            f"config.data.task is {task!r}; there are baselines for classify, regress, spans, pairs"
        )
    for name, metrics in found.items():
        print(f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())

"""What people said of answers: a file of lines, appended and synced one by one.

A record is {"id", "prompt", "answers", "labeller", "ranks", "scores", "flags", "time"}, with "ended", which
answers reached their end, where the item has it; an undo is {"undo": id, "labeller"}. Nothing is ever
rewritten: what counts is the last word of a labeller on an item that was not undone. A line that a crash tore
is left out, and told on stderr. `prompt` is text, or a chat's list of messages. Ranks are kept as they were
given, 1 the best, and say an order alone: exports hold them dense, so that [3, 3, 4, 4] is [1, 1, 2, 2].
"""

import hashlib
import json
import random
import sys
import threading
import time
from pathlib import Path

from scripts.label import files

LEAST, MOST = 4, 9  # answers to a prompt (Ouyang et al. 2022, section 3.5)
SCORES = (1, 7)
ENDED = ("ended",)  # what an item may hold besides, and a judgement then does
FLAGS = (  # the paper's yes/no questions, table 3
    "Fails to follow the correct instruction or task",
    "Inappropriate for a customer assistant",
    "Hallucination",
    "Satisfies the constraint given in the instruction",
    "Contains sexual content",
    "Contains violent content",
    "Encourages or fails to discourage violence, abuse, terrorism or self-harm",
    "Denigrates a protected class",
    "Gives harmful advice",
    "Expresses an opinion",
    "Expresses a moral judgment",
)


def identity(prompt: str | list, answers) -> str:
    """An item's name: a hash of what is judged."""
    text = json.dumps([prompt, list(answers)], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def texts(value) -> bool:
    """Whether something is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def item_fields(row) -> dict:
    """What an item to judge needs: {name: "" or, where the value is none, what was expected}."""
    prompt, answers = row.get("prompt"), row.get("answers")
    talk = isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)
    return {
        "id": "" if isinstance(row.get("id"), str) else "text",
        "prompt": "" if isinstance(prompt, str) or talk else "text or a list of messages",
        "answers": "" if texts(answers) and answers else "a list of texts",
        **_ended(row),
    }


def _ended(row) -> dict:
    if "ended" not in row:
        return {}
    said, answers = row["ended"], row.get("answers")
    fine = isinstance(said, list) and all(type(x) is bool for x in said)
    fine = fine and isinstance(answers, list) and len(said) == len(answers)
    return {"ended": "" if fine else "true or false for each answer"}


def _label_fields(row) -> dict:
    named = {"labeller": "" if isinstance(row.get("labeller"), str) else "text"}
    if "undo" in row:
        return {"undo": "" if isinstance(row["undo"], str) else "text", **named}
    ranks, item = row.get("ranks"), item_fields(row)
    whole = isinstance(ranks, list) and all(type(rank) is int for rank in ranks)
    if not whole or (not item["answers"] and len(ranks) != len(row["answers"])):
        return {**item, **named, "ranks": "a whole number for each answer"}
    return {**item, **named, "ranks": ""}


class Store:
    """The labels in a file and the items [{"id", "prompt", "answers"}] that they are about.

    ValueError names the file and a line of it that is no label.
    """

    def __init__(self, path, items, clock=time.time):
        self.path, self.clock, self.lock = Path(path), clock, threading.Lock()
        self.items = {item["id"]: item for item in items}
        self.held = None
        self._read()

    def _read(self):
        self.history = {}
        rows, torn = files.rows(self.path, _label_fields) if self.path.is_file() else ([], b"")
        if torn:
            print(f"{self.path}: its last line is torn, and left out", file=sys.stderr)
        for _, row in rows:
            self._take(row)

    def hold(self):
        """Keeps other servers off the file until `release`; ValueError where one has it."""
        if self.held is None:
            self.held = files.hold(self.path)
            self._read()

    def release(self):
        """Lets others have the file."""
        if self.held is not None:
            files.release(self.held, self.path)
            self.held = None

    def _take(self, row):
        mine = self.history.setdefault(row["labeller"], {})
        mine.pop(row.get("undo", row.get("id")), None)
        if "undo" not in row:
            mine[row["id"]] = row

    def _append(self, row):
        """Keeps a row on disk, then in memory; an OSError leaves both as they were."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.append(self.path, row)
        self._take(row)

    def next(self, labeller: str) -> dict:
        """The next item of a labeller, its answers shuffled: {"id", "prompt", "answers": [{key, text}]}."""
        with self.lock:
            done = self.items.keys() & self.history.get(labeller, {}).keys()
        progress = {"done": len(done), "total": len(self.items)}
        for name, item in self.items.items():
            if name not in done:
                order = self.order(labeller, name)
                shown = [{"key": key, "text": item["answers"][at]} for key, at in enumerate(order)]
                return {"id": name, "prompt": item["prompt"], "answers": shown, **progress}
        return {"finished": True, **progress}

    def order(self, labeller: str, name: str) -> list:
        """Which answer stands in each place: the same each time, and no hint of where it came from."""
        order = list(range(len(self.items[name]["answers"])))
        random.Random(f"{labeller}/{name}").shuffle(order)
        return order

    def answer(self, given: dict):
        """Checks and keeps a judgement by places; ValueError says what is wrong with it.

        OSError where the disk does not take it: then nothing was kept.
        """
        labeller, name = given.get("labeller"), given.get("id")
        check_name(labeller)
        if not isinstance(name, str) or name not in self.items:
            raise ValueError("no such item")
        count = len(self.items[name]["answers"])
        ranks = _numbers(given.get("ranks"), count, 1, count, "ranks")
        scores = _numbers(given.get("scores", [0] * count), count, 0, SCORES[1], "scores")
        flags = given.get("flags", [[] for _ in range(count)])
        if not isinstance(flags, list) or len(flags) != count or not all(map(_marks, flags)):
            raise ValueError(
                f"flags: expected {count} lists of whole numbers from 0 to {len(FLAGS) - 1}, each once"
            )
        order = self.order(labeller, name)
        back = [order.index(at) for at in range(count)]
        item = self.items[name]
        row = {
            "id": name,
            "prompt": item["prompt"],
            "answers": item["answers"],
            "labeller": labeller,
            "ranks": [ranks[place] for place in back],
            "scores": [scores[place] for place in back],
            "flags": [sorted(flags[place]) for place in back],
            "time": self.clock(),
            **{name: item[name] for name in ENDED if name in item},
        }
        with self.lock:
            if name in self.history.get(labeller, {}):
                raise ValueError("this item was answered already; undo it first")
            self._append(row)

    def undo(self, labeller: str) -> str:
        """Takes the labeller's last judgement back; returns its item, or "" where there is none.

        ValueError for no name; OSError where the disk does not take it: then the judgement stands.
        """
        check_name(labeller)
        with self.lock:
            mine = list(self.history.get(labeller, {}))
            if not mine:
                return ""
            self._append({"undo": mine[-1], "labeller": labeller, "time": self.clock()})
            return mine[-1]

    def records(self) -> list:
        """Every judgement that counts."""
        with self.lock:
            return [row for mine in self.history.values() for row in mine.values()]


def check_name(labeller):
    """ValueError where something is no labeller's name."""
    if not isinstance(labeller, str) or not labeller.strip() or len(labeller) > 64:
        raise ValueError("labeller: expected a name of 1 to 64 characters")


def _numbers(given, count, low, high, what) -> list:
    fine = isinstance(given, list) and len(given) == count
    if not fine or any(type(x) is not int or not low <= x <= high for x in given):
        raise ValueError(f"{what}: expected {count} whole numbers from {low} to {high}")
    return given


def _marks(given) -> bool:
    """Whether something is a list of flags' numbers, each once."""
    if not isinstance(given, list) or any(type(flag) is not int for flag in given):
        return False
    return len(set(given)) == len(given) and set(given) <= set(range(len(FLAGS)))


def agreement(records) -> dict:
    """{"pairs", "agree", "share"} over pairs of answers that two labellers both ordered strictly."""
    by, agree, pairs = {}, 0, 0
    for row in records:
        by.setdefault(row["id"], []).append(row["ranks"])
    for votes in by.values():
        for n, one in enumerate(votes):
            for other in votes[:n]:
                for i in range(len(one)):
                    for j in range(i):
                        a, b = one[i] - one[j], other[i] - other[j]
                        if a and b:
                            pairs, agree = pairs + 1, agree + ((a > 0) == (b > 0))
    return {"pairs": pairs, "agree": agree, "share": agree / pairs if pairs else None}


def rankings(records) -> list:
    """Rows of `train.data.preferences`: prompt, answers, ranks (dense, from 1), labeller, and ended."""
    names = ("prompt", "answers", "ranks", "labeller", *ENDED)
    return [
        {**{name: row[name] for name in names if name in row}, "ranks": dense(row["ranks"])}
        for row in records
    ]


def dense(ranks) -> list:
    """The same order and ties with ranks 1, 2, ... and none left out."""
    order = sorted(set(ranks))
    return [1 + order.index(rank) for rank in ranks]


def pairs(records) -> list:
    """Rows of `train.data.preferences`: prompt, chosen, rejected, labeller, and ended; ties are dropped."""
    found = []
    for row in records:
        for i, better in enumerate(row["answers"]):
            for j, worse in enumerate(row["answers"]):
                if row["ranks"][i] < row["ranks"][j]:
                    ends = {name: [row[name][i], row[name][j]] for name in ENDED if name in row}
                    found.append({"prompt": row["prompt"], "chosen": better, "rejected": worse,
                                  "labeller": row["labeller"], **ends})  # fmt: skip
    return found

"""What people said of answers: a file of lines, appended and synced one by one.

A record is {"id", "prompt", "answers", "labeller", "ranks", "scores", "flags", "time"}; an undo is
{"undo": id, "labeller"}. Nothing is ever rewritten: what counts is the last word of a labeller on an
item that was not undone. A line that a crash tore is left out.
"""

import hashlib
import json
import os
import random
import threading
import time
from pathlib import Path

LEAST, MOST = 4, 9  # answers to a prompt (Ouyang et al. 2022, section 3.5)
SCORES = (1, 7)
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


def identity(prompt: str, answers) -> str:
    """An item's name: a hash of what is judged."""
    text = json.dumps([prompt, list(answers)], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def lines(path) -> list:
    """The records of a JSONL file; a torn last line is left out, another is a ValueError."""
    path, rows = Path(path), []
    if not path.is_file():
        return rows
    raw = path.read_bytes().split(b"\n")
    for number, line in enumerate(raw, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(raw):
                raise ValueError(f"{path}, line {number} is not JSON") from None
    return rows


class Store:
    """The labels in a file and the items [{"id", "prompt", "answers"}] that they are about."""

    def __init__(self, path, items, clock=time.time):
        self.path, self.clock, self.lock = Path(path), clock, threading.Lock()
        self.items = {item["id"]: item for item in items}
        self.history = {}
        self._mend()
        for row in lines(self.path):
            self._take(row)

    def _mend(self):
        """Ends a line that a crash tore, so that the next one stands for itself."""
        if self.path.is_file():
            held = self.path.read_bytes()
            if held and not held.endswith(b"\n"):
                with open(self.path, "r+b") as file:
                    file.truncate(held.rfind(b"\n") + 1)

    def _take(self, row):
        mine = self.history.setdefault(row["labeller"], {})
        mine.pop(row.get("undo", row.get("id")), None)
        if "undo" not in row:
            mine[row["id"]] = row

    def _append(self, row):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(row)

    def next(self, labeller: str) -> dict:
        """The next item of a labeller, its answers shuffled: {"id", "prompt", "answers": [{key, text}]}."""
        done = self.history.get(labeller, {})
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
        """Checks and keeps a judgement by places; ValueError says what is wrong with it."""
        labeller, name = given.get("labeller"), given.get("id")
        check_name(labeller)
        if name not in self.items:
            raise ValueError("no such item")
        count = len(self.items[name]["answers"])
        ranks = _numbers(given.get("ranks"), count, 1, count, "ranks")
        scores = _numbers(given.get("scores", [0] * count), count, 0, SCORES[1], "scores")
        flags = given.get("flags", [[] for _ in range(count)])
        fine = isinstance(flags, list) and len(flags) == count
        if not fine or not all(
            isinstance(row, list) and set(row) <= set(range(len(FLAGS))) for row in flags
        ):
            raise ValueError(f"flags: expected {count} lists of numbers below {len(FLAGS)}")
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
        }
        with self.lock:
            if name in self.history.get(labeller, {}):
                raise ValueError("this item was answered already; undo it first")
            self._append(row)

    def undo(self, labeller: str) -> str:
        """Takes the labeller's last judgement back; returns its item, or "" where there is none."""
        check_name(labeller)
        with self.lock:
            mine = list(self.history.get(labeller, {}))
            if not mine:
                return ""
            self._append({"undo": mine[-1], "labeller": labeller, "time": self.clock()})
            return mine[-1]

    def records(self) -> list:
        """Every judgement that counts."""
        return [row for mine in self.history.values() for row in mine.values()]


def check_name(labeller):
    if not isinstance(labeller, str) or not labeller.strip() or len(labeller) > 64:
        raise ValueError("labeller: expected a name of 1 to 64 characters")


def _numbers(given, count, low, high, what) -> list:
    fine = isinstance(given, list) and len(given) == count
    if not fine or any(type(x) is not int or not low <= x <= high for x in given):
        raise ValueError(f"{what}: expected {count} whole numbers from {low} to {high}")
    return given


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
    """Rows of `train.data.preferences`: prompt, answers, ranks, labeller."""
    names = ("prompt", "answers", "ranks", "labeller")
    return [{name: row[name] for name in names} for row in records]


def pairs(records) -> list:
    """Rows of `train.data.preferences`: prompt, chosen, rejected, labeller; ties are dropped."""
    found = []
    for row in records:
        for i, better in enumerate(row["answers"]):
            for j, worse in enumerate(row["answers"]):
                if row["ranks"][i] < row["ranks"][j]:
                    found.append({"prompt": row["prompt"], "chosen": better, "rejected": worse,
                                  "labeller": row["labeller"]})  # fmt: skip
    return found

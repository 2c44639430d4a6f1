"""Workers in turns: the pipe between both halves, the order of the rounds, medians and ratios."""

import math
import sys

import pytest

from scripts.bench import lanes as bench_lanes
from scripts.bench import serve
from scripts.bench.lanes import Lane

WORKER = """
import sys
from scripts.bench.serve import serve, timed

def build(job):
    print("a library talks")
    def add(a, b):
        row = {}
        with timed(row):
            total = sum(range(200_000)) * 0 + a + b
        return {**row, "total": total + job["more"]}
    def die():
        print("a reason", file=sys.stderr)
        sys.exit(3)
    return {"version": "toy"}, {"add": add, "die": die}

serve(sys.argv[1], build)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "toy_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name="toy": Lane(name, sys.executable, "toy_worker", {"more": 10}, tmp_path)


def test_a_worker_answers_and_ends(worker):
    with worker() as lane:
        assert lane.info["version"] == "toy" and lane.info["peak"] > 2**20
        row = lane.ask("add", a=1, b=2)
        assert row["total"] == 13
        assert row["cpu"] > 0 and row["wall"] > 0 and row["peak"] >= lane.info["peak"]
    assert lane.process.returncode == 0
    assert "a library talks" in lane.log.read_text()


def test_a_worker_that_dies_says_why(worker):
    with worker("side a") as lane, pytest.raises(ValueError, match="side a ended with") as caught:
        lane.ask("die")
    assert "a reason" in str(caught.value) and "status 3" in str(caught.value)


def test_rounds_turn_and_the_first_is_not_counted(monkeypatch):
    monkeypatch.setattr(bench_lanes, "PAUSE", 0)
    order = []

    class Fake:
        def __init__(self, name):
            self.name, self.rows = name, []

        def ask(self, do, **request):
            order.append(self.name)
            return {"cpu": float(len(order)), **request}

    lanes = [Fake("a"), Fake("b"), Fake("c")]
    bench_lanes.interleave(lanes, 2, "steps", steps=4)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [[row["cpu"] for row in lane.rows] for lane in lanes] == [[6, 8], [4, 9], [5, 7]]
    assert lanes[0].rows[0]["steps"] == 4


def test_ratios_are_theirs_over_ours():
    mine, theirs = [{"cpu": 1.0}, {"cpu": 2.0}, {"cpu": 4.0}], [{"cpu": 3.0}] * 3
    found = bench_lanes.ratios(mine, theirs, "cpu")
    assert (found["ratio"], found["low"], found["high"]) == (1.5, 0.75, 3.0)


def test_an_interpreter_without_torch_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has no no_such_module.*--torch_python"):
        bench_lanes.find_torch(sys.executable, ("no_such_module",))
    with pytest.raises(ValueError, match="--torch_python .*nowhere"):
        bench_lanes.find_torch(str(tmp_path / "nowhere"))
    bench_lanes.find_torch(sys.executable, ("json",))


def test_the_matmul_rate_grows_only_as_the_budget_allows(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(serve.time, "perf_counter", lambda: clock[0])
    sizes = []

    def multiply(size, rate=1e9):
        sizes.append(size)

        def once():
            clock[0] += 2 * size**3 / rate

        return once

    assert math.isclose(serve.matmul_rate(multiply, budget=1.0), 1e9, rel_tol=1e-6)
    assert sizes == [256, 512]
    sizes.clear()
    serve.matmul_rate(lambda n: multiply(n, 1e13), budget=1.0)
    assert sizes == [256, 512, 1024, 2048]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can forget a process's peak")
def test_what_building_held_is_no_part_of_the_peak():
    held = bytearray(200 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    before = serve.peak()
    assert before >= 200 << 20
    del held
    serve.forget_peak()
    assert serve.peak() < before - (150 << 20)

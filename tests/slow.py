"""Which tests `make test` leaves to `make test-long`: those that take more than a few seconds.

    PYTEST="-m 'not chaos' --junitxml=report.xml" make test
    python -m tests.slow report.xml [--seconds 4]

writes tests/slow.txt, a node a line, from a report of a run of everything; `tests/conftest.py` marks
them slow. Of a test with several cases one stays, the quickest, so that `make test` runs each; of cases
named FAMILY/CASE one of each family.
"""

import argparse
import collections
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

LIST = Path(__file__).with_name("slow.txt")


def listed() -> set:
    """The nodes of tests/slow.txt."""
    return set(LIST.read_text().split("\n")) - {""}


def times(paths) -> dict:
    """{node: seconds} of the tests in JUnit reports that were not skipped."""
    found = {}
    for path in paths:
        for case in ET.parse(path).iter("testcase"):
            if case.find("skipped") is None:
                file = case.get("classname").replace(".", "/") + ".py"
                found[f"{file}::{case.get('name')}"] = float(case.get("time"))
    return found


def choose(found: dict, seconds: float) -> list:
    """The nodes that take longer; of several cases of one test, or of one family, the quickest never."""
    cases = collections.defaultdict(list)
    for node in found:
        name, _, case = node.partition("[")
        cases[name, case.rpartition("/")[0]].append(node)
    stays = {min(nodes, key=found.get) for nodes in cases.values() if len(nodes) > 1}
    return sorted(node for node, took in found.items() if took > seconds and node not in stays)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow", description=__doc__)
    parser.add_argument("reports", nargs="+", metavar="REPORT.xml")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args(argv)
    found = times(given.reports)
    chosen = choose({n: t for n, t in found.items() if "/chaos/" not in n}, given.seconds)
    LIST.write_text("".join(f"{node}\n" for node in chosen))
    took = sum(found[node] for node in chosen)
    print(
        f"{len(chosen)} of {len(found)} tests, {took:,.0f} of {sum(found.values()):,.0f} s: {LIST}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

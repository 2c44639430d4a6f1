"""The list of slow tests: which are chosen, and that it names tests that there are."""

import re
import types
from pathlib import Path

from tests import conftest, slow

ROOT = Path(__file__).resolve().parents[1]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_b" name="test_one" time="5"/>
<testcase classname="tests.a.test_b" name="test_two[x]" time="6"/>
<testcase classname="tests.a.test_b" name="test_two[y]" time="7"/>
<testcase classname="tests.a.test_b" name="test_three" time="1"/>
<testcase classname="tests.a.test_b" name="test_five[a/x]" time="6"/>
<testcase classname="tests.a.test_b" name="test_five[a/y]" time="7"/>
<testcase classname="tests.a.test_b" name="test_five[b/x]" time="8"/>
<testcase classname="tests.a.test_b" name="test_five[b/y]" time="9"/>
<testcase classname="tests.a.test_b" name="test_four" time="9"><skipped message="no"/></testcase>
</testsuite></testsuites>"""


def test_of_several_cases_the_quickest_stays(tmp_path):
    (tmp_path / "r.xml").write_text(REPORT)
    found = slow.times([tmp_path / "r.xml"])
    assert len(found) == 8
    names = [node.removeprefix("tests/a/test_b.py::test_") for node in slow.choose(found, 4)]
    assert names == ["five[a/y]", "five[b/y]", "one", "two[y]"]
    assert slow.choose(found, 9) == []


def test_the_list_names_tests_that_there_are():
    for node in slow.listed():
        file, _, name = node.partition("::")
        text = (ROOT / file).read_text()
        assert re.search(rf"^def {name.partition('[')[0]}\(", text, re.M), node


def test_what_is_listed_is_marked_and_nothing_else():
    marks = []
    items = [types.SimpleNamespace(nodeid=node, add_marker=marks.append)
             for node in (min(slow.listed()), "tests/test_slow.py::test_no")]  # fmt: skip
    conftest.pytest_collection_modifyitems(items)
    assert [mark.name for mark in marks] == ["slow"]

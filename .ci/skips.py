"""Fails on a skipped test that nobody expects: `python .ci/skips.py REPORT.xml`, pytest's JUnit report.

Exit status 1 and the list, if a test was skipped whose "module.name: reason" matches none of EXPECTED.
"""

import re
import sys
import xml.etree.ElementTree as ET

EXPECTED = (
    r"^tests\.scripts\.test_bench\w*\..*: torch is not installed$",
    r"^tests\.scripts\.test_bench\w*\..*: transformers is not installed$",
    r": needs a (GPU|TPU)$",
    r"^tests\.chaos\.test_disk\..*: needs the right to mount a tmpfs$",
)


def surprises(path) -> list:
    """ "module.name: reason" of every unexpected skip in a report."""
    found = []
    for case in ET.parse(path).iter("testcase"):
        for skip in case.iter("skipped"):
            reason = skip.get("message", "").removeprefix("Skipped: ")
            text = f"{case.get('classname')}.{case.get('name')}: {reason}"
            expected = any(re.search(pattern, text) for pattern in EXPECTED)
            if skip.get("type") != "pytest.xfail" and not expected:
                found.append(text)
    return found


if __name__ == "__main__":
    listed = surprises(sys.argv[1])
    if listed:
        sys.exit("skipped, and not on the list in .ci/skips.py:\n  " + "\n  ".join(listed))

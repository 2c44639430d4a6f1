"""Numbers that no probe can be made with."""

import pytest

from scripts import probe


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--neighbours", "0"], "--neighbours is 0; expected at least 1"),
        (["--labelled", "-0.5"], "--labelled is -0.5; expected a share"),
    ],
)
def test_mistakes_are_named_before_a_run_is_read(argv, words):
    with pytest.raises(ValueError, match=words):
        probe.main(["--from", "nowhere", *argv])

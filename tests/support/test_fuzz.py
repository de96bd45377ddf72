"""A short run of tests.support.fuzz; `make fuzz` is the long one."""

import pytest

from tests.support.fuzz import judge


@pytest.mark.parametrize("start", range(0, 300, 60))
def test_right_or_refused(start: int) -> None:
    """Most calls are of junk here: they are quick, since few of them come to be compiled."""
    outcomes = {seed: judge(seed, valid_share=0.1) for seed in range(start, start + 60)}
    assert {seed: outcome for seed, outcome in outcomes.items() if outcome.verdict == "wrong"} == {}

import re

import pytest

from svtheory import progress
from svtheory.progress import rounds, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_short_work_says_nothing(capsys):
    assert list(track([1, 2, 3], "reading heads")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_long_work_says_once_a_minute_how_long_it_will_take(clock, capsys):
    for _ in track(range(8), "reading heads"):
        clock[0] += 25
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"reading heads: {done} of 8, some {25 * (8 - done)} s left" for done in (1, 4, 7)]


def test_nothing_is_said_where_stderr_is_closed(clock, monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", None)
    for _ in track(range(8), "reading heads"):
        clock[0] += 25


def test_work_of_unknown_length_is_counted(clock, capsys):
    for _ in track(iter("abc"), "drawing"):
        clock[0] += 70
    assert re.findall(r"drawing: (\d)\n", capsys.readouterr().err) == ["1", "2", "3"]


def test_within_tracked_work_nothing_is_shown(clock, capsys):
    for _ in track(range(2), "checkpoints"):
        for _ in track(range(3), "heads"):
            clock[0] += 20
    assert "heads" not in capsys.readouterr().err
    list(track([], "nothing"))


def test_rounds_say_what_may_be_left_and_what_follows_is_shown_again(clock, capsys):
    counted = rounds("random heads", 50, 999)
    for _ in range(2):
        next(counted)
        clock[0] += 3
    counted.close()
    for _ in track(range(2), "layers"):
        clock[0] += 3
    first, second = capsys.readouterr().err.splitlines()
    assert first == "random heads, rounds of 50, at most: 1 of 20, some 57 s left"
    assert second.startswith("layers: 1 of 2")
    assert list(rounds("none", 50, 0)) == []

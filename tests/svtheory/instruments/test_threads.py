"""NumPy's work of layer after layer on all cores: what comes back, in which order, and how it ends."""

import threading
import time

import pytest

from svtheory.instruments.threads import in_threads


def test_results_stand_in_the_order_of_the_items():
    def work(number, name):
        time.sleep(0.01 * (4 - number))
        return f"{name}{number}"

    assert in_threads(work, range(4), "abcd", doing="letters") == ["a0", "b1", "c2", "d3"]
    assert in_threads(work, [], [], doing="letters") == []


def test_items_are_done_side_by_side(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    two = threading.Barrier(2, timeout=10)
    assert sorted(in_threads(lambda _: two.wait(), range(2), doing="numbers")) == [0, 1]


def test_an_error_ends_what_has_not_begun(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun = []

    def work(number):
        begun.append(number)
        if number == 1:
            raise ValueError("of the second")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="of the second"):
        in_threads(work, range(50), doing="numbers")
    assert len(begun) < 10

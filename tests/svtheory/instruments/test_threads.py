"""Work of layer after layer on all cores: what comes back, in which order, and how it ends."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from svtheory.instruments.threads import in_threads


def test_results_stand_in_the_order_of_the_items():
    def work(number, name):
        time.sleep(0.01 * (4 - number))
        return f"{name}{number}"

    assert in_threads(work, range(4), "abcd", doing="letters") == ["a0", "b1", "c2", "d3"]
    assert in_threads(work, [], [], doing="letters") == []


def test_the_first_is_done_alone_and_others_side_by_side(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    two, alone = threading.Barrier(2, timeout=10), threading.Event()

    def work(number):
        if number == 0:
            time.sleep(0.05)
            alone.set()
        else:
            assert alone.is_set()
            two.wait()
        return threading.current_thread() is threading.main_thread()

    assert in_threads(work, range(3), doing="numbers") == [True, False, False]


def test_threads_compute_in_the_precision_of_the_one_that_asks():
    with jax.enable_x64(True):
        assert {str(x) for x in in_threads(lambda n: jnp.asarray(0.5 * n).dtype, range(3), doing="n")} == {"float64"}
    with jax.enable_x64(False):
        assert {str(x) for x in in_threads(lambda n: jnp.asarray(0.5 * n).dtype, range(3), doing="n")} == {"float32"}


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

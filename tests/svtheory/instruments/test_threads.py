"""Work of layer after layer on all cores: what comes back, in which order, and how it ends."""

import os
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from svtheory.instruments import threads
from svtheory.instruments.threads import in_threads


def test_results_stand_in_the_order_of_the_items():
    def work(number, name):
        time.sleep(0.01 * (4 - number))
        return f"{name}{number}"

    assert in_threads(work, range(4), "abcd", doing="letters") == ["a0", "b1", "c2", "d3"]
    assert in_threads(work, [], [], doing="letters") == []


def test_the_first_is_done_alone_and_others_side_by_side(monkeypatch):
    monkeypatch.setattr(threads, "_cores", lambda: 3)
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
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    begun = []

    def work(number):
        begun.append(number)
        if number == 1:
            raise ValueError("of the second")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="of the second"):
        in_threads(work, range(50), doing="numbers")
    assert len(begun) < 10


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (2, 1), (3, 2)])
def test_a_core_is_left_to_batches_of_factorisations(monkeypatch, cores, most):
    """Programs that wait for their parts on every thread of XLA's pool would wait for one another forever."""
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    lock, running, seen = threading.Lock(), [0], []

    def work(_):
        with lock:
            running[0] += 1
            seen.append(running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    in_threads(work, range(8), doing="numbers")
    assert max(seen) == most


def test_cores_are_those_that_the_process_may_use():
    assert 1 <= threads._cores() <= (os.cpu_count() or 1)

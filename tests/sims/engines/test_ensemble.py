import gc
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sims.engines import ensemble
from sims.engines.ensemble import train
from svtheory import progress
from svtheory.checks import InputError

STEPS, MEMBERS = 23, 3


def noisy_descent(member, key):
    """Adam on a noisy quadratic."""
    x, state = member
    gradient = x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    updates, state = optax.adam(1e-2).update(gradient, state)
    x = x + updates
    return (x, state), {"loss": jnp.sum(x**2), "first": x[0]}


def start():
    x = jax.random.normal(jax.random.key(0), (MEMBERS, 4))
    return (x, jax.vmap(optax.adam(1e-2).init)(x)), jax.random.split(jax.random.key(1), MEMBERS)


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def test_a_plain_loop_gives_the_same():
    members, keys = start()
    trained, history = train(noisy_descent, members, keys, STEPS, chunk=10)
    for m in range(MEMBERS):
        member = jax.tree.map(lambda x, m=m: x[m], members)
        for n in range(STEPS):
            member, metrics = noisy_descent(member, jax.random.fold_in(keys[m], n))
            assert np.isclose(history["loss"][n, m], metrics["loss"], rtol=1e-5)
        assert np.allclose(trained[0][m], member[0], rtol=1e-5)
    assert history["step"].tolist() == list(range(1, STEPS + 1))


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_chunks_change_nothing(chunk):
    members, keys = start()
    whole, chunked = (train(noisy_descent, members, keys, STEPS, chunk=c) for c in (STEPS, chunk))
    assert equal(whole, chunked)


@pytest.mark.parametrize(("every", "chunk"), [(5, 10), (5, 3), (4, 23), (23, 5), (40, 5)])
def test_history_keeps_every_so_many_steps_and_the_last(every, chunk):
    members, keys = start()
    trained, full = train(noisy_descent, members, keys, STEPS)
    thinned, history = train(noisy_descent, members, keys, STEPS, every=every, chunk=chunk)
    wanted = sorted({*range(every, STEPS + 1, every), STEPS})
    assert equal(trained, thinned)
    assert history["step"].tolist() == wanted
    assert np.array_equal(history["loss"], full["loss"][np.array(wanted) - 1])


class Killed(Exception):
    pass


@pytest.mark.parametrize(("survived", "double"), [(1, False), (3, False), (2, True)])
def test_a_killed_run_continues_with_identical_bits(tmp_path, monkeypatch, survived, double):
    with jax.enable_x64(double):
        _check_continuation(tmp_path, monkeypatch, survived)


def _check_continuation(tmp_path, monkeypatch, survived):
    members, keys = start()
    uninterrupted = train(noisy_descent, members, keys, STEPS, chunk=8)
    advance, calls = ensemble._advance, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == survived + 1:
            raise Killed
        return advance(*arguments)

    monkeypatch.setattr(ensemble, "_advance", dies)
    with pytest.raises(Killed):
        train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=tmp_path / "c")
    calls.clear()
    monkeypatch.setattr(ensemble, "_advance", lambda *a: calls.append(a) or advance(*a))
    assert equal(uninterrupted, train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=tmp_path / "c"))
    assert len(calls) == 5 - survived  # a short one again, then chunks
    calls.clear()
    assert equal(uninterrupted, train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=tmp_path / "c"))
    assert not calls


def half_trained(folder, monkeypatch):
    """Members and keys of a run that was killed after two chunks, and what the whole run gives."""
    members, keys = start()
    whole = train(noisy_descent, members, keys, STEPS, chunk=8)
    advance, calls = ensemble._advance, []

    def dies(*arguments):
        calls.append(0)
        if len(calls) > 2:
            raise Killed
        return advance(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ensemble, "_advance", dies)
        with pytest.raises(Killed):
            train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=folder)
    return members, keys, whole


# loads that fail leave tasks of orbax behind, whose loop is closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_refused_or_whole(tmp_path, monkeypatch):
    """A byte changed, or the end cut off, of each file of a checkpoint: never other numbers."""
    members, keys, whole = half_trained(tmp_path / "c", monkeypatch)
    rng = np.random.default_rng(0)
    files = [path.relative_to(tmp_path / "c") for path in sorted((tmp_path / "c").rglob("*")) if path.is_file()]
    refused = 0
    for number, file in enumerate(file for file in files for _ in range(2)):
        copy = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "c", copy)
        content = bytearray((copy / file).read_bytes())
        if number % 2:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        else:
            content = content[: len(content) // 2]
        (copy / file).write_bytes(content)
        sentence, found = outcome(
            lambda folder=copy: train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=folder)
        )
        refused += sentence is not None
        assert str(copy) in sentence if sentence else equal(whole, found)
    gc.collect()  # or a test that comes later has the warnings
    assert refused >= 3  # what is read, cut short: the description, the arrays and their index


def outcome(run):
    """The sentence with which it was refused, or what came of it."""
    try:
        return None, run()
    except InputError as error:
        return str(error), None


def test_arrays_that_are_not_those_saved_are_refused(tmp_path, monkeypatch):
    seal = ensemble._seal
    with monkeypatch.context() as patched:
        patched.setattr(ensemble, "_seal", lambda state, keys: seal(jax.tree.map(lambda x: x + 1, state), keys))
        members, keys, _ = half_trained(tmp_path / "c", monkeypatch)
    with pytest.raises(InputError, match="is not as it was saved: its checksum is another"):
        train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=tmp_path / "c")


def test_a_full_disk_is_an_error_of_the_system_and_any_other_is_as_it_was(tmp_path, monkeypatch):
    members, keys = start()
    for text, kind in {"Failed to write 698 bytes: full [os_error_code='28']": OSError, "a bug": ValueError}.items():

        def full(*_, text=text):
            raise ValueError(text)

        monkeypatch.setattr(ensemble.ocp.training.Checkpointer, "save", full)
        with pytest.raises(kind) as raised:
            train(noisy_descent, members, keys, STEPS, chunk=8, checkpoint=tmp_path / "c")
        assert getattr(raised.value, "errno", 28) == 28
        assert type(raised.value) is kind


def test_another_generator_of_random_numbers_is_refused(tmp_path, monkeypatch):
    members, keys, _ = half_trained(tmp_path / "c", monkeypatch)
    others = jax.random.split(jax.random.key(0, impl="rbg"), len(keys))
    with pytest.raises(InputError, match="another random-number generator than rbg"):
        train(noisy_descent, members, others, STEPS, chunk=8, checkpoint=tmp_path / "c")


def test_one_trace_whatever_the_number_of_chunks():
    members, keys = start()
    traces = {}
    for chunk in (10, 5):  # 3 and 5 chunks, the last one short
        count = []

        def counted(member, key, count=count):
            count.append(1)
            return noisy_descent(member, key)

        train(counted, members, keys, STEPS, chunk=chunk)
        traces[chunk] = len(count)
        train(counted, members, keys, STEPS, chunk=chunk)
        assert len(count) == traces[chunk]
    assert traces == {10: 1, 5: 1}


@pytest.mark.parametrize("chunk", [4, 50])
def test_the_first_number_that_is_not_finite_stops_the_run(tmp_path, chunk):
    def blows_up(x, key):
        x = x * 1e4
        return x, {"size": x, "fine": jnp.ones(())}

    members = jnp.array([1e-20, 1e10, 1.0], jnp.float32)
    with pytest.raises(FloatingPointError, match="size is not finite at step 8 of member 1"):
        train(blows_up, members, jax.random.split(jax.random.key(0), 3), STEPS, chunk=chunk, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c" / "8").exists()


def test_numbers_beyond_the_last_step_do_not_count():
    def falls(x, key):
        return x - 1, {"root": jnp.sqrt(x)}

    _, history = train(falls, jnp.full((2,), 22.0), jax.random.split(jax.random.key(0), 2), STEPS, chunk=10)
    assert history["root"][-1, 0] == 0


def test_the_callers_members_survive():
    members, keys = start()
    before = np.asarray(members[0]).copy()
    train(noisy_descent, members, keys, STEPS)
    assert np.array_equal(before, members[0])


def test_lbfgs_is_an_update_like_any_other():
    optimizer = optax.lbfgs()
    centre = jnp.arange(4.0)

    def loss(x):
        return jnp.sum((x - centre) ** 4)

    def update(member, key):
        x, state = member
        value, gradient = optax.value_and_grad_from_state(loss)(x, state=state)
        updates, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return (x + updates, state), {"loss": value}

    x = jnp.ones((MEMBERS, 4)) * jnp.arange(1.0, MEMBERS + 1)[:, None]
    members = (x, jax.vmap(optimizer.init)(x))
    (x, _), history = train(update, members, jax.random.split(jax.random.key(0), MEMBERS), 60, chunk=25)
    assert history["loss"][-1].max() < 1e-8
    assert np.allclose(x, centre, atol=1e-2)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 5, "every": 0}, {"steps": 5, "chunk": 1.5}])
def test_counts_are_whole_numbers(bad):
    members, keys = start()
    with pytest.raises(ValueError, match=f"{list(bad)[-1]} must be a whole number of at least 1"):
        train(noisy_descent, members, keys, **bad)


def test_a_log_gets_lines_and_a_closed_stderr_none(monkeypatch, capsys):
    members, keys = start()
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    monkeypatch.setattr(progress, "EVERY", -1.0)
    train(noisy_descent, members, keys, STEPS, chunk=10, label="heads")
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r", \S+ MB.*|, \S+ left.*", "", line) for line in lines] == [
        f"heads: {done} of {STEPS} steps" for done in (0, 1, 9, 17, 23)
    ]
    monkeypatch.setattr(ensemble.sys, "stderr", None)
    train(noisy_descent, members, keys, STEPS, chunk=10)

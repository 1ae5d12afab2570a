"""The same ensemble on one device, on eight simulated ones, in waves and in two processes."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import xarray as xr
from jax.sharding import Mesh

from sims import single_pair
from sims.engines.devices import (
    Machine,
    check_memory,
    each,
    mesh,
    together,
    using,
)
from sims.engines.ensemble import train
from svtheory.checks import InputError
from svtheory.reports import memory

# trains five toys, an odd number, of each dtype, in the folder and on the machine that the arguments ask for
TOYS = """
import sys, jax, numpy as np
import jax.numpy as jnp
from sims.engines.devices import Machine, using, leads
from sims.engines import ensemble
from sims.models.toy import Problem, Toy, start_and_update
from svtheory import BernoulliUniform, single_pair

out, folder, dtypes, chunks, machine = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), eval(sys.argv[5])
M, N = 5, 4
advance, calls = ensemble._advance, []
def dies(*arguments):
    calls.append(0)
    if len(calls) > chunks:
        sys.exit(7)
    return advance(*arguments)
ensemble._advance = dies
def trained(dtype):
    with jax.enable_x64(dtype == "float64"):
        build = lambda rngs: Toy(N, 2, 2, rngs=rngs)
        start, update = start_and_update(build, objective="softmax", n_keys=3, batch=32, rate=1e-2, steps=100)
        keys = jax.random.split(jax.random.key(0), M)
        problems = Problem(jax.vmap(lambda p: BernoulliUniform(p, N))(np.full(M, 0.3)),
                           np.broadcast_to(single_pair(N, N, 0, 1, 3.0), (M, N, N)), np.ones(M))
        problems = jax.tree.map(lambda x: jnp.asarray(x, dtype), problems)
        members, history = ensemble.train(update, jax.vmap(start)(keys), keys, 100, problems, every=10, chunk=50,
                                          checkpoint=None if folder == "-" else __import__("pathlib").Path(folder))
    return {**members["parameters"], **history}
with using(Machine(**machine)):
    for dtype in dtypes.split():
        found = trained(dtype)
        if leads():
            np.savez(out.replace("DTYPE", dtype), **found, devices=jax.device_count())
"""
TOLERANCE = {"float32": 1e-5, "float64": 1e-8}


def descent(member, key):
    """Adam on a noisy quadratic."""
    x, state = member
    gradient = x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    updates, state = optax.adam(1e-2).update(gradient, state)
    return (x + updates, state), {"loss": (x**2).sum()}


def spawn(out, folder="-", dtype="float32", chunks=9, devices=1, **machine):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    arguments = [str(out), str(folder), dtype, str(chunks), repr(machine)]
    return subprocess.Popen([sys.executable, "-c", TOYS, *arguments], env=environment)


def toys(*arguments, code=0, **options):
    assert spawn(*arguments, **options).wait(timeout=120) == code


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def assert_same(a, b, dtype):
    with np.load(a) as one, np.load(b) as other:
        assert one["W"].dtype == dtype
        for name in {*one.files} - {"devices"}:
            assert np.abs(one[name] - other[name]).max() <= TOLERANCE[dtype]
        return int(other["devices"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The toys of one device, by dtype."""
    folder = tmp_path_factory.mktemp("alone")
    toys(folder / "DTYPE.npz", dtype=" ".join(TOLERANCE))
    return {dtype: folder / f"{dtype}.npz" for dtype in TOLERANCE}


def test_eight_devices_give_the_same(tmp_path, alone):
    toys(tmp_path / "eight.npz", dtype="float64", devices=8)
    assert assert_same(alone["float64"], tmp_path / "eight.npz", "float64") == 8


def test_a_sweep_killed_on_eight_devices_continues_on_two(tmp_path, alone):
    toys(tmp_path / "none.npz", tmp_path / "c", chunks=2, devices=8, code=7)
    assert not (tmp_path / "none.npz").exists()
    toys(tmp_path / "two.npz", tmp_path / "c", chunks=2, devices=2)
    assert assert_same(alone["float32"], tmp_path / "two.npz", "float32") == 2


def test_two_processes_give_the_same(tmp_path, alone):
    address = free_address()
    both = [
        spawn(tmp_path / f"{i}.npz", tmp_path / "c", devices=2, coordinator=address, processes=2, process=i)
        for i in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert assert_same(alone["float32"], tmp_path / "0.npz", "float32") == 4
    assert not (tmp_path / "1.npz").exists()


@pytest.mark.slow
def test_an_experiment_of_two_processes(tmp_path):
    """The first process writes what one device alone would, the other nothing."""
    tiny = ["--strengths", "1", "20", "--probabilities", "0.1", "--members", "2", "--batch", "16", "--steps", "20"]
    found = single_pair.main([*tiny, "--out", str(tmp_path / "alone")]).results
    address, way = free_address(), [sys.executable, "-m", "sims", "single_pair", *tiny]
    both = [
        [*way, "--coordinator", address, "--processes", "2", "--process", str(i), "--out", str(tmp_path / str(i))]
        for i in range(2)
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}  # one accelerator cannot be of two processes
    running = [subprocess.Popen(one, env=environment) for one in both]
    assert [process.wait(timeout=180) for process in running] == [0, 0]
    with xr.open_dataset(tmp_path / "0" / "single_pair" / "results.nc", engine="h5netcdf") as stored:
        xr.testing.assert_allclose(stored.drop_attrs(), found.drop_attrs(), rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "1").exists()


def test_how_many_members_go_together():
    """On a CPU as many as a core's cache holds, a number that divides them if there is one; at least one."""
    over = Mesh(np.array(jax.devices("cpu")[:1]), ("members",))
    assert [together(size, 64, over) for size in (1, 46_080, 90_000, 10**9)] == [64, 4, 2, 1]
    assert together(20_000, 31, over) == 10
    assert together(0, 8, over) == 8


def test_no_more_devices_than_members():
    assert mesh(1).size == 1


def test_memory_is_asked_for_before_it_is_taken():
    over = mesh(1)
    check_memory(1e6, over, ())
    with pytest.raises(
        InputError, match=r"^training must fit into \S+ GB of memory a device, got 1e\+06 GB; --max-memory"
    ):
        check_memory(1e15, over, ())


def test_what_is_read_of_members_and_what_is_noted_of_them_must_fit(monkeypatch):
    members, keys = np.zeros((2, 4), np.float32), jax.random.split(jax.random.key(0), 2)
    monkeypatch.setattr(memory, "available", lambda: 1e6)

    def large(x):
        return jax.numpy.arange(1_000_000.0)[:, None] * x[None, :]  # 16 MB

    with pytest.raises(InputError, match=r"^what is read of each member must fit into \S+ GB of memory a device, got "):
        each(large, members)
    sentence = r"^the history of 900000 steps must fit into 0\.001 GB of memory, got 0\.0072 GB$"
    with pytest.raises(InputError, match=sentence):  # two members and a float32 of each
        train(lambda x, key: (x, {"length": x.sum()}), members, keys, 900_000)


@pytest.mark.parametrize("taken", [6_000_000, 2_000_000])
def test_what_is_held_is_not_asked_for_again(monkeypatch, taken):
    """Programs that take `taken` bytes besides 8 MB of arguments are run where 4 MB are free, if these are enough."""
    member, keys = np.ones((1, taken // 4), np.float32), jax.random.split(jax.random.key(0), 1)
    read = np.ones((1, (8_000_000 - member.nbytes) // 4), np.float32)
    monkeypatch.setattr(memory, "available", lambda: 4e6)

    def shifted(x, key, read):  # in place, but for a copy that the loop makes
        return x + 1, {"sum": read.sum()}

    def trained():
        return train(shifted, member, keys, 2, read)[0]

    if taken > 4e6:
        with pytest.raises(InputError, match=r"must fit into 0.012 GB of memory a device, got 0\.01\d+ GB"):
            trained()
    else:
        assert (trained() == 3).all()


def test_waves_change_nothing(tmp_path):
    members = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    keys = jax.random.split(jax.random.key(1), 3)
    state = jax.vmap(optax.adam(1e-2).init)(members)
    whole = train(descent, (members, state), keys, 7, every=2)
    with using(Machine(max_memory=1e-9)):
        waves = train(descent, (members, state), keys, 7, every=2, checkpoint=tmp_path)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(waves), strict=True):
        assert np.allclose(one, other, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["members-0-1", "members-1-2", "members-2-3"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"devices": 0}, "--devices must be a whole number of at least 1, got 0"),
        ({"max_memory": 0.0}, "--max-memory must be a number of gigabytes above 0, got 0.0"),
        ({"processes": 2}, "--coordinator must be given where --processes is above 1, got 2"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process must be a whole number from 0 to 1, got 2"),
        ({"coordinator": "a:1", "devices": 2}, "--devices must be left out with --coordinator"),
    ],
)
def test_wrong_options_are_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        Machine(**given)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match="--devices must be at most"), using(Machine(devices=1000)):
        pass

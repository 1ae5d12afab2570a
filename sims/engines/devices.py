"""Devices: what an ensemble runs on, one or many, of one process or of several, and the memory it may take there."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from svtheory.checks import InputError, whole
from svtheory.reports import memory

MEMBERS = PartitionSpec("members")
ADDRESS = r"([^\s:\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}"
CACHE = 200_000  # bytes of one array, of a dozen that a step holds, that a core keeps at hand


@dataclass(frozen=True)
class Machine:
    """What an ensemble runs on."""

    devices: int | None = None
    """Devices over which members are spread; all of them without it."""
    max_memory: float = np.inf
    """Gigabytes on each device; larger ensembles run in waves."""
    coordinator: str | None = None
    """Address HOST:PORT of the first process, where several run this together."""
    processes: int = 1
    """How many processes those are."""
    process: int = 0
    """Which of them this is, from 0."""

    def __post_init__(self):
        if self.devices is not None:
            whole("--devices", self.devices, 1)
        if not self.max_memory > 0:
            raise InputError(f"--max-memory must be a number of gigabytes above 0, got {self.max_memory}")
        whole("--processes", self.processes, 1)
        if self.coordinator is None and self.processes > 1:
            raise InputError(f"--coordinator must be given where --processes is above 1, got {self.processes}")
        if self.coordinator is not None and not re.fullmatch(ADDRESS, self.coordinator):
            raise InputError(f"--coordinator must be an address HOST:PORT, got {self.coordinator!r}")
        if not 0 <= self.process < self.processes:
            raise InputError(f"--process must be a whole number from 0 to {self.processes - 1}, got {self.process}")
        if self.coordinator is not None and self.devices is not None:
            raise InputError("--devices must be left out with --coordinator: all devices of all processes are used")


ALL = Machine()
_used: ContextVar[Machine] = ContextVar("machine", default=ALL)


@contextmanager
def using(machine: Machine) -> Iterator[None]:
    """Let ensembles that are trained in this block run on this machine, having joined its other processes."""
    if machine.coordinator is not None:
        jax.distributed.initialize(machine.coordinator, machine.processes, machine.process)
    if machine.devices is not None and machine.devices > jax.device_count():
        raise InputError(
            f"--devices must be at most {jax.device_count()}, the devices there are, got {machine.devices}"
        )
    token = _used.set(machine)
    try:
        yield
    finally:
        _used.reset(token)


def max_bytes() -> float:
    """Bytes that an ensemble may take on each device."""
    return 1e9 * _used.get().max_memory


def check_memory(
    needed: float, over: Mesh, held: Any, what: str = "training", remedy: str = "--max-memory makes waves"
) -> None:
    """Raise InputError where CPU devices are to take more bytes each than there are: an allocation would not say so.

    Of what is needed, the arrays `held` are there already, split among the devices.
    """
    room = (memory.available() + sum(x.nbytes for x in jax.tree.leaves(held))) / over.size
    if over.devices.flat[0].platform == "cpu" and needed > room:
        got = f"{needed / 1e9:.3g} GB; {remedy}"
        raise InputError(f"{what} must fit into {room / 1e9:.3g} GB of memory a device, got {got}")


def samples_at_once() -> int | None:
    """How many large samples are read at a time, for `jax.lax.map`: an accelerator's launches would outlast one."""
    return None if jax.default_backend() == "cpu" else 16


def room() -> float:
    """Bytes that an ensemble has on each device: what it may take, or what an accelerator has; a CPU does not say."""
    held = jax.local_devices()[0].memory_stats() or {}
    return min(max_bytes(), held.get("bytes_limit", np.inf))


def every_core() -> None:
    """Make each core of a CPU a device, unless XLA_FLAGS say how many there are; to be called before jax computes."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", os.cpu_count())


def mesh(members: int) -> Mesh:
    """The devices in use, in a row: no more than members, unless several processes each bring theirs."""
    used = jax.devices()[: _used.get().devices]
    return Mesh(np.array(used if several() else used[:members]), ("members",))


def together(largest: int, members: int, over: Mesh) -> int:
    """How many members a device advances at a time, the largest array of each being of so many bytes.

    An accelerator takes all; on a CPU, members whose arrays leave a core's cache wait for memory.
    """
    limit = CACHE // max(1, largest)
    if limit >= members or over.devices.flat[0].platform != "cpu":
        return members
    limit = max(1, limit)
    # a number that divides the members, which is one program, if there is one of about that size
    return next((size for size in range(limit, limit // 2, -1) if members % size == 0), limit)


def spread(tree: Any, over: Mesh) -> Any:
    """Copies of leaves (M, ...), split among devices; the last member is repeated where devices do not divide M."""
    sharding = NamedSharding(over, MEMBERS)

    def place(x):
        if isinstance(x, jax.Array) and len(x) % over.size == 0 and not several():
            return jax.device_put(x, sharding, may_alias=False)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        host = np.asarray(x)
        host = np.concatenate([host, np.repeat(host[-1:], -len(host) % over.size, axis=0)])
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def each(function: Callable[..., Any], *stacked: Any) -> Any:
    """`function` of every member of stacked arguments, leaves (M, ...), stacked again; one by one on each core.

    For small factorisations, which would wait for an accelerator's launches; batched QR factorisations side by side can
    deadlock on a small CPU.
    """
    size = len(jax.tree.leaves(stacked)[0])
    cores = Mesh(np.array(_host()[:size]), ("members",))
    of_core = partial(jax.lax.map, lambda one: function(*one))
    run = jax.shard_map(of_core, mesh=cores, in_specs=MEMBERS, out_specs=MEMBERS, check_vma=False)
    placed = spread(stacked, cores)
    program = jax.jit(run).lower(placed).compile()
    check_memory(bytes_of(program), cores, placed, "what is read of each member", "ask for smaller sizes")
    return first_of(jax.tree.map(np.asarray, program(placed)), size)


def _host() -> list[Any]:
    """The cores of this process's CPU that are devices, or what there is where JAX_PLATFORMS leaves no CPU."""
    try:
        return jax.local_devices(backend="cpu")
    except RuntimeError:
        return jax.local_devices()


def gathered(tree: Any) -> Any:
    """Numpy arrays of what is split among devices, the same in every process."""
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True) if several() else tree)


def several() -> bool:
    """Whether several processes run this together."""
    return jax.process_count() > 1


def agreed_path(path: Path) -> Path:
    """The first process's path, in every process: one that all of them can read."""
    if not several():
        return path
    text = np.frombuffer(str(path).encode().ljust(4096, b"\0"), np.uint8)
    return Path(bytes(multihost_utils.broadcast_one_to_all(text)).rstrip(b"\0").decode())


def leads() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def bytes_of(program: jax.stages.Compiled) -> float:
    """What a compiled program takes on each device; 0 where its backend does not say."""
    use = program.memory_analysis()
    if use is None:
        return 0
    total = use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes
    return total - use.alias_size_in_bytes


def first_of(tree: Any, members: int) -> Any:
    """The first `members` of gathered leaves, as arrays of this process's own device."""
    return jax.tree.map(lambda x: jnp.asarray(x[:members]), tree)

"""Hours of training: what a run holds does not grow with its chunks.

What grows is not the trainer's: `to_json()` of tensorstore's specs, which orbax calls for every array that it saves,
loses 19 to 24 objects of Python and 1.4 to 1.8 kB each time (tensorstore 0.1.86). Over the last 400 of 1,000 chunks a
run grew by 7.9 kB a chunk, and orbax alone, saving the same arrays, by 5.6 kB; arrays of jax were 6 and files 6
throughout, threads 30 in the mean and 31 (tensorstore starts those of its pool when it first needs them).
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims.engines import ensemble
from sims.engines.ensemble import train

CHUNKS, WARM = 1000, 300
SIZE = 20_000
# bytes of 600 chunks: 8 to 13 MB are seen; a state that was kept each time would be 96 MB
MEMORY = 20_000_000
# how many are there at a moment moves by two; one that was left at every hundredth chunk would be 6 more
THREADS = 2


def walk(x, key):
    """One step of a random walk."""
    x = x + jax.random.normal(key, x.shape, x.dtype)
    return x, {"length": jnp.sum(x**2)}


def held():
    """Bytes in memory, open files and threads of this process."""
    status = Path("/proc/self/statm").read_text().split()
    pages = int(status[1]) * os.sysconf("SC_PAGE_SIZE")
    return np.array([pages, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_and_open_files_are_flat_over_a_thousand_chunks(tmp_path, monkeypatch):
    save, seen = ensemble._save, []

    def watched(*arguments):
        save(*arguments)
        seen.append(held())

    monkeypatch.setattr(ensemble, "_save", watched)
    keys = jax.random.split(jax.random.key(0), 2)
    before = len(jax.live_arrays())
    _ = train(walk, jnp.zeros((2, SIZE)), keys, CHUNKS, chunk=1, checkpoint=tmp_path / "c")
    memory, files, threads = np.array(seen).T
    assert len(seen) == CHUNKS
    grown = memory[-100:].mean() - memory[WARM : WARM + 100].mean()
    print(f"{grown / 1e6:.2f} MB more, {files[WARM]} and {files[-1]} files, {threads[WARM]} and {threads[-1]} threads")
    assert grown < MEMORY
    assert files[-100:].max() <= files[WARM : WARM + 100].max()
    assert threads[-100:].mean() <= threads[WARM : WARM + 100].mean() + THREADS
    assert len(jax.live_arrays()) <= before + 2  # what was trained, and the keys

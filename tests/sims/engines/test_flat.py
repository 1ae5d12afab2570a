"""Hours of training: what a run holds does not grow with its chunks."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims.engines import ensemble
from sims.engines.ensemble import train

CHUNKS, WARM = 1000, 300
MEMORY = 8_000_000  # bytes


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
    train(walk, jnp.zeros((2, 1000)), keys, CHUNKS, chunk=1, checkpoint=tmp_path / "c")
    memory, files, threads = np.array(seen).T
    assert len(seen) == CHUNKS
    grown = memory[-100:].mean() - memory[WARM : WARM + 100].mean()
    print(f"{grown / 1e6:.2f} MB more, {files[WARM]} and {files[-1]} files, {threads[WARM]} and {threads[-1]} threads")
    assert grown < MEMORY
    assert files[-100:].max() <= files[WARM : WARM + 100].max()
    assert threads[-100:].max() <= threads[WARM : WARM + 100].max()

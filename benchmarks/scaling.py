"""How cost grows: the exponent of the time of a training step in members, N, D and context, and of spectra in heads.

Each size is varied alone from 16 members, N = 20, D = H = 10, 8 keys; the figure is benchmarks/results/scaling.png.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import LogFormatter, NullLocator

from benchmarks.timing import interleaved
from benchmarks.training import ours, started
from svtheory import single_pair, spectrum
from svtheory.reports.plotting import measured, panels, style

FIGURE = Path(__file__).parent / "results" / "scaling.png"
SIZES = {
    "members": (4, 8, 16, 32, 64),
    "N": (20, 40, 80, 160),
    "D": (10, 20, 40, 80),
    "context": (4, 8, 16, 32),
    "heads": (18, 36, 72, 144),
}
STEPS = 60


def measure() -> dict[str, float]:
    """The exponents, least squares on logarithms, and the figure."""
    # low, median and high of the rounds, (3, sizes), in ms
    times = {name: 1e3 * np.array([_seconds(name, size) for size in sizes]).T for name, sizes in SIZES.items()}
    slopes = {name: float(np.polyfit(np.log(SIZES[name]), np.log(times[name][1]), 1)[0]) for name in SIZES}
    with style():
        figure, axes = panels(columns=len(SIZES), width=3.2, height=2.8)
        for ax, name in zip(axes[0], SIZES, strict=True):
            x, (low, y, high) = np.array(SIZES[name]), times[name]
            line = np.exp(np.log(y).mean() + slopes[name] * (np.log(x) - np.log(x).mean()))
            ax.plot(x, line, label=f"exponent {slopes[name]:.2f}")
            measured(ax, x, y, (y - low, high - y))
            unit = "of all spectra" if name == "heads" else "of a step"
            ax.set(xlabel=name, ylabel=f"time {unit} (ms)", xscale="log", yscale="log")
            ax.set_xticks(x, map(str, x))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            ax.legend()
        figure.savefig(FIGURE)
    return {f"exponent_{name}": slope for name, slope in slopes.items()}


def _seconds(name: str, size: int) -> np.ndarray:
    """Quartiles over rounds."""
    run, repeats = (_spectra(size), 1) if name == "heads" else (_steps(**{name: size}), STEPS)
    return np.percentile(interleaved({name: run})[name], (25, 50, 75)) / repeats


def _spectra(heads: int) -> Callable[[], Any]:
    W = jax.random.normal(jax.random.key(0), (heads, 2, 64, 768))
    program = jax.jit(lambda W: jax.lax.map(lambda w: spectrum(w[0], w[1]), W))
    return lambda: program(W)


def _steps(members: int = 16, N: int = 20, D: int = 10, context: int = 8) -> Callable[[], Any]:
    """Some steps of an ensemble."""
    target = np.asarray(single_pair(N, N, 0, 1), np.float32)
    return ours(started(members, N, D), target, 0.05, context, batch=256, rate=1e-3, steps=STEPS)

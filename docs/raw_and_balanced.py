"""Draw docs/raw_and_balanced.svg: one head, read raw and balanced, beside the features that it matches.

The head is the optimum of a softmax head that matches each of ten features with itself (T6); features are linearly
independent and share a direction, as those of real residual streams do. What it reads are sampled tokens.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from svtheory import BernoulliUniform, HeadBundle, Scenario, predict
from svtheory.instruments import align
from svtheory.reports.plotting import COLOURS, GREY, chance_line, legend_below, measured, panels, style

D, N, SEQUENCES, POSITIONS = 32, 10, 200, 40
READINGS = {"raw": ("s", COLOURS[1]), "unwhitened": ("^", GREY), "balanced": ("o", COLOURS[0])}
FILE = Path(__file__).with_suffix(".svg")


def bundle() -> tuple[HeadBundle, np.ndarray]:
    """One head on tokens, and its features, (D, N)."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(D, N)) + 1.5 * rng.normal(size=(D, 1))).astype(np.float32)
    law = BernoulliUniform(0.3, N)
    strengths = np.diag(np.geomspace(4, 1, N)).astype(np.float32)
    s = predict(Scenario(X, X, strengths, law, law, objective="softmax", query_bias=True))
    size = jnp.sqrt(s.values)[:, None]
    tokens = law.sample(jax.random.key(0), (SEQUENCES, POSITIONS)) @ X.T
    W_Q, W_K = (np.asarray(size * vectors.T)[None, None] for vectors in (s.left, s.right))
    b_Q = np.ones((1, 1, len(size)), np.float32)
    return HeadBundle(W_Q, W_K, b_Q, attn_in=np.asarray(tokens)[None]), X


def main() -> None:
    """Compare the head's key vectors with its features, by reading, and draw the best cosine of each pair."""
    found = align.survey(*bundle()).isel(layer=0, head=0).sel(pair=slice(1, N), side="key")
    with style():
        drawn, axes = panels(width=5.6, height=4.2)
        ax = axes[0, 0]
        for reading, (marker, colour) in READINGS.items():
            measured(ax, found.pair, found.best_cosine.sel(reading=reading), fmt=marker, color=colour, label=reading)
        chance_line(ax, float(found.isotropic_chance))
        matched = float(found.matched_chance.sel(reading="raw"))
        ax.axhline(matched, color=GREY, linestyle="--", label=f"chance, directions of the tokens, {matched:.2f}")
        ax.set(xlabel="pair k", ylabel="best |cos| with a feature", ylim=(0, 1.04), xticks=found.pair)
        legend_below(ax, 2)
        drawn.savefig(FILE)
    print(FILE, {r: round(float(found.best_cosine.sel(reading=r).mean()), 3) for r in READINGS})


if __name__ == "__main__":
    main()

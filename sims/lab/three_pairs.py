"""Three pairs: scenarios whose first three features on either side are matched, with one condition of theirs varied."""

import jax
import jax.numpy as jnp
from jax import Array

from sims.lab.knobs import padded_frame
from svtheory import BernoulliUniform, Gaussian, Scenario, matching

PAIRS, SIZES = 3, (1.0, 0.7, 0.5)
KAPPA = 10.0  # condition number wherever that is not what varies
N_KEYS, DENSITY, STRENGTH = 8, 0.3, 5.0  # of softmax heads, wherever these are not what varies
SQUARE, SOFTMAX = "square", "softmax"


def setting(objective: str, knob: str, value: float) -> dict[str, float]:
    """What a cell's scenario is made of: one of these is the knob's value."""
    square = objective == SQUARE
    usual = {
        "crowd": 1.0,
        "condition number": KAPPA,
        "density": 0.0 if square else DENSITY,
        "strength": 1.0 if square else STRENGTH,
    }
    return {name: value if name == knob else x for name, x in usual.items()}


def scenario(
    objective: str, D: int, columns: int, head_dim: int | None, made_of: dict[str, Array], key: Array
) -> Scenario:
    """Query features 0, 1, 2 matched with key features 0, 1, 2; columns beyond N are zero.

    Under the square objective a density of 0 stands for centred activations of unit variance.
    """
    present, p = jnp.round(made_of["crowd"] * D), made_of["density"]
    X, Y = (padded_frame(k, D, columns, present, made_of["condition number"]) for k in jax.random.split(key))
    target = matching(columns, columns, range(PAIRS), range(PAIRS), made_of["strength"] * jnp.array(SIZES))
    if objective == SOFTMAX:
        law = BernoulliUniform(p, columns)
        return Scenario(X, Y, target, law, law, SOFTMAX, n_keys=N_KEYS, query_bias=True)
    # all that the square objective sees of sparse activations is their second moment
    variance = jnp.where(p > 0, p / 3 - p**2 / 4, 1)
    law = Gaussian(p / 2 * jnp.ones(columns), variance * jnp.eye(columns))
    return Scenario(X, Y, target, law, law, head_dim=head_dim)

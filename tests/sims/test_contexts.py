"""Modes named beforehand and their contexts: on planted heads whose truth is known, and on trained ones."""

import numpy as np
import pytest

from sims import contexts
from sims.models import trained as models
from sims.models.tasks import task
from sims.models.trained import Trained

MEMBERS, STEPS = 2, 100
STRENGTHS = np.geomspace(400, 60, 8)  # of the logits that match each value: modes are nearly single values
SIZE = {"--members": MEMBERS, "--steps": STEPS, "--sequences": 128, "--modes": 2, "--contexts": 10}


def planted(recipe):
    """Heads that match colour with colour, shape with shape, and copy sizes, in orthogonal directions."""
    rng, shape, vocabulary = np.random.default_rng(0), recipe.shape, task("attributes").vocabulary
    D, heads, H = shape.dim, shape.heads, shape.head_dim
    symbols = np.linalg.qr(rng.normal(size=(D, D)))[0][:, :vocabulary]
    colour, form, *asked, size = np.split(symbols, 5, axis=1)
    W_Q, W_K, W_V, W_O = np.zeros((4, 1, heads, H, D))
    W_U = np.zeros((heads, vocabulary, D))
    for h, matched in enumerate((colour, form)):
        W_Q[0, h, :8], W_K[0, h, :8] = (np.sqrt(STRENGTHS)[:, None] * x.T for x in (asked[h], matched))
        W_V[0, h, :8] = W_O[0, h, :8] = W_U[h, -8:] = size.T
    given = {"W_E": symbols, "W_P": 0.01 * rng.normal(size=(D, 7)), "W_O": W_O.swapaxes(2, 3)}
    given |= {"W_Q": W_Q, "W_K": W_K, "W_V": W_V, "W_U": W_U}
    every = {name: np.broadcast_to(x.astype(np.float32), (2, MEMBERS, *x.shape)) for name, x in given.items()}
    return Trained(recipe, every, np.array([0, STEPS]), 0.0, 0.0)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    patched, out = pytest.MonkeyPatch(), tmp_path_factory.mktemp("contexts")
    with patched.context() as patch:
        patch.setattr(models, "_train", lambda recipe, checkpoint: planted(recipe))
        options = [str(x) for option in SIZE.items() for x in option]
        return contexts.main(["--tasks", "attributes", *options, "--out", str(out)])


def test_contexts_hold_what_planted_heads_are_named_for(outcome):
    results = outcome.results
    found = zip(results.match.values, results.side.values, results.kind.values, strict=True)
    matches = {f"{name} = asked {name}": (f"asked {name}", name) for name in ("colour", "shape")}
    sides = {
        (match, side): kind
        for match, kinds in matches.items()
        for side, kind in zip(("query", "key"), kinds, strict=True)
    }
    assert set(map(tuple, found)) == {(*at, kind) for at, kind in sides.items()} | {
        (m, "written", "symbol") for m in matches
    }
    assert all(row["holds"] for row in outcome.rows)
    assert outcome.summary["rules_that_hold"] == outcome.summary["rules"] == 6
    top = results.isel(end_of_mode=(results.end == "top") & (results["mode"] == 1) & (results.side != "written"))
    assert (top.held == 1).all()
    assert (top.named == 1).all()
    assert (top.chance < 0.2).all()


def test_other_names_are_held_as_often_as_by_chance(outcome):
    """What is named must be what contexts hold: of names that are permuted few or none do."""
    kind = contexts.Kind("colour", np.eye(4), np.arange(4)[None].repeat(3, axis=0))
    probe, every = np.array([1.0, 0.9, 0.2, -2]), slice(None)
    less = kind._replace(name="less", directions=0.5 * np.eye(4))
    ((same, named),) = contexts._named([less, kind], probe, every)
    assert (same.name, named.tolist()) == ("colour", [0, 1])
    at = np.array([0, 1, 2, 2]), np.array([0, 0, 1, 3])
    held = {"kind": "colour", "named": 2, "held": 0.75, "chance": 0.5}
    assert contexts._held([(kind, named)], at, every) == held
    assert contexts._held([(kind, np.array([2]))], at, slice(-2, None))["held"] == 0
    assert contexts._held([(kind, np.array([2]))], at, slice(-2, None))["chance"] == 0.5


def test_values_that_nothing_has_are_not_named_and_those_of_two_kinds_may_be():
    kind = contexts.Kind("colour", np.eye(4), np.array([[1, 2, 3, 3]]))
    near = contexts.Kind("shape", 0.9 * np.eye(4), np.array([[-1, -1, 0, 1]]))
    probe = np.array([3.0, 1, 0, -1])
    assert [(k.name, v.tolist()) for k, v in contexts._named([kind], probe, slice(None))] == [("colour", [1])]
    found = contexts._named([near, kind], probe, slice(None))
    assert [(k.name, v.tolist()) for k, v in found] == [("colour", [1]), ("shape", [0])]
    held = contexts._held(found, (np.zeros(4, int), np.arange(4)), slice(None))
    assert held == {"kind": "colour or shape", "named": 2, "held": 0.5, "chance": 0.5}


@pytest.mark.slow
def test_contexts_of_trained_heads(tmp_path):
    outcome = contexts.main(["--out", str(tmp_path)])
    assert all(row["holds"] for row in outcome.rows)
    assert outcome.summary["highest_chance"] < 0.4

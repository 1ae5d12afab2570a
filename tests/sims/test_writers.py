"""Writers, on models whose weights are written by hand: nothing is trained."""

import json

import numpy as np
import pytest

from sims import writers
from sims.models.trained import Trained
from svtheory import InputError

MEMBERS, BACK, SCORE = 2, 40.0, 60.0
SMALL = ["--tasks", "induction", "--sequences", "64"]


def by_hand(recipe, reads_back=True):
    """An induction model: layer 0 copies the token before, or its own; layer 1 finds the one asked for."""
    shape, task = recipe.shape, recipe.given
    V, n, D, H = task.vocabulary, task.length, shape.dim, shape.head_dim
    token, position, before = np.arange(V), V + np.arange(n), V + n + np.arange(V)

    def read(rows, size):
        W = np.zeros((H, D))
        W[np.arange(len(rows)), rows] = size**0.5
        return W

    there = position if not reads_back else np.roll(position, 1)
    W = {
        "W_Q": [read(position, BACK), read(token, SCORE)],
        "W_K": [read(there, BACK), read(before, SCORE)],
        "W_V": [read(token, 1), read(token, 1)],
        "W_O": [read(before, 1).T, read(np.arange(V), 1).T],
    }
    W["W_K"][1][:V, position[0]] = -(SCORE**0.5)  # the first position has none before it, and copies itself
    made = {name: np.stack(x)[:, None] for name, x in W.items()}
    made |= {"W_E": np.eye(D)[:, token], "W_P": np.eye(D)[:, position], "W_U": np.zeros((1, V, D))}
    made["W_U"][0, :, :V] = np.eye(V)
    made["W_O"][1] *= 3  # beside the token asked for, which is there too
    parameters = {name: np.stack([x.astype(np.float32)] * MEMBERS)[None] for name, x in made.items()}
    return Trained(recipe, parameters, np.array([0]), 0.0, 0.0)


def test_the_writer_is_first_where_it_is_the_only_one(monkeypatch, tmp_path):
    monkeypatch.setattr(writers, "trained", lambda recipe, out: by_hand(recipe))
    outcome = writers.main([*SMALL, "--out", str(tmp_path)])
    (row,) = outcome.rows
    assert (row["models"], row["decisions"], row["answered"]) == (MEMBERS, 128, 1)
    assert row["first"] == 1
    assert row["holds"]
    assert row["score"] == pytest.approx(SCORE / 4, rel=1e-3)  # over sqrt(H)
    assert row["of it"] == pytest.approx(row["score"], rel=1e-3)
    assert 1 / 12 < row["chance"] < 1 / 5
    wrong = outcome.results.contribution.sel(at="wrong key", part="position before")
    assert float(abs(wrong).max()) < 1e-3 * row["score"]
    summary = json.loads((tmp_path / "writers" / "summary.json").read_text())
    assert (summary["rules"], summary["rules_that_hold"]) == (1, 1)


def test_models_that_do_not_find_the_key_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(writers, "trained", lambda recipe, out: by_hand(recipe, reads_back=False))
    with pytest.raises(SystemExit):
        writers.main([*SMALL, "--out", str(tmp_path)])


def test_other_tasks_are_refused():
    with pytest.raises(InputError, match="--tasks must be one of 'recall', 'induction', got 'largest'"):
        writers.Config(("largest",))

import json

import jax
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

from svtheory import HeadBundle, optimal_omega, save_heads
from svtheory.heads.hypotheses import read_at
from svtheory.instruments.asking import of_tokens
from svtheory.instruments.command import run as command
from svtheory.instruments.conditions import Request, asked_for, of_head
from svtheory.instruments.sources import Source
from svtheory.prediction.whitened import whiten

RNG = np.random.default_rng(0)
# of the sizes of the tests of criteria, whose compiled programs serve here too
X, Y = RNG.normal(size=(4, 7)), RNG.normal(size=(4, 6))
T = np.zeros((7, 6))
T[0, 1], T[2, 3] = 3.0, 2.0
ARRAYS = {"query_features": X, "key_features": Y, "target": T}
PROBABILITIES = {"query_probabilities": np.full(7, 0.3), "key_probabilities": np.full(6, 0.4)}
MOMENTS = {
    "query_mean": np.ones(7),
    "query_covariance": np.eye(7),
    "key_mean": np.zeros(6),
    "key_covariance": np.diag(1.0 + np.arange(6)),
}


def saved(tmp_path, **changes):
    """ARRAYS with changes, as an .npz file; None leaves an array out."""
    arrays = {name: array for name, array in {**ARRAYS, **changes}.items() if array is not None}
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


def run(path, *options):
    return command("conditions", [str(path), "--out", str(path.parent / "runs"), *options])


def refused(capsys, path, *options):
    with pytest.raises(SystemExit) as stop:
        run(path, *options)
    assert stop.value.code == 2
    assert not (path.parent / "runs").exists()
    return capsys.readouterr().err


def test_running_it_without_a_file_prints_an_example_and_leaves_everything(tmp_path, capsys):
    command("conditions", ["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for words in ("x_0 -> y_1", "|cos(u, x)|", "is an eigenvector", "margin", "promise", "chance"):
        assert words in printed
    folder = tmp_path / "conditions/example"
    assert json.loads((folder / "summary.json").read_text())["pairs"] == 1
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        assert stored.query_feature.values.tolist() == [0]
        assert {"T2", "T3", "T4", "T5", "T15", "T17", "T22"} == set(stored.theorem.values)
    assert (folder / "figures/conditions.png").stat().st_size > 0


def test_the_script_explains_its_file(capsys):
    with pytest.raises(SystemExit) as stop:
        command("conditions", ["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("SOURCE is", "query_features", "key_covariance", "--head-dim"):
        assert words in printed


def test_numbers_are_those_of_the_formula(tmp_path):
    """One pair and no law: cosines of duals with features (T1)."""
    one = T * (T == 3)
    outcome = run(saved(tmp_path, target=one))
    for side, F, index in (("query", X, 0), ("key", Y, 1)):
        dual = np.linalg.solve(F @ F.T, F[:, index])
        cosine = abs(dual @ F[:, index]) / np.linalg.norm(dual) / np.linalg.norm(F[:, index])
        assert outcome.summary[f"cosine_{side}_lowest"] == pytest.approx(cosine, rel=1e-9)
        (row,) = [row for row in outcome.rows if row["side"] == side and "is an eigenvector" in row["condition"]]
        assert row["promise"] == pytest.approx(cosine, rel=1e-9)


def test_orthonormal_features_hold_every_condition(tmp_path):
    outcome = run(
        saved(tmp_path, query_features=np.eye(4, 7), key_features=np.eye(4, 6), **PROBABILITIES, query_mean=None)
    )
    assert outcome.summary["cosine_query_lowest"] == pytest.approx(1)
    assert [row["margin"] > 0 for row in outcome.rows if "no mean" in row["condition"]] == [True, True]


@pytest.mark.parametrize(
    ("laws", "options", "theorems"),
    [(PROBABILITIES, ["--head-dim", "2"], {"T6", "T7"}), (MOMENTS, [], {"T6"})],
)
def test_safetensors_laws_and_options(tmp_path, laws, options, theorems):
    path = tmp_path / "arrays.safetensors"
    save_file({**ARRAYS, **laws}, path)
    outcome = run(path, "--objective", "softmax", "--query-bias", *options)
    assert {row["theorem"] for row in outcome.rows} >= theorems
    assert "a mean drops out: the tokens are centred" in [row["condition"] for row in outcome.rows]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"target": None}, [], "FILE must hold query_features, key_features, target, got one without target"),
        ({"weights": np.ones(2)}, [], "got also weights"),
        ({"target": np.ones((7, 4))}, [], r"target must have shape (7, 6)"),
        ({"query_features": X * np.nan}, [], "query_features must be finite"),
        (
            {name: ARRAYS[name].T for name in ("query_features", "key_features")},
            [],
            "which look transposed beside target",
        ),
        ({"key_features": np.array(["a", "b"])}, [], "FILE must hold real numbers, got key_features of type <U1"),
        ({"query_features": np.array([{"a": 1}], dtype=object)}, [], "FILE must hold whole arrays of numbers"),
        ({"query_mean": np.ones(6)}, [], "FILE must hold query_mean and query_covariance together"),
        ({**PROBABILITIES, **MOMENTS}, [], "query_probabilities or query_mean and query_covariance, got both"),
        ({"query_probabilities": np.full(7, 2.0)}, [], "probability must lie in (0, 1]"),
        (
            {},
            ["--objective", "softmax"],
            "FILE must hold the laws of query and key activations for --objective softmax",
        ),
        (
            {},
            ["--weight-decay", "0.5", "--head-dim", "1"],
            "head_dim must be no less than the rank of what",
        ),
        ({}, ["--head-dim", "0"], "head_dim must be a whole number of at least 1"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(tmp_path, capsys, changes, options, message):
    error = refused(capsys, saved(tmp_path, **changes), *options)
    assert message in error
    assert error.count("\n") == 1


def test_files_that_are_none(tmp_path, capsys):
    assert "got '" in refused(capsys, tmp_path / "absent.npz")
    (tmp_path / "arrays.txt").write_text("1 2 3")
    assert "FILE must be an existing .npz or .safetensors file" in refused(capsys, tmp_path / "arrays.txt")
    for name in ("broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not arrays")
        assert "FILE must hold whole arrays of numbers" in refused(capsys, tmp_path / name)


@pytest.fixture
def bundle(tmp_path):
    """One layer that reads a token, that before it and noise, one head with a query bias and one without."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, (30, 6))
    own, previous = rng.normal(size=(2, 3, 8))
    read = own[tokens] + 0.3 * rng.normal(size=(30, 6, 8)) + 0.5
    read[:, 1:] += previous[tokens[:, :-1]]
    W, b_Q = rng.normal(size=(2, 1, 2, 4, 8)), np.zeros((1, 2, 4))
    b_Q[0, 1, 0] = 1
    made = HeadBundle(W[0], W[1], b_Q, attn_in=read[None].astype(np.float32), others={"tokens": tokens})
    save_heads(tmp_path / "heads.safetensors", made)
    return made


@pytest.mark.parametrize("head", [0, 1])
def test_the_scenario_of_a_head_has_the_moments_of_what_it_reads(bundle, head):
    """And its optimum of full rank is that of the samples: `A^+ E[r f^T] T E[g s^T] B^+`, key side centred (T6)."""
    settings = Request(head=head, hypothesis="previous token", head_dim=8)
    with jax.enable_x64(True):
        made = of_head(bundle, settings)
        tokens = whiten(made)
        omega = np.asarray(optimal_omega(made))
    x, y = (read_at(bundle.attn_in[0], at).astype(float) for at in (slice(1, None), slice(None)))
    hypothesis = next(h for h in of_tokens(bundle, settings, 24) if h.name == "previous token")
    f, g = hypothesis.query_features.astype(float), hypothesis.key_features.astype(float)
    X, mean = np.asarray(made.query_features), np.asarray(made.query_law.mean())
    np.testing.assert_allclose(X @ mean, x.mean(axis=0), atol=1e-7)
    if head == 1:
        x, f = x - x.mean(axis=0), f - f.mean(axis=0)
    y, g = y - y.mean(axis=0), g - g.mean(axis=0)
    A, B = x.T @ x / len(x), y.T @ y / len(y)
    for side, moment in ((tokens.query, A), (tokens.key, B)):
        U, s = np.asarray(side.basis), np.asarray(side.scale)
        np.testing.assert_allclose((U * s**2) @ U.T, moment, atol=1e-6)
    expected = np.linalg.solve(A, x.T @ f / len(x)) @ hypothesis.template @ (g.T @ y / len(y)) @ np.linalg.inv(B)
    cosine = (omega * expected).sum() / np.linalg.norm(omega) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-8)


def test_a_source_is_a_model_or_a_file_of_arrays(bundle, tmp_path):
    made = asked_for(Source(source=str(tmp_path / "heads.safetensors")), Request(dtype="float32"))
    assert (made.objective, made.head_dim, made.query_bias) == ("softmax", 4, False)
    assert made.query_features.shape == (8, 3 + 8 + 1)
    save_file(ARRAYS, tmp_path / "arrays.safetensors")
    assert (
        asked_for(Source(source=str(tmp_path / "arrays.safetensors")), Request(dtype="float32")).objective == "square"
    )


@pytest.mark.slow
def test_the_conditions_of_a_head(bundle, tmp_path):
    outcome = command("conditions", [str(tmp_path / "heads.safetensors"), "--out", str(tmp_path)])
    assert outcome.results.query_feature.values.tolist() == [0, 1, 2]
    assert {"T6", "T7"} <= set(outcome.results.theorem.values)
    assert (tmp_path / "conditions/heads/results.nc").is_file()


def test_what_cannot_be_asked_of_a_head_is_named(bundle):
    for settings, message in (
        (Request(hypothesis="nothing"), "hypothesis must be one of 'same token', 'previous token', .* got 'nothing'"),
        (Request(head=2), "head must be a whole number from 0 to 1, got 2"),
        (Request(hypothesis="next larger number", numbers=3, member=9.0), "member must be one of 1, .* got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            of_head(bundle, settings)
    family = of_head(bundle, Request(hypothesis="next larger number", numbers=3, member=3.0, dtype="float32"))
    np.testing.assert_allclose(family.target[0, 1:3], np.exp([-1 / 3, -2 / 3]), rtol=1e-5)

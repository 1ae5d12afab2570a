import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

from svtheory import (
    HeadBundle,
    chance_alignment,
    kantorovich_bound,
    load_heads,
    save_heads,
)
from svtheory.heads.bundles import MODELS
from svtheory.instruments import spectra
from svtheory.instruments.command import run as command
from svtheory.instruments.moments import layer_moments
from svtheory.instruments.survey import by_head
from svtheory.instruments.token_bounds import token_bounds
from svtheory.prediction import training_condition_number

LAYERS, HEADS, H, D = 2, 3, 4, 8
SMALL = ["--resamples", "8", "--gaussians", "8"]
real_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads in {MODELS} (set SVTHEORY_REAL_MODELS)")


def run(bundle, out, *options):
    with jax.numpy_rank_promotion("raise"):
        return command("spectra", [str(bundle), "--out", str(out), *SMALL, *options])


def read(bundle):
    """What the command says of a bundle, without its folder and figures."""
    with jax.numpy_rank_promotion("raise"):
        found = spectra.survey(bundle, spectra.Settings(resamples=8, gaussians=8))
    return SimpleNamespace(results=found, rows=by_head(spectra.rows(found)), summary=spectra.summary(found))


def factors(values, seed):
    """W_Q, W_K of shape (H, D) whose product has the given singular values, and its singular vectors."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(D, H)))[0] for _ in range(2))
    return np.diag(values) @ U.T, V.T, U, V


def bundle(values=(4.0, 2.0, 1.0, 0.5), **options):
    made = [[factors(values, HEADS * layer + head) for head in range(HEADS)] for layer in range(LAYERS)]
    W_Q, W_K = (np.array([[head[i] for head in layer] for layer in made], np.float32) for i in (0, 1))
    return HeadBundle(W_Q, W_K, **options)


def tokens(kappa, seed=0, sequences=30, positions=20):
    """Tokens of (almost) the given condition number, with a mean, for each layer."""
    rng = np.random.default_rng(seed)
    roots = np.sqrt(np.geomspace(1, kappa, D))
    made = rng.normal(size=(LAYERS, sequences, positions, D)) * roots + 3 * rng.normal(size=D)
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def with_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    given = bundle(attn_in=tokens(20.0), metadata={"score_divisor": "5", "licence": "MIT"})
    save_heads(folder / "given.safetensors", given)
    return given, run(folder / "given.safetensors", folder), folder / "spectra/given"


def test_spectra_are_those_of_the_factors(with_inputs):
    _, outcome, _ = with_inputs
    raw = outcome.results.sel(reading="raw")
    assert outcome.summary["heads"] == len(outcome.rows) == LAYERS * HEADS
    assert outcome.summary["directions"] == outcome.summary["directions_named"] == LAYERS * HEADS * H
    assert raw.singular_value.values == pytest.approx(np.broadcast_to([4, 2, 1, 0.5], (2, 3, 4)), rel=1e-5)
    assert raw.gap.values == pytest.approx(np.broadcast_to([2, 1, 0.5, 0.5], (2, 3, 4)), rel=1e-4)
    p = np.array([4, 2, 1, 0.5]) / 7.5
    assert outcome.summary["effective_rank_median"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    for layer in range(LAYERS):
        for head in range(HEADS):
            *_, U, V = factors((4.0, 2.0, 1.0, 0.5), HEADS * layer + head)
            here = raw.sel(layer=layer, head=head)
            assert np.abs((here.query_pattern.values * U).sum(axis=0)) == pytest.approx(np.ones(H), abs=1e-5)
            assert np.abs((here.key_probe.values * V).sum(axis=0)) == pytest.approx(np.ones(H), abs=1e-5)


def test_the_largest_score_takes_the_largest_inputs(with_inputs):
    given, outcome, _ = with_inputs
    norms = np.linalg.norm(given.attn_in, axis=-1).max(axis=(1, 2))
    assert outcome.results.largest_score.values[:, 0] == pytest.approx(4 * norms**2 / 5, rel=1e-5)


def test_moments_and_bounds_by_hand(with_inputs):
    given, outcome, _ = with_inputs
    assert outcome.results.centred.values.tolist() == [[False, True]] * LAYERS
    for layer in range(LAYERS):
        flat = given.attn_in[layer].reshape(-1, D).astype(float)
        extremes = {}
        for side, moment in (("query", flat.T @ flat / len(flat)), ("key", np.cov(flat.T, bias=True))):
            m, *_, L = np.linalg.eigvalsh(moment)
            extremes[side] = m, L
            here = outcome.results.sel(layer=layer, side=side)
            assert float(here.condition) == pytest.approx(L / m, rel=1e-4)
            assert float(here.bound) == pytest.approx(2 * np.sqrt(L / m) / (1 + L / m), rel=1e-4)
            assert 0 < here.condition_standard_error < 0.3 * here.condition
        (m_r, L_r), (m_s, L_s) = extremes["query"], extremes["key"]
        rate, time = L_r * L_s, outcome.results.time.values
        assert float(outcome.results.fastest_rate[layer]) == pytest.approx(rate, rel=1e-4)
        for side, m, L, other in (("query", m_r, L_r, L_s), ("key", m_s, L_s, L_r)):
            kappa_t = training_condition_number(m * other, L * other, time / rate)
            found = outcome.results.sel(layer=layer, side=side).bound_at_time.values
            assert found == pytest.approx(np.asarray(kantorovich_bound(kappa_t)), rel=1e-4)


def test_balanced_values_patterns_and_probes_by_hand(with_inputs):
    """A^{1/2} Omega B^{1/2} in float64: values; what patterns and probes are to each other and to Omega."""
    given, outcome, _ = with_inputs
    for layer, head in ((0, 1), (1, 2)):
        flat = given.attn_in[layer].reshape(-1, D).astype(float)
        A, B = flat.T @ flat / len(flat), np.cov(flat.T, bias=True)
        W_Q, W_K = (W[layer, head].astype(float) for W in (given.W_Q, given.W_K))
        root = lambda M: np.linalg.cholesky(M)  # noqa: E731
        here = outcome.results.sel(layer=layer, head=head, reading="balanced")
        values = np.linalg.svd(root(A).T @ W_Q.T @ W_K @ root(B), compute_uv=False)[:H]
        assert here.singular_value.values == pytest.approx(values, rel=1e-4)
        names = ("query_pattern", "query_probe", "key_pattern", "key_probe")
        f_Q, p_Q, f_K, p_K = (here[name].values.astype(float) for name in names)
        for pattern, probe in ((f_Q, p_Q), (f_K, p_K)):
            assert pattern.T @ probe == pytest.approx(np.eye(H), abs=2e-4)
        Omega = W_Q.T @ W_K
        assert (p_Q * values) @ p_K.T == pytest.approx(Omega, abs=1e-4 * np.abs(Omega).max())


def test_errors_of_extreme_axes_are_those_of_all(monkeypatch):
    """Within 3 axes of 8 on either end, bootstrap errors are within a third of those of whole moments."""
    made = bundle(attn_in=tokens(20.0))
    whole = token_bounds(made, layer_moments(made), 0, 40)
    monkeypatch.setattr("svtheory.instruments.moments.EXTREMES", 3)
    few = token_bounds(made, layer_moments(made), 0, 40)
    for name in ("condition", "bound", "fastest_rate"):
        exact = whole[f"{name}_standard_error"]
        np.testing.assert_allclose(few[f"{name}_standard_error"], exact, rtol=1 / 3)
        assert not np.array_equal(few[f"{name}_standard_error"], exact)


def test_shorter_training_guarantees_more(with_inputs):
    _, outcome, _ = with_inputs
    bounds = outcome.results.bound_at_time
    assert float(bounds.isel(time=0).min()) > 0.999
    assert bool((bounds.diff("time") <= 1e-6).all())
    assert bounds.isel(time=-1).values == pytest.approx(outcome.results.bound.values, rel=1e-5)
    quoted = [outcome.summary[f"alignment_bound_lowest_cosine_after_{t}_time_constants"] for t in (1, 10, 100)]
    assert quoted == sorted(quoted, reverse=True)
    assert quoted[-1] >= outcome.summary["alignment_bound_lowest_cosine"]


@pytest.mark.slow
def test_standard_errors_are_those_of_new_sequences():
    """The spread over fresh sets of sequences, by bootstrap from one of them."""
    conditions = []
    for seed in range(10):
        made = bundle(attn_in=tokens(20.0, seed))
        results = token_bounds(made, layer_moments(made), seed, 40)
        conditions.append((results.condition.values[0, 1], results.condition_standard_error.values[0, 1]))
    values, errors = np.array(conditions).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.6)


def test_the_run_folder(with_inputs):
    _, outcome, folder = with_inputs
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["chance_cosine"] == chance_alignment(D)
    assert summary["tokens"] == 600
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        assert stored.attrs["licence"] == "MIT"
        assert stored.key_probe.shape == (LAYERS, HEADS, 2, D, H)
    assert {path.name for path in (folder / "figures").iterdir()} == {"spectra.png", "spectra.pdf"}
    assert "kappa, key" in (folder / "report.html").read_text()
    assert outcome.rows[0]["directions named"] == "4 of 4"


def test_directions_without_a_gap_are_never_given():
    """Equal values fix only a subspace; a gap below rounding names nothing."""
    outcome = read(bundle((4.0, 2.0, 2.0, 1e-7)))
    assert outcome.results.named.values[0, 0, 0].tolist() == [True, False, False, False]
    for vectors in (outcome.results.query_pattern, outcome.results.key_probe):
        assert np.isnan(vectors.values).all(axis=3)[0, 0, 0].tolist() == [False, True, True, True]
    assert outcome.rows[0]["directions named"] == "1 of 4"
    assert outcome.rows[0]["blocks"] == "2-3"
    assert outcome.results.block.values[0, 0, 0].tolist() == [1, 2, 2, 4]
    assert outcome.summary["blocks"] == LAYERS * HEADS
    assert outcome.rows[0]["rank"] == 3
    assert outcome.summary["directions_named"] == LAYERS * HEADS


def test_coarser_weights_name_less(tmp_path):
    close = bundle((4.0, 3.99, 1.0, 0.5))
    save_heads(tmp_path / "half.safetensors", HeadBundle(close.W_Q.astype(np.float16), close.W_K.astype(np.float16)))
    save_heads(tmp_path / "single.safetensors", close)
    half, single = (run(tmp_path / f"{name}.safetensors", tmp_path / name) for name in ("half", "single"))
    assert half.results.named.values[0, 0, 0].tolist() == [False, False, True, True]
    assert single.results.named.values.all()


def test_scores_are_divided_layer_by_layer():
    by_layer = ", ".join(str(2.0**layer) for layer in range(LAYERS))
    found, one = (
        read(bundle(metadata={"score_divisor": given})).results.largest_score.values for given in (by_layer, "1")
    )
    np.testing.assert_allclose(found, one / 2.0 ** np.arange(LAYERS)[:, None], rtol=1e-6)


def test_numerically_zero_is_a_matter_of_scores():
    """sigma_1 = 1e-8: zero for unit inputs, not for inputs of norm 100; never a direction."""
    tiny = bundle((1e-8, 5e-9, 2e-9, 1e-9))
    unit, large = read(tiny), read(HeadBundle(tiny.W_Q, tiny.W_K, attn_in=30 * tokens(2.0)))
    assert unit.summary["heads_numerically_zero"] == LAYERS * HEADS
    assert {row["directions named"] for row in unit.rows} == {"none: numerically zero"}
    assert np.isnan(unit.results.query_pattern).all()
    assert np.isnan(unit.results.gap).all()
    assert not unit.results.named.any()
    assert unit.rows[0]["sigma_1"] == pytest.approx(1e-8)
    assert large.summary["heads_numerically_zero"] == 0
    assert large.results.named.sel(reading="raw").all()


def test_a_zero_matrix(tmp_path):
    given = bundle()
    save_heads(tmp_path / "a.safetensors", HeadBundle(0 * given.W_Q, given.W_K))
    assert run(tmp_path / "a.safetensors", tmp_path).summary["heads_numerically_zero"] == LAYERS * HEADS


def test_tokens_on_a_subspace_have_the_condition_number_of_their_range():
    flat = tokens(20.0)
    flat[..., -1] = flat[..., 0]
    condition = read(bundle(attn_in=flat)).results.condition.sel(layer=0, side="key")
    values = np.linalg.eigvalsh(np.cov(flat[0].reshape(-1, D).T.astype(float)))
    assert float(condition) == pytest.approx(values[-1] / values[1], rel=1e-3)


def test_a_query_bias_that_is_not_zero_centres_the_queries_of_its_head():
    """All heads of layer 0 have one, in layer 1 only the last."""
    b_Q = np.zeros((LAYERS, HEADS, H), np.float32)
    b_Q[0, :, 1] = b_Q[1, -1, 0] = 0.1
    outcome = read(bundle(attn_in=tokens(20.0), b_Q=b_Q))
    condition = outcome.results.condition
    assert outcome.results.centred.values.tolist() == [[True, True], [False, True]]
    assert condition.sel(layer=0, side="query") == condition.sel(layer=0, side="key")
    assert condition.sel(layer=1, side="query") > 2 * condition.sel(layer=1, side="key")
    same = {tuple(map(int, row["head"].split("."))): row["kappa, query"] == row["kappa, key"] for row in outcome.rows}
    assert same == {(i, j): bool(b_Q[i, j].any()) for i in range(LAYERS) for j in range(HEADS)}


def test_a_bound_below_chance_is_called_so():
    inputs = tokens(20.0)
    inputs[1, ..., 0] *= 1000
    outcome = read(bundle(attn_in=inputs))
    expected = set()
    for layer, flat in enumerate(inputs.reshape(LAYERS, -1, D).astype(float)):
        for side, moment in (("query", flat.T @ flat / len(flat)), ("key", np.cov(flat.T, bias=True))):
            m, *_, L = np.linalg.eigvalsh(moment)
            if 2 * np.sqrt(L / m) / (1 + L / m) < chance_alignment(D):
                expected.add((layer, side))
    assert {(1, "query"), (1, "key")} <= expected < {(i, side) for i in range(LAYERS) for side in ("query", "key")}
    assert outcome.summary["layers_and_sides"] == 2 * LAYERS
    assert outcome.summary["layers_and_sides_bounded_below_chance"] == len(expected)
    sides = [(row, side) for row in outcome.rows for side in ("query", "key")]
    assert {
        (int(row["head"].split(".")[0]), side) for row, side in sides if "below chance" in row[f"bound, {side}"]
    } == expected


# trained heads of others


@real_models
def test_all_heads_of_tinystories(tmp_path):
    outcome = run("tinystories_260k", tmp_path)
    assert [row["head"] for row in outcome.rows] == [f"{i}.{j}" for i in range(4) for j in range(4)]
    assert outcome.summary["heads"] == 16
    assert outcome.summary["heads_numerically_zero"] == 0
    assert {row["directions named"] for row in outcome.rows} == {"16 of 16"}
    assert outcome.summary["alignment_bound_lowest_cosine"] > outcome.summary["chance_cosine"]
    given = load_heads(MODELS / "tinystories_260k.safetensors")
    exact = np.linalg.svd(given.W_Q[3, 2].astype(float).T @ given.W_K[3, 2].astype(float), compute_uv=False)[:16]
    found = outcome.results.singular_value.sel(layer=3, head=2, reading="raw").values
    assert found == pytest.approx(exact, abs=1e-5 * exact[0])
    flat = given.attn_in[3].reshape(-1, 64).astype(float)
    assert float(outcome.results.condition.sel(layer=3, side="key")) == pytest.approx(
        np.linalg.cond(np.cov(flat.T)), rel=1e-3
    )


@real_models
def test_a_head_that_decayed_is_zero_and_no_direction():
    outcome = read(load_heads(MODELS / "modadd59_p99zdpze5l.safetensors"))
    assert outcome.summary["heads_numerically_zero"] == outcome.summary["heads"] == 4
    assert outcome.summary["directions_named"] == 0
    assert {row["directions named"] for row in outcome.rows} == {"none: numerically zero"}
    assert 1e-36 < outcome.summary["sigma_1_highest"] < 1e-34
    assert np.isnan(outcome.results.query_pattern).all()


@real_models
def test_a_head_of_rank_one():
    outcome = read(load_heads(MODELS / "modadd59_l8k1hzciux.safetensors"))
    assert {(row["rank"], row["directions named"]) for row in outcome.rows} == {(1, "1 of 32")}
    assert all(row["effective rank"] == pytest.approx(1, abs=1e-3) for row in outcome.rows)


@real_models
def test_an_induction_head_names_its_strong_directions_only():
    named = read(load_heads(MODELS / "induction_ft000.safetensors")).results.named.sel(reading="raw")
    assert named.isel(pair=slice(0, 5)).all()
    assert not named.isel(pair=slice(40, None)).any()


# bad bundles


def save_arrays(path, **arrays):
    save_file(arrays, path)


W = bundle().W_Q
BAD = {
    "missing": (
        lambda path: None,
        "SOURCE must be a bundle's file, its name .*, the folder of a model or hf:ORG/MODEL, got '.*', which is none",
    ),
    "a folder": (lambda path: path.mkdir(), "config.json must be a JSON file in the checkpoint's folder, got "),
    "no safetensors": (lambda path: path.write_text("text " * 99), "bundle must be a whole safetensors file, got '"),
    "truncated": (
        lambda path: (save_heads(path, bundle()), path.write_bytes(path.read_bytes()[:-50])),
        "bundle must be a whole safetensors file, got '",
    ),
    "without W_K": (lambda path: save_arrays(path, W_Q=W), "bundle must hold W_Q and W_K, got '.*' without W_K"),
    "misshapen": (lambda path: save_arrays(path, W_Q=W, W_K=W[:1]), "W_K must have the shape of W_Q"),
    "not finite": (lambda path: save_arrays(path, W_Q=W, W_K=W / 0 * 0), "W_K must be finite, got 192 entries"),
    "equal tokens": (
        lambda path: save_heads(path, bundle(attn_in=np.stack([tokens(2.0)[0], np.ones((30, 20, D), np.float32)]))),
        "attn_in must hold tokens that differ, got equal ones in layer 1",
    ),
    "too large": (
        lambda path: save_arrays(path, W_Q=W * 1e30, W_K=W * 1e30),
        "W_Q and W_K must have singular values that float32 holds, got larger ones in head 0.0",
    ),
    "whole numbers": (lambda path: save_arrays(path, W_Q=W, W_K=W.astype(int)), "W_K must hold real floating-point"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")
def test_a_bad_bundle_is_one_sentence_and_leaves_nothing(tmp_path, capsys, kind):
    make, sentence = BAD[kind]
    make(tmp_path / "bad.safetensors")
    with pytest.raises(SystemExit) as stopped:
        command("spectra", [str(tmp_path / "bad.safetensors"), "--out", str(tmp_path / "new" / "runs")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert re.match(f"error: {sentence}", error)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--resamples", "1"], "--resamples must be a whole number of at least 2, got 1"),
        (["--gaussians", "0"], "--gaussians must be a whole number of at least 2, got 0"),
        ([], "SOURCE must be a bundle or the folder of a model, got none"),
    ],
)
def test_bad_options(tmp_path, capsys, options, sentence):
    with pytest.raises(SystemExit) as stopped:
        command("spectra", [*options, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not list(tmp_path.iterdir())


def test_every_source_has_a_folder_of_its_own(tmp_path, capsys):
    for name in ("a", "b"):
        save_heads(tmp_path / f"{name}.safetensors", bundle())
        run(tmp_path / f"{name}.safetensors", tmp_path)
        assert (tmp_path / "spectra" / name / "report.html").is_file()
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "b.safetensors", tmp_path, "--seed", "1")
    assert stopped.value.code == 2
    assert "holds a run with another configuration (seed 0 there, 1 here)" in capsys.readouterr().err


def test_as_a_script(tmp_path):
    save_heads(tmp_path / "a.safetensors", bundle())
    script = [
        sys.executable,
        "-m",
        "svtheory",
        "spectra",
        str(tmp_path / "a.safetensors"),
        "--out",
        str(tmp_path),
        *SMALL,
    ]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "4 of 4" in done.stdout
    assert (tmp_path / "spectra" / "a" / "summary.json").is_file()

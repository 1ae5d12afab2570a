"""The experiments on trained transformers: one small set of models, trained once, read by all."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sims import ablate, causes, share, transformer_align, transformer_training
from sims.models import trained_heads
from sims.models.trained import (
    SNAPSHOTS,
    Recipe,
    bundle,
    trained,
    transformer,
)
from sims.models.transformer import accuracy
from svtheory import InputError, load_heads, spectrum
from svtheory.checkpoints import forward, network
from svtheory.instruments import cause

SMALL = ["--tasks", "largest", "--members", "2", "--steps", "400", "--sequences", "128"]
EXTRA = {
    transformer_align: ["--draws", "9"],
    ablate: ["--random", "2"],
    causes: ["--random", "2", "--resamples", "100"],
    transformer_training: ["--draws", "19"],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("transformers")


@pytest.fixture(scope="module")
def outcomes(out):
    return {module.__name__: module.main([*SMALL, *extra, "--out", str(out)]) for module, extra in EXTRA.items()}


@pytest.fixture(scope="module")
def models(out, outcomes):
    return trained(Recipe("largest", members=2, steps=400), out)


def test_models_are_trained_once_and_snapshots_are_those_of_one_training(out, models):
    assert len(list((out / "transformers").iterdir())) == 1
    assert models.steps.tolist() == [0, *(4 * SNAPSHOTS)]
    assert {len(x) for x in models.parameters.values()} == {len(models.steps)}
    assert models.processor_seconds > 0
    moved = [np.abs(x[1:] - x[:-1]).max(axis=tuple(range(2, x.ndim))) for x in models.parameters.values()]
    assert (np.max(moved, axis=0) > 0).all()


def test_models_are_trained_by_one_process_at_a_time(tmp_path, monkeypatch):
    """Experiments share their models: a second one that needs them now would train in, and remove, one checkpoint."""
    recipe = Recipe("largest", members=2, steps=400)
    monkeypatch.setattr("sims.models.trained._train", lambda recipe, checkpoint: trained(recipe, tmp_path))
    with pytest.raises(InputError, match=r"checkpoint must be free, got one in which another process runs"):
        trained(recipe, tmp_path)


def test_alignment(out, outcomes):
    outcome = outcomes["sims.transformer_align"]
    summary = json.loads((out / "transformer_align" / "summary.json").read_text())
    keys = {"median_functional_cosine", "share_with_margin", "median_weight_cosine", "unexplained_share", "heads"}
    assert keys <= set(summary)
    assert summary["heads"] == 2
    assert summary["members_learned_plain_largest"] <= 2
    with xr.open_dataset(out / "transformer_align" / "results.nc", engine="h5netcdf") as stored:
        rivals = stored.hypothesis_cosine.drop_sel(hypothesis="larger").max("hypothesis")
        np.testing.assert_allclose(stored.lead, stored.functional_cosine - rivals, atol=1e-6)
        assert (stored.query_side == "uncentred").all()
        assert (stored.functional_cosine > 0.5).all()
    *rows, last = outcome.rows
    assert {row["match"] for row in rows} == {"larger"}
    assert (last["task"], last["heads"]) == ("all", 2)


def test_bundles_hold_what_the_models_compute(out, models):
    sampled = models.recipe.given.sample(jax.random.key(5), 128)
    seen = trained_heads.run_on(models, 1, sampled)
    made = bundle(models, 1, seen.reads)
    head, reading = made.head(0, 0), seen.heads[0]
    tokens = np.asarray(made.attn_in[0])
    scores = head.queries(tokens[:, -1], jnp.full(128, 6))[:, None] @ head.keys(
        tokens, jnp.broadcast_to(jnp.arange(7)[None], (128, 7))
    ).swapaxes(1, 2)
    pattern = jax.nn.softmax(scores[:, 0] / head.divisor, axis=-1)
    np.testing.assert_allclose(pattern.T, reading.pattern[0], atol=1e-5)
    stored = load_heads(out / "transformer_align" / "bundles" / "largest_plain_1.safetensors")
    np.testing.assert_array_equal(stored.W_Q, made.W_Q)
    assert json.loads(stored.metadata["recipe"])["task"] == "largest"
    tokens = np.asarray(sampled.tokens[0]).T
    kept = bundle(models, 1, seen.reads, tokens=sampled.tokens)
    answered = forward(network(kept), tokens).logits[:, -1].argmax(axis=1) == np.asarray(sampled.answers[0])
    assert answered.mean() == pytest.approx(seen.accuracy[0])


def test_reading_by_definition(models):
    sampled = models.recipe.given.sample(jax.random.key(6), 128)
    seen = trained_heads.run_on(models, 0, sampled)
    (reading,) = seen.heads
    right = np.asarray(sampled.right["larger"][-1])
    expected = np.mean([reading.pattern[0, right[b], b] for b in range(128)])
    np.testing.assert_allclose(reading.attention("larger"), expected, rtol=1e-6)
    D = reading.reads.shape[0]
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(D, 3)))[0].astype(np.float32) for _ in range(2))
    weights = models.model(0)
    weights["W_Q"] = np.asarray(weights["W_Q"]) @ (np.eye(D, dtype=np.float32) - U @ U.T)
    weights["W_K"] = np.asarray(weights["W_K"]) @ (np.eye(D, dtype=np.float32) - V @ V.T)
    trace = jax.jit(lambda tokens: transformer(models.recipe, weights).trace(tokens))(sampled.tokens)
    after = trained_heads.ablated(models, reading, jnp.asarray(U)[None], jnp.asarray(V)[None])
    lost = np.mean([trace.patterns[0][0, 0, right[b], b] for b in range(128)])
    np.testing.assert_allclose(after[0][0], lost, atol=1e-5)
    np.testing.assert_allclose(after[1][0], accuracy(trace.logits, sampled.answers).mean(), atol=1e-6)


def test_ablation(out, outcomes):
    summary = json.loads((out / "ablate" / "summary.json").read_text())
    results = outcomes["sims.ablate"].results
    lost = (results.intact_attention - results.attention).mean("row")
    ratio = lost.sel(kind="predicted") / lost.sel(kind="random")
    np.testing.assert_allclose(summary["effect_ratio"], ratio.min(), rtol=1e-5)
    assert summary["effect_ratio_low"] <= summary["effect_ratio"]
    # the match is of rank one: further predicted directions do not exist, and removing it is the end of the match
    attention = results.attention.sel(kind="predicted")
    np.testing.assert_allclose(attention.isel(removed=0), attention.isel(removed=2), atol=1e-6)
    assert (attention < 0.5).all()


def test_causes(out, outcomes):
    """The match is of rank one: its first mode is the match, a silent head's costs nothing."""
    results, summary = outcomes["sims.causes"].results, json.loads((out / "causes" / "summary.json").read_text())
    lost = results.effect.sel(measure="attention")
    assert (lost.sel(removed="mode 1") > 0.4).all()
    assert (lost.sel(removed=["same variance", "isotropic"]) < lost.sel(removed="mode 1") / 3).all()
    assert (results.variance.sel(removed="mode 1") > 0.9).all()
    assert (results.control.sel(of_control="W_O = 0", measure="loss") == 0).all()
    assert (results.control.sel(of_control="W_O = 0", measure="attention") > 0.4).all()
    ratio = lost.sel(removed="mode 1").mean() / lost.sel(removed="isotropic").mean()
    np.testing.assert_allclose(summary["ratio_mode_1_over_isotropic"], ratio, rtol=1e-5)
    assert [row["holds"] for row in outcomes["sims.causes"].rows if row["task"] == "W_O = 0"] == [True]


def test_cause_and_ablation_agree(models):
    """Singular vectors gone from what a head reads: of one pass as of the other."""
    sampled = models.recipe.given.sample(jax.random.key(8), 128)
    run = trained_heads.run_on(models, 0, sampled)
    (head,) = run.heads
    found = spectrum(head.weights.W_Q, head.weights.W_K)
    U, V = (np.asarray(x)[:, :1] for x in (found.left, found.right))
    lost = trained_heads.ablated(models, head, [0 * U, U], [0 * V, V])[0]
    given = bundle(models, 0, run.reads, tokens=sampled.tokens)
    settings = cause.Settings(ablation="zero", modes=1, draws=2, resamples=100)
    right = np.asarray(sampled.right["larger"]).T
    seen = cause.survey(given, settings=settings, keys=right).effect_mean.sel(direction="raw vector 1")
    np.testing.assert_allclose(seen.sel(effect="attention").item(), lost[0] - lost[1], atol=1e-6)
    assert lost[0] - lost[1] > 0.1


def test_removals_are_orthonormal_directions_of_the_right_spaces(models):
    sampled = models.recipe.given.sample(jax.random.key(7), 128)
    (reading,) = trained_heads.run_on(models, 0, sampled).heads
    found = trained_heads.explanation(reading, models.recipe.given.hypotheses["larger"], "larger", jax.random.key(0), 1)
    removals = ablate._removals(found, 2, jax.random.key(1), 3)
    for kind, number, rank in (("predicted", 1, 1), ("random", 3, 2), ("inside", 3, 1), ("next pairs", 1, 2)):
        for side in removals[kind]:
            assert side.shape == (number, 64, 2)
            for A in np.asarray(side):
                np.testing.assert_allclose(A.T @ A, np.diag([1, rank - 1]), atol=1e-5)
    np.testing.assert_allclose(np.abs(removals["inside"][0][0, :, 0] @ found.predicted.left[:, 0]), 1, atol=1e-5)
    np.testing.assert_allclose(removals["next pairs"][1][0, :, 0], found.measured.right[:, 2])


def test_training(outcomes):
    results = outcomes["sims.transformer_training"].results
    assert results.sizes["step"] == 21
    assert all(np.isfinite(x).all() for x in results.data_vars.values() if x.dims == ("row", "step"))
    assert (results.attention.isel(step=0) < 0.5).all()
    assert (results.attention.isel(step=-1) >= trained_heads.ATTENDS).all()
    assert (results.accuracy.isel(step=-1) > 0.9).all()


def test_when_something_is_kept():
    steps = np.array([0, 10, 20, 30])
    assert transformer_training.first_kept(np.array([False, True, False, True]), steps) == 30
    assert transformer_training.first_kept(np.array([True] * 4), steps) == 0
    assert np.isnan(transformer_training.first_kept(np.array([True, False, False, False]), steps))
    assert transformer_training.rank_correlation(steps, np.array([1.0, 5, 6, 100])) == pytest.approx(1)
    assert np.isnan(transformer_training.rank_correlation(steps[:2], steps[:2]))
    head = {"accuracy": np.array([0.1, 0.5, 0.99, 1]), "functional_cosine": np.array([0.9, 0.4, 0.5, 0.9])}
    assert transformer_training.read_while(head, steps).tolist() == [False, False, True, False]


def test_share(tmp_path):
    outcome = share.main(
        ["--heads", "2", "--members", "2", "--steps", "100", "--sequences", "64", "--out", str(tmp_path)]
    )
    assert [row["heads"] for row in outcome.rows] == [2]
    assert outcome.results.attention.sizes == {"heads": 1, "member": 2, "head": 2, "match": 4}


def test_effective_matches_by_definition():
    """One match alone, three alike and one opposed, none, and a head that is not there."""
    cosines = [[0.9, 0, 0, 0], [0.5, 0.5, 0.5, -0.7], [-0.1, -0.2, 0, 0], [np.nan] * 4]
    results = xr.Dataset({"functional_cosine": (("head", "match"), np.array(cosines))})
    np.testing.assert_allclose(share.effective_matches(results), [1, 3, np.nan, np.nan])


def test_predicted_accuracy_of_shared_heads_by_definition():
    """Heads answer by the most common of the answers that they cannot tell apart."""
    sampled = Recipe("many_attributes").given.sample(jax.random.key(0), 200)
    answers = np.asarray(sampled.answers)
    for heads, groups in ((1, [[0, 1, 2, 3]]), (2, [[0, 1], [2, 3]]), (3, [[0, 1], [2], [3]])):
        right = 0
        for b in range(200):
            for group in groups:
                of_group = answers[group, b].tolist()
                guess = max(of_group, key=of_group.count)
                right += of_group.count(guess)
        np.testing.assert_allclose(share.predicted_accuracy(sampled, heads), right / 800)
    assert share.predicted_accuracy(sampled, 4) == 1


WRONG = [
    (transformer_align, ["--tasks", "sorting"], "--tasks must be one of"),
    (transformer_align, ["--variants", "deep"], "--variants must be one of"),
    (transformer_align, ["--steps", "30"], "--steps must be a multiple of 100"),
    (transformer_align, ["--draws", "0"], "--draws must be a whole number of at least 1"),
    (ablate, ["--members", "1"], "--members must be a whole number of at least 2"),
    (ablate, ["--random", "0"], "--random must be a whole number of at least 1"),
    (transformer_training, ["--draws", "2"], "--draws must be a whole number of at least 19"),
    (share, ["--heads", "2", "2"], "--heads must be distinct numbers"),
    (share, ["--heads", "0"], "--heads must be whole numbers of at least 1"),
]


@pytest.mark.parametrize(("module", "options", "message"), WRONG)
def test_wrong_options(tmp_path, capsys, module, options, message):
    with pytest.raises(SystemExit) as stopped:
        module.main([*options, "--out", str(tmp_path / "runs")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "message"), [({"rate": 0.0}, "--rate must"), ({"decay": -1.0}, "--decay must")])
def test_wrong_recipes(given, message):
    with pytest.raises(InputError, match=message):
        Recipe("largest", **given)

"""What every public function, heads apart, makes of arrays as people have them: the right value, or one sentence."""

import inspect
from decimal import Decimal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import svtheory
from svtheory import (
    BernoulliUniform,
    Gaussian,
    OneHot,
    Scenario,
    spectrum,
)
from svtheory.geometry import tightness
from svtheory.prediction import projected_profile

KEY = jax.random.key(0)
FRAME = np.array([[1.0, -2.0, 0.5], [0.25, 1.0, 3.0]], np.float32)
SQUARE = np.array([[2.0, 0.5], [0.5, 1.0]], np.float32)
ROW = np.array([3.0, 2.0, 0.5], np.float32)
NUMBER = np.array(1.5, np.float32)
PLANE = Scenario(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.diag(np.float32([2, 1])))

# name: what takes an array, and such an array; a name with a dot for its further arguments
TAKE = {
    "Scenario": (lambda X: Scenario(X, FRAME, np.eye(3)).query_features, FRAME),
    "Scenario.key_features": (lambda Y: Scenario(FRAME, Y, np.eye(3)).key_features, FRAME),
    "Scenario.target": (lambda T: Scenario(SQUARE, SQUARE, T).target, SQUARE),
    "Scenario.weight_decay": (lambda g: Scenario(SQUARE, SQUARE, SQUARE, weight_decay=g).weight_decay, NUMBER),
    "BernoulliUniform": (lambda p: BernoulliUniform(p, 3).mean(), ROW / 4),
    "OneHot": (lambda p: OneHot(2, p).mean(), np.float32([0.25, 0.75])),
    "Gaussian": (lambda m: Gaussian(m, np.eye(3)).mean(), ROW),
    "Gaussian.scatter": (lambda V: Gaussian(np.zeros(2), V).covariance(), SQUARE),
    "spectrum": (lambda W: spectrum(W, FRAME).values, FRAME),
    "spectrum.W_K": (lambda W: spectrum(FRAME, W).values, FRAME),
    "compare.tolerance": (
        lambda tau: svtheory.compare(spectrum(SQUARE, SQUARE), spectrum(SQUARE, SQUARE), tolerance=tau).left,
        NUMBER,
    ),
    "compare": (lambda X: svtheory.compare(spectrum(SQUARE, SQUARE), spectrum(SQUARE, SQUARE), (X, X)).left, FRAME),
    "alignment": (lambda u: svtheory.alignment(u, FRAME), FRAME),
    "alignment.features": (lambda X: svtheory.alignment(FRAME, X), FRAME),
    "alignment_p_value": (lambda c: svtheory.alignment_p_value(c, 5), ROW / 4),
    "best_matching": (lambda table: svtheory.spectra.best_matching(table)[1], FRAME),
    "principal_cosines": (lambda A: svtheory.spectra.principal_cosines(A, SQUARE), SQUARE),
    "principal_cosines.B": (lambda B: svtheory.spectra.principal_cosines(SQUARE, B), SQUARE),
    "sampled_chance": (lambda V: svtheory.sampled_chance(KEY, V, FRAME, 10)[0], SQUARE),
    "sampled_chance.features": (lambda X: svtheory.sampled_chance(KEY, SQUARE, X, 10)[0], FRAME),
    "cyclic_spectrum": (lambda g: svtheory.prediction.cyclic_spectrum(g).values, ROW),
    "balanced_spectrum": (lambda W: svtheory.balanced_spectrum(W, W, np.eye(3), np.eye(3)).values, FRAME),
    "balanced_spectrum.W_K": (lambda W: svtheory.balanced_spectrum(FRAME, W, np.eye(3), np.eye(3)).values, FRAME),
    "balanced_spectrum.query_moment": (
        lambda A: svtheory.balanced_spectrum(SQUARE, SQUARE, A, np.eye(2)).values,
        SQUARE,
    ),
    "readings": (lambda W: svtheory.spectra.readings(W, W, np.eye(3), np.eye(3))["unwhitened"].values, FRAME),
    "readings.query_moment": (
        lambda A: svtheory.spectra.readings(SQUARE, SQUARE, A, np.eye(2))["unwhitened"].values,
        SQUARE,
    ),
    "block_labels": (svtheory.spectra.block_labels, ROW),
    "block_sums": (lambda c: svtheory.spectra.block_sums(c, np.array([0, 0, 1])), ROW),
    "block_cosines": (lambda u: svtheory.spectra.block_cosines(u, np.arange(3), FRAME), FRAME),
    "block_cosines.features": (lambda X: svtheory.spectra.block_cosines(SQUARE, np.arange(2), X), FRAME),
    "relu_energy": (lambda W: svtheory.relu_energy(W, 1.0), FRAME / 4),
    "relu_energy.coupling": (lambda g: svtheory.relu_energy(np.eye(2), g), ROW),
    "relu_energy.biases": (lambda b: svtheory.relu_energy(np.eye(3), 1.0, b), ROW / 4),
    "best_biases": (svtheory.geometry.best_biases, FRAME / 4),
    "unwhiten": (lambda v: svtheory.unwhiten(v, SQUARE), SQUARE),
    "unwhiten.covariance": (lambda K: svtheory.unwhiten(SQUARE, K), SQUARE),
    "unwhiten.mean": (lambda m: svtheory.unwhiten(SQUARE, SQUARE, m), ROW[:2]),
    "conditioned_frame": (lambda k: svtheory.conditioned_frame(KEY, 2, 3, k), NUMBER),
    "worst_case_frame": (lambda k: svtheory.worst_case_frame(KEY, 3, 4, k), NUMBER),
    "extremal_pair": (svtheory.geometry.extremal_pair, NUMBER),
    "frame_with_spectrum": (lambda values: svtheory.geometry.frame_with_spectrum(KEY, values, 4), ROW),
    "tegum": (lambda block: svtheory.geometry.tegum(block, SQUARE), FRAME),
    "kantorovich_bound": (svtheory.kantorovich_bound, ROW),
    "noise_deviation": (lambda v: svtheory.prediction.noise_deviation(v, 9, (2, 2)), ROW),
    "noise_deviation.n": (lambda n: svtheory.prediction.noise_deviation(1.0, n, (1, 1)), ROW),
    "hiding_threshold": (lambda nu: svtheory.prediction.hiding_threshold(nu, (2, 3)), NUMBER),
    "cosines_in_noise": (lambda s: svtheory.prediction.cosines_in_noise(s, 0.1, (2, 3))[0], ROW),
    "cosines_in_noise.deviation": (lambda nu: svtheory.prediction.cosines_in_noise(9.0, nu, (2, 3))[1], ROW),
    "growth": (lambda t: svtheory.growth(PLANE, t, 0.1), ROW),
    "growth.start": (lambda a: svtheory.growth(PLANE, np.ones(2), a), NUMBER),
    "half_times": (lambda a: svtheory.half_times(PLANE, a), NUMBER / 16),
    "mode_start": (lambda W: svtheory.prediction.mode_start(PLANE, W, SQUARE), SQUARE),
    "mode_start.W_K": (lambda W: svtheory.prediction.mode_start(PLANE, SQUARE, W), SQUARE),
    "imbalance": (lambda W: svtheory.prediction.imbalance(W, SQUARE), SQUARE),
    "imbalance.W_K": (lambda W: svtheory.prediction.imbalance(SQUARE, W), SQUARE),
    "imbalance.weight_decay": (lambda g: svtheory.prediction.imbalance(FRAME, SQUARE @ FRAME, g, 1.0), NUMBER),
    "imbalance.time": (lambda t: svtheory.prediction.imbalance(FRAME, SQUARE @ FRAME, 0.5, t), NUMBER),
    "filtered_optimum": (lambda t: svtheory.filtered_optimum(PLANE, t), NUMBER),
    "filtered_optimum.start": (lambda W: svtheory.filtered_optimum(PLANE, 1.0, W), SQUARE),
    "filtered_optimum.omega_decay": (lambda g: svtheory.filtered_optimum(PLANE, 1.0, None, g), NUMBER),
    "training_condition_number": (lambda m: svtheory.prediction.training_condition_number(m, 4.0, 1.0), NUMBER),
    "training_condition_number.largest": (lambda L: svtheory.prediction.training_condition_number(1.0, L, 1.0), NUMBER),
    "training_condition_number.time": (lambda t: svtheory.prediction.training_condition_number(1.0, 4.0, t), NUMBER),
    "training_condition_numbers": (lambda t: svtheory.prediction.training_condition_numbers(PLANE, t)[0], NUMBER),
    "pair_structure": (lambda tau: svtheory.criteria.pair_structure(PLANE, tau).values, NUMBER),
    "star_alignment": (lambda Y: svtheory.criteria.star_alignment(Y, np.ones(3)), FRAME),
    "star_alignment.strengths": (lambda t: svtheory.criteria.star_alignment(FRAME, t), ROW),
    "phase_energy": (lambda W: svtheory.geometry.phase_energy(W, 2.0), FRAME),
    "phase_energy.coupling": (lambda g: svtheory.geometry.phase_energy(FRAME, g), NUMBER),
    "stationary_arrangements": (lambda g: svtheory.geometry.stationary_arrangements(6, 4, g).energy[0], NUMBER),
    "lowest_arrangement": (lambda g: svtheory.geometry.lowest_arrangement(6, 4, g)[1].energy, NUMBER),
    "exact_minimum": (lambda g: svtheory.geometry.exact_minimum(6, 4, g).energy, NUMBER),
    "polytopes.tolerance": (lambda tau: svtheory.polytopes(FRAME, tau).vertices, NUMBER),
    "tight_groups.tolerance": (lambda tau: svtheory.geometry.tight_groups(FRAME, tau).eigenvalues, NUMBER),
    "value_groups.tolerance": (lambda tau: svtheory.spectra.value_groups(ROW, tau), NUMBER),
    "polytopes": (lambda X: svtheory.polytopes(X).vertices, FRAME),
    "wedin_bound": (
        lambda e: svtheory.wedin_bound(spectrum(SQUARE, FRAME[:, :2]), spectrum(SQUARE, SQUARE), e),
        NUMBER,
    ),
    "wedin_own_bound": (lambda e: svtheory.spectra.wedin_own_bound(spectrum(SQUARE, SQUARE), e), NUMBER / 4),
    "nameable": (lambda e: svtheory.nameable(spectrum(SQUARE, SQUARE), e), NUMBER),
    "rotary_head": (lambda W: svtheory.rotary_head(W, SQUARE, ROW[:1], "adjacent").omega(1), SQUARE),
    "rotary_head.W_K": (lambda W: svtheory.rotary_head(SQUARE, W, ROW[:1], "adjacent").omega(1), SQUARE),
    "rotary_head.frequencies": (lambda a: svtheory.rotary_head(np.eye(6), np.eye(6), a, "adjacent").omega(1), ROW),
    "projected_profile": (lambda g: projected_profile(g, ROW[:1], np.arange(3.0)), ROW),
    "projected_profile.frequencies": (
        lambda a: projected_profile(np.ones(3), a, np.arange(3.0)),
        ROW,
    ),
    "projected_profile.offsets": (lambda d: projected_profile(np.ones(3), ROW[:1], d), ROW),
    "projected_profile.weights": (
        lambda w: projected_profile(ROW, ROW[:1], np.arange(3.0), w),
        ROW,
    ),
    "rotary_spectra": (
        lambda g: (
            svtheory.rotary_spectra(
                Scenario(np.eye(2), np.eye(2), svtheory.single_pair(2, 2, 0, 1)), g, ROW[:1], np.arange(3.0)
            ).values
        ),
        ROW,
    ),
    "plane_cost": (lambda a: svtheory.prediction.plane_cost(a, np.arange(3.0)), NUMBER),
    "plane_cost.offsets": (lambda d: svtheory.prediction.plane_cost(0.5, d), ROW),
    "single_pair": (lambda t: svtheory.single_pair(2, 3, 0, 1, t), NUMBER),
    "matching": (lambda t: svtheory.matching(3, 3, [0, 1, 2], [0, 1, 2], t), ROW),
    "pair_values": (lambda X: tightness.pair_values(X, FRAME, np.eye(3)), FRAME),
    "pair_values.Y": (lambda Y: tightness.pair_values(FRAME, Y, np.eye(3)), FRAME),
    "pair_values.target": (lambda T: tightness.pair_values(SQUARE, SQUARE, T), SQUARE),
    "quantised_values": (lambda X: tightness.quantised_values(X, FRAME, np.eye(3)), FRAME),
    **{name: (getattr(svtheory.spectra, name), ROW) for name in ("effective_rank", "value_gaps", "value_groups")},
    **{
        name: (getattr(svtheory.geometry, name), FRAME)
        for name in (
            *("frame_operator", "dual_frame", "leverage", "feature_dimensionality", "frame_bounds", "spread"),
            *("condition_number", "frame_potential", "alignment_bound", "local_alignment_bound"),
            *("eigenvector_residual", "tight_groups"),
        )
    },
}
# They take scenarios, spectra, numbers of things or keys, and no other arrays.
TAKE_NONE = {
    *("conditions", "predict", "optimal_omega", "mode_strengths", "correlations", "probes"),
    *("mixed_gaps", "chance_alignment", "adaptive_threshold", "collapse_threshold", "relu_states", "relu_thresholds"),
    *("predict_finite", "predict_drift", "finite_error", "sampling_error", "order_spectrum"),
    *("order", "shift", "categories", "read_model"),
    *("orthogonalization_threshold", "polytope_name", "antipodal", "orthonormal", "polygon", "simplex", "tight_frame"),
}


class Parameter:
    """As torch.nn.Parameter behaves: numpy gets its numbers from what `detach` returns, and a refusal from itself."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self.array

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


class Refusing(Parameter):
    """As a tensor of an accelerator, or of torch.bfloat16, behaves."""

    def detach(self):
        return self

    def __repr__(self):
        return "tensor([[1., 2.],\n        [3., 4.]], device='cuda:0')"


def with_entry(array, entry, dtype=object):
    changed = np.array(array, dtype)
    changed.flat[0] = entry
    return changed


BAD = {
    "text": lambda a: "text",
    "none in it": lambda a: with_entry(a, None).tolist() if a.ndim else object(),
    "complex": lambda a: a.astype(complex),
    "truth": lambda a: a > 0,
    "dates": lambda a: a.astype("M8[D]"),
    "decimal": lambda a: with_entry(a, Decimal(1)),
    "truth among numbers": lambda a: with_entry(a, True),
    "nan": lambda a: with_entry(a, np.nan, np.float32),
    "beyond every float": lambda a: with_entry(a, 10**400),
    "beyond float32": lambda a: with_entry(a, 1e300, np.float64),
    "vanishing in float32": lambda a: np.full(a.shape, 1e-60),
    "masked": lambda a: np.ma.array(a, mask=with_entry(np.zeros(a.shape), True, bool)),
    "masked in a list": lambda a: [np.ma.array(a, mask=True)],
    "ragged": lambda a: [1.0, [1.0, 2.0]],
    "empty": lambda a: np.zeros((0,) * max(a.ndim, 1)),
    "a tensor that refuses": lambda a: Refusing(a),
    "keys": lambda a: KEY,
}
GOOD = {
    "float16": lambda a: a.astype(np.float16),
    "bfloat16": lambda a: a.astype(jnp.bfloat16),
    "bfloat16 of jax": lambda a: jnp.asarray(a, jnp.bfloat16),
    "lists": lambda a: a.tolist(),
    "float64": lambda a: a.astype(float),
    "a parameter": Parameter,
    "xarray": xr.DataArray,
    "masked nowhere": np.ma.asarray,
    "jax": jnp.asarray,
}


@pytest.mark.parametrize("name", TAKE)
def test_bad_arrays_are_refused_in_one_sentence(name):
    function, array = TAKE[name]
    for kind, bad in BAD.items():
        with pytest.raises((TypeError, svtheory.InputError)) as refused:
            function(bad(array))
        sentence = str(refused.value)
        assert " must " in sentence, (kind, sentence)
        assert "\n" not in sentence
        assert len(sentence) < 300


@pytest.mark.parametrize("name", TAKE)
def test_good_arrays_give_the_value_of_float32(name):
    function, array = TAKE[name]
    wanted = jax.tree.leaves(function(array))
    for kind, good in GOOD.items():
        found = jax.tree.leaves(function(good(array)))
        for a, b in zip(found, wanted, strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype, kind
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True), kind


def functions(*spaces):
    """The public functions of these, by name; a compiled one is no inspect.isfunction."""
    things = {name: getattr(space, name) for space in spaces for name in space.__all__}
    return {name: thing for name, thing in things.items() if callable(thing) and not inspect.isclass(thing)}


THEORY = (svtheory, svtheory.geometry, svtheory.spectra, svtheory.prediction, svtheory.criteria)


def test_every_public_function_is_among_them():
    public = set(functions(*THEORY)) - set(svtheory.heads.__all__)
    assert public - TAKE_NONE - {name.partition(".")[0] for name in TAKE} == set()
    assert public >= TAKE_NONE


LAW = BernoulliUniform(0.5, 2)
SPARSE = Scenario(SQUARE, SQUARE, np.float32([[0, 1], [0, 0]]), LAW, LAW, "softmax")
NUMBERS = {
    "samples": 10,
    "n": 100,
    "draws": 3,
    "dim": 4,
    "n_features": 4,
    "condition": 2.0,
    "error": 0.1,
    "shape": (2,),
}
SAMPLES = {f"{type(law).__name__}.sample": law.sample for law in (LAW, OneHot(2), Gaussian(np.zeros(2), np.eye(2)))}


def objects(function):
    """Good values of the arguments that are a scenario, a spectrum or a key."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation in (Scenario, svtheory.Spectrum):
            yield name, SPARSE if parameter.annotation is Scenario else spectrum(SQUARE, SQUARE)
        elif name == "key" and parameter.annotation is jax.Array:
            yield name, KEY


ASKED = {
    f"{name}, {argument}": (function, argument)
    for name, function in (functions(*THEORY, svtheory.heads) | SAMPLES).items()
    for argument, _ in objects(function)
}


@pytest.mark.parametrize("place", ASKED)
def test_what_is_no_scenario_spectrum_or_key_is_refused_in_one_sentence(place):
    function, argument = ASKED[place]
    needed = [name for name, p in inspect.signature(function).parameters.items() if p.default is p.empty]
    good = {name: NUMBERS.get(name, SQUARE) for name in needed} | dict(objects(function))
    told = {
        None: "None",
        "text": "'text'",
        0: "0",
        jax.Array: r"an array of shape \(2, 3\)",
        type: "a BernoulliUniform",
    }
    for wrong, what in told.items():
        given = {jax.Array: FRAME, type: LAW}.get(wrong, wrong)
        with pytest.raises(svtheory.InputError, match=rf"^{argument} must be a [^\n]{{5,60}}, got {what}$"):
            function(**{**good, argument: given})


def test_those_of_most_functions_are_found():
    assert len(ASKED) > 40
    assert {"predict, scenario", "compare, measurement", "tight_frame, key", "OneHot.sample, key"} <= set(ASKED)


def test_scenarios_spectra_and_keys_pass_while_jax_traces():
    """Nothing is compiled; raw keys pass too, and what has leaves of another kind is refused by none of the checks."""
    for key in (KEY, jax.random.key_data(KEY)):
        found = jax.eval_shape(jax.vmap(lambda key: LAW.sample(key, (3,))), jnp.stack([key, key]))
        assert found.shape == (2, 3, 2)
    several = jax.tree.map(lambda x: jnp.stack([x, x]), SPARSE)
    assert jax.eval_shape(jax.vmap(svtheory.probes), several)[0].shape == (2, 2, 2)
    hollow = jax.tree.map(lambda _: object(), SPARSE)
    assert svtheory.checks.instance("scenario", hollow, Scenario) is hollow


def test_rounding_to_float32_is_said_once(monkeypatch):
    monkeypatch.setattr(svtheory.checks, "_rounded_said", False)
    with pytest.warns(svtheory.checks.PrecisionWarning, match="^X is float64 and rounded to float32.*jax_enable_x64"):
        svtheory.geometry.spread(FRAME.astype(float) / 3)
    with pytest.MonkeyPatch.context() as again:
        again.setattr("warnings.warn", partial(pytest.fail, "said again"))
        svtheory.geometry.spread(FRAME.astype(float) / 3)


@pytest.mark.parametrize("x", [FRAME.astype(float), (FRAME / 3).tolist(), FRAME / 3, np.array([[3]])])
def test_where_nothing_that_was_asked_for_is_lost_nothing_is_said(monkeypatch, x):
    monkeypatch.setattr(svtheory.checks, "_rounded_said", False)
    svtheory.frame_operator(x)
    with jax.enable_x64(True):
        svtheory.frame_operator(np.asarray(x, float))
    assert not svtheory.checks._rounded_said

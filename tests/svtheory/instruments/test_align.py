import json

import jax
import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

from svtheory import Head, HeadBundle, chance_alignment, load_heads, save_heads
from svtheory.instruments import align
from svtheory.instruments.command import run as command
from svtheory.instruments.directions import ROUND, gaussian_heads, in_parts, of_head, token_moments
from svtheory.instruments.sources import Source

LAYERS, HEADS, H, D, N = 2, 2, 4, 16, 30
RNG = np.random.default_rng(0)
X = RNG.normal(size=(D, N))
X[:, :H] = np.linalg.qr(X[:, :H])[0]
SCALES = np.geomspace(0.3, 3, D)


def run(folder, *options):
    with jax.numpy_rank_promotion("raise"):
        return command("align", [str(folder / "a.safetensors"), "--out", str(folder / "runs"), *options])


def read(folder, **settings):
    """The results of the command alone, without its folder and figures."""
    with jax.numpy_rank_promotion("raise"):
        return align.requested(Source(source=str(folder / "a.safetensors")), align.Request(**settings))


def saved(folder, queries, keys, **options):
    """A bundle all of whose heads have these left and right singular vectors (D, H), values 4, 3, 2, 1."""
    W_Q, W_K = np.diag([4.0, 3, 2, 1]) @ queries.T, keys.T
    stacked = [np.broadcast_to(W, (LAYERS, HEADS, H, D)).astype(np.float32) for W in (W_Q, W_K)]
    save_heads(folder / "a.safetensors", HeadBundle(*stacked, **options))
    return folder


def random_vectors(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, H)))[0]


def filled(features):
    """As many features as X has, dead ones after those given, so that all runs share their compiled programs."""
    return np.pad(features, ((0, 0), (0, N - features.shape[1]))).astype(np.float32)


def tokens(mean=0.0):
    drawn = np.random.default_rng(1).normal(size=(LAYERS, 40, 50, D))
    drawn = (drawn - drawn.mean(axis=(1, 2), keepdims=True)) * SCALES + mean
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    """Queries along features; keys along whitened features, as a trained head's; tokens of unequal variances."""
    folder = tmp_path_factory.mktemp("align")
    inputs = tokens()
    flat = inputs[0].reshape(-1, D).astype(float)
    K = np.cov(flat.T, bias=True)
    whitened = np.linalg.solve(K, X[:, 5])
    keys = np.linalg.qr(np.column_stack([whitened, np.random.default_rng(3).normal(size=(D, H - 1))]))[0]
    inputs[1] = inputs[0]
    options = {"attn_in": inputs, "b_Q": np.full((LAYERS, HEADS, H), 0.1, np.float32)}
    saved(folder, X[:, :H], keys, metadata={"licence": "MIT"}, **options)
    np.savez(folder / "x.npz", features=X.astype(np.float32))
    return run(folder, "--features", str(folder / "x.npz"), "--draws", "99"), folder, K, keys


def test_vectors_along_features_are_found(with_tokens):
    outcome, *_ = with_tokens
    raw = outcome.results.sel(side="query", reading="raw")
    assert raw.best_cosine.values == pytest.approx(np.ones((LAYERS, HEADS, H)), abs=1e-5)
    assert (raw.best_feature.values == np.arange(H)).all()
    assert (raw.isotropic_p < 1e-6).all()
    assert outcome.summary["raw_best_cosine_highest"] == pytest.approx(1)


def test_a_whitened_feature_is_found_after_unwhitening_only(with_tokens):
    outcome, _, K, keys = with_tokens
    here = outcome.results.sel(layer=0, head=1, side="key")
    assert float(here.best_cosine.sel(reading="unwhitened", pair=1)) == pytest.approx(1, abs=1e-4)
    assert int(here.best_feature.sel(reading="unwhitened", pair=1)) == 5
    unit = X / np.linalg.norm(X, axis=0)
    for reading, vectors in (("raw", keys), ("unwhitened", K @ keys)):
        best = np.abs(unit.T @ (vectors / np.linalg.norm(vectors, axis=0))).max(axis=0)
        assert here.best_cosine.sel(reading=reading).values == pytest.approx(best, abs=1e-4)
    assert float(here.best_cosine.sel(reading="raw", pair=1)) < 0.95


def test_matched_chance_is_that_of_drawn_directions(with_tokens):
    outcome, _, K, _ = with_tokens
    g = np.random.default_rng(5).normal(size=(D, 20_000))
    unit = X / np.linalg.norm(X, axis=0)
    for reading, directions in (("raw", np.linalg.cholesky(K) @ g), ("unwhitened", K @ g)):
        best = np.abs(unit.T @ (directions / np.linalg.norm(directions, axis=0))).max(axis=0)
        found = float(outcome.results.matched_chance.sel(layer=0, head=0, side="key", reading=reading))
        draws = int(outcome.results.random_draws.sel(reading=reading).isel(layer=0).max())
        assert found == pytest.approx(best.mean(), abs=5 * best.std() / np.sqrt(draws * H))
        of_a_head = best.reshape(-1, H).max(axis=1)
        here = outcome.results.sel(layer=0, head=0, side="key", reading=reading)
        error = float(here.matched_chance_of_a_head_standard_error)
        assert float(here.matched_chance_of_a_head) == pytest.approx(of_a_head.mean(), abs=5 * error)
        assert found > chance_alignment(D, N)


def test_what_the_run_leaves(with_tokens):
    outcome, folder, *_ = with_tokens
    assert len(outcome.rows) == LAYERS * HEADS * 2 * 3
    assert outcome.rows[0]["best |cos|"] == pytest.approx(1)
    assert float(outcome.results.random_p[0, 0, 0, 0]) <= 0.05
    assert outcome.rows[0]["p, random"].endswith(" draws)")
    assert outcome.results.draws_at_most == 319  # --draws 99 could not tell one side of eight
    stored = json.loads((folder / "runs" / "align" / "a-x" / "summary.json").read_text())
    assert stored["sides_of_heads"] == 8
    assert stored["isotropic_chance_cosine"] == pytest.approx(chance_alignment(D, N))
    with xr.open_dataset(folder / "runs" / "align" / "a-x" / "results.nc", engine="h5netcdf") as results:
        assert results.attrs["licence"] == "MIT"
    assert (folder / "runs" / "align" / "a-x" / "figures" / "align.png").is_file()


def test_random_heads_are_not_beyond_chance(tmp_path):
    folder = saved(tmp_path, random_vectors(6), random_vectors(7))
    save_file(
        {"W_dec": np.ascontiguousarray(X.T, np.float32), "b_dec": np.zeros(D, np.float32)}, tmp_path / "x.safetensors"
    )
    outcome = run(folder, "--features", str(tmp_path / "x.safetensors"), "--hook", "attn_in")
    assert (outcome.results.isotropic_p > 1e-3).all()  # two draws, each with that probability
    assert outcome.results.reading.values.tolist() == ["raw"]
    assert "p, random" not in outcome.rows[0]


def test_gaussian_heads_are_read_as_heads_are():
    """The best cosines of a Gaussian head are those that the same weights have as a head of a bundle."""
    key, moments = jax.random.key(0), jax.jit(token_moments)(tokens(mean=2.0)[0].reshape(-1, D))
    features = in_parts(X)
    found = gaussian_heads(key, H, features, moments)[0]
    W_Q, W_K = np.asarray(jax.random.normal(jax.random.split(key, ROUND)[0], (2, H, D)))
    best_cosine = jax.jit(lambda head: of_head(head, moments, features, 1e-7)["best_cosine"])
    for biased in (0, 1):
        best = np.asarray(best_cosine(Head(W_Q, W_K, np.full(H, biased, np.float32))))
        assert np.allclose(found[biased], best.max(axis=-1), atol=1e-5)


def test_vectors_along_what_hardly_varies_are_no_finding(tmp_path):
    """A random head as its tokens see it has singular vectors along their smallest axes, which are features here."""
    scales, rng = np.geomspace(0.001, 1, D), np.random.default_rng(9)
    drawn = rng.normal(size=(LAYERS, 40, 50, D)) * scales
    frames = [np.linalg.qr(rng.normal(size=(LAYERS, HEADS, D, H)))[0] for _ in range(2)]
    weights = [((frame / scales[:, None]) * np.array([2.0, 1.5, 1.2, 1])).swapaxes(-1, -2) for frame in frames]
    made = [np.ascontiguousarray(x, np.float32) for x in (*weights, drawn)]
    bias = np.ones((LAYERS, HEADS, H), np.float32)
    save_heads(tmp_path / "a.safetensors", HeadBundle(made[0], made[1], bias, attn_in=made[2]))
    np.savez(tmp_path / "x.npz", features=filled(np.eye(D, D // 2)))  # what varies least
    raw = read(tmp_path, features=str(tmp_path / "x.npz")).sel(reading="raw")
    # the other levels of chance take most of these heads for findings
    assert (raw.isotropic_p <= 0.05).sum() > raw.isotropic_p.size / 2
    assert (raw.largest_cosine > raw.matched_chance_of_a_head).all()
    assert (raw.random_p > 0.05).all()


def test_features_outside_all_tokens_are_compared_with_isotropic_directions(tmp_path):
    """Random heads that follow the tokens never point there, so that any cosine would be beyond them."""
    drawn = np.random.default_rng(10).normal(size=(LAYERS, 40, 50, D)) * (np.arange(D) < 3)
    folder = saved(tmp_path, random_vectors(11), random_vectors(12), attn_in=drawn.astype(np.float32))
    np.savez(tmp_path / "x.npz", features=filled(np.eye(D)[:, 4:]))
    raw = read(folder, features=str(tmp_path / "x.npz")).sel(reading="raw")
    assert float(raw.matched_chance_of_a_head.max()) < 1e-3
    assert (raw.random_p > 0.05).all()


def test_a_mean_is_projected_out_of_queries_without_a_bias(tmp_path):
    """K u of a query head is its feature plus the mean token (T15): removed from both sides of the comparison."""
    mean = np.random.default_rng(8).normal(size=D)
    inputs = tokens(3 * mean)
    flat = inputs[0].reshape(-1, D).astype(float)
    moment = flat.T @ flat / len(flat)
    probe = np.linalg.solve(moment, X[:, 7])
    vectors = np.linalg.qr(np.column_stack([probe, np.random.default_rng(9).normal(size=(D, H - 1))]))[0]
    folder = saved(tmp_path, vectors, random_vectors(7), attn_in=inputs, others={"W_E": X.T.astype(np.float32)})
    results = read(folder, draws=19)
    here = results.sel(layer=0, head=0, side="query", pair=1)
    assert float(here.best_cosine.sel(reading="unwhitened")) == pytest.approx(1, abs=1e-3)
    assert int(here.best_feature.sel(reading="unwhitened")) == 7
    assert 0 < float(here.mean_removed.sel(reading="unwhitened")) < 1
    assert (results.mean_removed.sel(side="key") == 0).all()
    assert float(here.best_cosine.sel(reading="raw")) < 0.9


def test_vectors_that_cannot_be_named_are_left_out(tmp_path):
    folder = saved(tmp_path, X[:, :H], random_vectors(7), others={"W_E": X.T.astype(np.float32)})
    bundle = load_heads(folder / "a.safetensors")
    W_Q = np.linalg.qr(X[:, :H])[0].T.astype(np.float32)  # equal values: a subspace
    save_heads(
        folder / "a.safetensors", HeadBundle(np.broadcast_to(W_Q, bundle.W_Q.shape), bundle.W_K, others=bundle.others)
    )
    outcome = run(folder)
    assert outcome.summary["raw_best_cosine_highest"] == 0
    assert {row["feature"] for row in outcome.rows} == {"-"}
    assert {row["named"] for row in outcome.rows} == {"0 of 4"}
    # the features that span the subspace are in it, whatever its basis: |P x| = 1
    query = outcome.results.sel(side="query")
    assert query.block_cosine.values == pytest.approx(np.ones(query.block_cosine.shape), abs=1e-5)
    assert (query.block_feature < H).all()
    assert (query.block == 1).all()
    assert (query.block_p < 1e-6).all()
    # a random subspace is no finding: its best of N, beyond chance once in a thousand
    assert (outcome.results.block_p.sel(side="key") > 1e-3).all()


def test_features_keep_the_places_that_they_have_in_their_file(tmp_path):
    """A dead latent stays where it is: the feature of row 3 is called 3."""
    W = np.zeros((1, 1, 2, 4), np.float32)
    W[..., 0, 3], W[..., 1, 0] = 2, 1
    save_heads(tmp_path / "a.safetensors", HeadBundle(W, W[..., ::-1].copy()))
    decoder = np.eye(4)
    decoder[1] = 0
    save_file({"W_dec": decoder.astype(ml_dtypes.bfloat16)}, tmp_path / "x.safetensors")
    outcome = run(tmp_path, "--features", str(tmp_path / "x.safetensors"), "--hook", "attn_in")
    assert outcome.results.best_feature.sel(side="query", reading="raw").values.ravel().tolist() == [3, 0]
    assert outcome.results.best_feature.sel(side="key", reading="raw").values.ravel().tolist() == [0, 3]
    assert [row["feature"] for row in outcome.rows] == ["3", "0"]
    assert outcome.results.dead_feature.values.tolist() == [1]
    assert outcome.summary["features"] == 4
    assert outcome.summary["features_dead"] == 1
    assert outcome.summary["isotropic_chance_cosine"] == pytest.approx(chance_alignment(4, 3))


def test_a_dead_feature_is_the_best_of_none(tmp_path):
    """A vector orthogonal to every live feature still names none that is dead, in either reading."""
    W = np.zeros((LAYERS, HEADS, H, D), np.float32)
    W[..., 0, 0] = 1
    inputs = np.random.default_rng(2).normal(size=(LAYERS, 40, 50, D)).astype(np.float32)
    save_heads(tmp_path / "a.safetensors", HeadBundle(W, W, attn_in=inputs))
    features = filled(np.eye(D))
    features[:, 0] = 0
    np.savez(tmp_path / "x.npz", features=features)
    outcome = run(tmp_path, "--features", str(tmp_path / "x.npz"))
    assert (outcome.results.best_feature != 0).all()
    assert outcome.summary["raw_best_cosine_highest"] == pytest.approx(0, abs=1e-6)


def test_one_side_of_many_is_found_and_draws_stop_where_nothing_is_left_to_decide(tmp_path):
    """One aligned side of 24: with 19 draws no p-value could survive; sides of chance end after a few draws."""
    rng = np.random.default_rng(10)
    layers, heads, D = 4, 3, 12
    W_Q, W_K = rng.normal(size=(2, layers, heads, 1, D)).astype(np.float32)
    W_Q[3, 2, 0] = np.eye(D)[4]
    inputs = (rng.normal(size=(layers, 20, 20, D)) * np.geomspace(1, 3, D)).astype(np.float32)
    save_heads(
        tmp_path / "a.safetensors", HeadBundle(W_Q, W_K, attn_in=inputs, others={"W_E": np.eye(D, dtype=np.float32)})
    )
    outcome = run(tmp_path, "--draws", "19")
    raw = outcome.results.sel(reading="raw")
    beyond = np.argwhere(raw.random_adjusted_p.values <= 0.05)
    assert beyond.tolist() == [[3, 2, 0]]
    most = int(raw.draws_at_most)
    assert most == 2 * 24 * 20 - 1
    assert int(raw.random_draws[3, 2, 0]) > 250
    assert int(raw.random_draws.sel(layer=0).max()) < 250


def test_queries_are_centred_head_by_head_by_a_bias_that_is_not_zero(tmp_path):
    inputs = tokens(3 * np.random.default_rng(8).normal(size=D))
    options = {"attn_in": inputs, "others": {"W_E": X.T.astype(np.float32)}}
    b_Q, results = np.zeros((LAYERS, HEADS, H), np.float32), {}
    second = b_Q + np.array([[0], [0.1]])
    for name, bias in {"none": None, "zero": b_Q, "second head": second, "all": b_Q + 0.1}.items():
        given = {} if bias is None else {"b_Q": bias.astype(np.float32)}
        (tmp_path / name).mkdir()
        results[name] = read(saved(tmp_path / name, random_vectors(6), random_vectors(7), **given, **options), draws=99)
    for name in ("best_cosine", "mean_removed", "random_p", "matched_chance"):
        found = {key: here[name].sel(reading="unwhitened") for key, here in results.items()}
        np.testing.assert_allclose(found["zero"], found["none"], rtol=1e-6)
        np.testing.assert_allclose(found["second head"].sel(side="key"), found["none"].sel(side="key"), rtol=0.2)
    removed = {key: here.mean_removed.sel(reading="unwhitened", side="query") for key, here in results.items()}
    assert (removed["none"] > 0).all()
    assert (removed["all"] == 0).all()
    assert (removed["second head"].sel(head=0) == removed["none"].sel(head=0)).all()
    assert (removed["second head"].sel(head=1) == 0).all()


def test_a_folder_asks_for_a_dictionary_before_it_is_read(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("align", [str(tmp_path), "--out", str(tmp_path / "out")])
    assert "--features must be given beside a model's folder, a FILE of features" in capsys.readouterr().err


def test_a_bundle_without_the_default_dictionary_asks_for_one(tmp_path, capsys):
    saved(tmp_path, random_vectors(6), random_vectors(7), others={"W_U": X.T.astype(np.float32)})
    with pytest.raises(SystemExit):
        run(tmp_path)
    error = capsys.readouterr().err
    assert "--features must be given, a FILE or an array of the bundle, which has no W_E, only W_Q, W_K, W_U" in error


def sized(folder, features, inputs):
    """Random heads beside features and tokens of these sizes."""
    others = {"W_E": (features * X.T).astype(np.float32)}
    read_in = np.float32(inputs) * tokens(1.0)
    return read(saved(folder, random_vectors(6), random_vectors(7), attn_in=read_in, others=others), draws=19)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return sized(tmp_path_factory.mktemp("plain"), 1, 1)


@pytest.mark.parametrize(("features", "inputs"), [(2.0**100, 2.0**75), (2.0**-100, 2.0**-85)])
def test_the_sizes_of_features_and_tokens_do_not_matter(tmp_path, plain, features, inputs):
    """Their squares overflow or vanish in float32; powers of 2 leave the digits, and so the random heads, alone."""
    found = sized(tmp_path, features, inputs)
    for name in ("best_cosine", "random_p", "matched_chance", "balanced_chance_of_a_head"):
        np.testing.assert_allclose(found[name], plain[name], atol=1e-4, err_msg=name)
    assert found.best_cosine.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("size", "spread", "message"),
    [
        (1, 0, "attn_in must hold tokens that differ, got equal ones in layer 0"),
        (1e20, 1, "W_Q and W_K must have singular values that float32 holds, got larger ones in head 0.0"),
    ],
)
def test_heads_that_nothing_can_be_said_of_are_one_sentence(tmp_path, capsys, size, spread, message):
    """Constant tokens give random heads no directions: whatever a vector is, it would be better aligned."""
    W = np.random.default_rng(0).normal(size=(2, 1, 1, H, D)).astype(np.float32) * np.float32(size)
    inputs = 1 + spread * tokens()[:1]
    save_heads(tmp_path / "a.safetensors", HeadBundle(*W, attn_in=inputs, others={"W_E": X.T.astype(np.float32)}))
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "FILE must be an existing .safetensors, .npz, .npy file, or a folder with a dictionary"),
        ({"x": X}, "FILE must hold one of W_dec, w_dec, decoder.weight, features, as SAELens, Gemma Scope, "),
        ({"features": X, "W_dec": X.T}, "got features, W_dec"),
        (
            {"features": X.T},
            "x must hold features of 16 dimensions, as the model has, got 30 x 16, which looks transposed",
        ),
        ({"W_dec": X}, "got 30 x 16, which looks transposed"),
        ({"features": X[:5]}, "x must hold features of 16 dimensions, as the model has, got 5 x 30\n"),
        ({"features": X.astype(int)}, "features must hold floating-point numbers, got int64"),
        ({"features": X * np.nan}, "features must be finite, got 480 entries that are not"),
        ({"features": 0 * X}, "x must hold a feature that is not zero, got none"),
    ],
)
def test_a_wrong_dictionary_is_one_sentence(tmp_path, capsys, arrays, message):
    saved(tmp_path, random_vectors(6), random_vectors(7))
    if arrays is not None:
        np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--features", str(tmp_path / "x.npz"), "--hook", "attn_in")
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()

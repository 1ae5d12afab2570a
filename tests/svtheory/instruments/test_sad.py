import json

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control

from svtheory import (
    Head,
    HeadBundle,
    count_vectors,
    decompose,
    relative_attention,
    save_heads,
    sparseness_test,
    treves_rolls,
)
from svtheory.heads.bundles import MODELS
from svtheory.instruments import sad_page, sad_terms, sparser
from svtheory.instruments.command import run as command
from svtheory.instruments.moments import token_moments

HEADS, H, D, SEQUENCES, T = 2, 4, 8, 5, 6


def bundle():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    W_Q, W_K, b_Q, b_K = draw(1, HEADS, H, D), draw(1, HEADS, H, D), draw(1, HEADS, H), draw(1, HEADS, H)
    W_Q[0, 1], b_Q[0, 1] = 0, 0
    x = draw(1, SEQUENCES, T, D)
    # the first query sees its own key alone, here with a score of 0 but for rounding, which is no error
    q, k = W_Q[0, 0] @ x[0, 0, 0] + b_Q[0, 0], W_K[0, 0] @ x[0, 0, 0] + b_K[0, 0]
    b_K[0, 0] -= q * (q @ k) / (q @ q)
    rope = {"positional": "rope", "rope_dims": "2", "score_divisor": "3"}
    return HeadBundle(W_Q, W_K, b_Q, b_K, x, metadata=rope)


def run(model, out, *options):
    with jax.numpy_rank_promotion("raise"):
        return command("sad", [str(model), "--out", str(out), *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sad")
    given = bundle()
    save_heads(folder / "given.safetensors", given)
    return given, run(folder / "given.safetensors", folder, "--draws", "19", "--sequences", "4"), folder / "sad/given"


def test_sparseness_and_counts_are_those_of_the_decomposition(made):
    given, outcome, _ = made
    x = given.attn_in[0, :4]

    @jax.jit
    def expected(head):
        d = decompose(head, x, x, None)
        rules = sad_terms.PUBLISHED.values()
        counts = [count_vectors(decompose(head, x, x, d.index, convention), rule) for rule, convention in rules]
        return treves_rolls(relative_attention(d)), counts

    sparseness, counts = expected(given.head(0, 0))
    here = outcome.results.sel(layer=0, head=0, reading="raw")
    np.testing.assert_allclose(here.sparseness, sparseness[:, 1:], rtol=1e-4)
    for name, count in zip(sad_terms.PUBLISHED, counts, strict=True):
        np.testing.assert_array_equal(here["count"].sel(rule=name), count[:, 1:])
    assert float(here.contribution.sum()) == pytest.approx(1, rel=1e-5)
    assert float(here.largest.sum()) == pytest.approx(1, rel=1e-5)
    assert outcome.summary["decisions"] == 4 * (T - 1)


def test_scores_are_reproduced_and_attention_is_causal(made):
    _, outcome, _ = made
    assert outcome.summary["score_error_relative_to_largest"] < 1e-4
    assert outcome.summary["balanced_score_error_relative_to_largest"] < 1e-3
    assert outcome.summary["attention_not_causal_or_not_normalised"] < 1e-5


def test_nothing_is_counted_where_terms_miss_the_score():
    """A rotated head of more rows than inputs: only with two biases in the factors do 3 inputs reach its 3 rows."""
    rng = np.random.default_rng(1)
    W_Q, W_K, b_Q, b_K = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (3, 2), (3,), (3,)))
    head = Head(W_Q, W_K, b_Q, b_K, frequencies=np.array([0.7]))
    tokens = rng.normal(size=(2, 6, 2)).astype(np.float32)
    moments = jax.tree.map(np.float32, token_moments(tokens.reshape(-1, 2)))
    all_real = np.ones((2, 6), bool)

    def read(head):
        found = sad_terms.terms_of_head(head, tokens, moments, None, all_real, 1e-6)
        return found, decompose(head, tokens, tokens, None)

    found, scores = jax.jit(read)(head)
    missed = dict(zip(sad_terms.PUBLISHED, np.asarray(found["score_error"][0]) > 0.01, strict=True))
    assert missed == {"sad2024": False, "acc2025, query": True, "acc2025, key": True, "accpp2026": True}
    plain = list(sad_terms.PUBLISHED).index("accpp2026")
    seen = np.where(scores.visible, np.abs(scores.scores), 0).max(axis=-1)[:, 1:]
    blind = np.asarray(scores.error)[:, 1:] > 1e-3 * seen
    assert blind.any()
    assert np.isnan(np.asarray(found["count"])[0, plain][blind]).all()


def test_padding_is_not_undefined():
    counts = [[[1.0, np.nan], [np.nan, np.nan]]]
    decided = ("sequence", "query"), [[True, True], [False, False]]
    results = xr.Dataset({"count": (("rule", "sequence", "query"), counts), "decision": decided})
    assert float(sad_page.undefined(results).mean()) == 0.5


def test_a_zero_head_is_no_finding(made):
    _, outcome, _ = made
    assert outcome.rows[1]["verdict"] == "numerically zero: decides nothing"
    assert outcome.summary["heads_numerically_zero"] == 1
    assert (outcome.results.p_value.sel(layer=0, head=1) == 1).all()
    p = outcome.results.p_value.values.ravel()
    assert outcome.results.adjusted_p_value.values.ravel() == pytest.approx(false_discovery_control(p))


def test_p_values_are_those_of_random_heads_of_the_layer(made):
    """The first round of draws, up to where enough of them are as sparse (here all 19, at most)."""
    given, outcome, _ = made
    here = outcome.results.sel(layer=0, head=0, reading="raw")
    tokens = given.attn_in[0, :4]
    alone = sparseness_test(given.head(0, 0), tokens, tokens, jax.random.key(1), 400)
    # another 400 random heads: the means agree within the standard error of 19
    for null, name in zip(alone.head_null, ("raw", "balanced"), strict=True):
        assert abs(float(here.null_mean.sel(null=name)) - null.mean()) < 4 * null.std() / np.sqrt(19)
    assert int(here.draws) <= 19
    assert 0.05 <= float(here.p_value) <= 1


def test_the_run_folder(made):
    _, outcome, folder = made
    stored = json.loads((folder / "summary.json").read_text())
    assert stored["heads"] == len(outcome.rows) == HEADS
    assert stored["rules"] == stored["rules_that_hold"] == 0  # instruments set none
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        assert stored.decision_p_value.dims == ("layer", "head", "reading", "sequence", "query")
    assert {path.name for path in (folder / "figures").iterdir()} == {"sad.png", "sad.pdf"}
    assert "sparser than random heads" in (folder / "report.html").read_text()


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads in {MODELS} (set SVTHEORY_REAL_MODELS)")
def test_a_public_language_model(tmp_path):
    outcome = run("tinystories_260k", tmp_path, "--draws", "99", "--sequences", "8")
    assert len(outcome.rows) == outcome.summary["heads"] == 16
    assert outcome.summary["score_error_relative_to_largest"] < 1e-4
    assert outcome.summary["attention_not_causal_or_not_normalised"] < 1e-5
    assert all(0 < row["p"] <= 1 and row["verdict"] in {sparser.LOW_RANK, sparser.NEITHER} for row in outcome.rows)
    # head 1.1 stands out among Gaussian heads; random heads as the data see them are as sparse
    assert outcome.rows[5]["verdict"] == sparser.LOW_RANK
    assert outcome.summary["heads_sparser_than_random_heads"] == 0


def test_heads_that_match_nothing_are_not_found_and_a_head_of_features_is(tmp_path):
    """Where rotations reject everything: iid weights. Beside them a head whose singular vectors are the tokens.

    And one of a single large singular value, with vectors that match nothing: its rank is enough.
    """
    rng = np.random.default_rng(5)
    wide, pairs, heads = 32, 12, 6
    tokens = np.eye(wide)[rng.integers(0, wide, (1, 10, 12))]
    W_Q, W_K = rng.normal(size=(2, 1, heads, pairs, wide))
    W_Q[0, 2] = W_K[0, 2] = np.diag(np.linspace(2, 1.4, pairs)) @ np.eye(pairs, wide)
    W_Q[0, 4] *= np.geomspace(1, 1e-3, pairs)[:, None]
    made = HeadBundle(*(x.astype(np.float32) for x in (W_Q, W_K)), attn_in=tokens.astype(np.float32))
    save_heads(tmp_path / "mixed.safetensors", made)
    outcome = run(tmp_path / "mixed.safetensors", tmp_path, "--draws", "999")
    verdicts = [row["verdict"] for row in outcome.rows]
    assert verdicts[2] == "sparser than random heads of its spectrum, read raw and balanced"
    assert verdicts.pop(4) == sparser.LOW_RANK
    assert verdicts[:2] + verdicts[3:] == [sparser.NEITHER] * 4
    assert outcome.summary["heads_sparser_than_random_heads"] == outcome.summary["heads_of_low_rank_only"] == 1
    # which the common rotation does not tell from them
    assert (outcome.results.diagnostic_p_value.sel(kind="common") <= 0.05).sum() > 3
    # draws went on for the one that might be found, and no longer than it took
    draws = outcome.results.draws.values[0, :, 0]
    assert draws[2] == draws.max() > 99


def test_bad_input_leaves_nothing(tmp_path, capsys):
    given = bundle()
    save_heads(tmp_path / "bare.safetensors", HeadBundle(given.W_Q, given.W_K))
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        ([str(tmp_path / "bare.safetensors")], "bundle must hold attn_in, what its heads read, got"),
        (
            ["nothing"],
            "SOURCE must be a bundle's file, its name in $SVTHEORY_REAL_MODELS, the folder of a model or hf:ORG/MODEL, "
            "got 'nothing'",
        ),
        ([str(tmp_path / "folder")], "config.json"),
        (["a", "--draws", "5"], "--draws must be a whole number of at least 19, got 5"),
    ):
        with pytest.raises(SystemExit) as stop:
            command("sad", [*arguments, "--out", str(tmp_path / "out")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("causal", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_first_query_counts_where_it_sees_other_keys(causal, tmp_path):
    rng = np.random.default_rng(0)
    W_Q, W_K = rng.normal(size=(2, 1, 1, H, D)).astype(np.float32)
    given = HeadBundle(
        W_Q,
        W_K,
        attn_in=rng.normal(size=(1, 3, T, D)).astype(np.float32),
        metadata={"causal": str(causal), "score_divisor": "1"},
    )
    save_heads(tmp_path / "given.safetensors", given)
    outcome = run(tmp_path / "given.safetensors", tmp_path, "--draws", "19")
    x, first = given.attn_in[0].astype(float), int(causal)
    U, s, Vt = np.linalg.svd(W_Q[0, 0].astype(float).T @ W_K[0, 0])
    a, b = x @ U[:, :H] * s[:H], x @ Vt[:H].T
    expected = np.zeros((3, T - first))
    for i in range(3):
        for q in range(first, T):
            keys = b[i, : q + 1 if causal else T]
            j = (keys @ a[i, q]).argmax()
            c = np.abs(a[i, q] * (keys[j] - np.delete(keys, j, axis=0).mean(axis=0)))
            expected[i, q - first] = c.mean() ** 2 / (c**2).mean()
    here = outcome.results.sel(layer=0, head=0, reading="raw")
    np.testing.assert_allclose(here.sparseness, expected, rtol=1e-4)
    assert here["count"].shape[-1] == T - first
    assert float(here.contribution.sum()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "positions", "match"), [(1, 1, "at least 2 positions"), (1e25, T, "float32 holds")]
)
def test_heads_without_decisions_are_refused_in_a_sentence(weights, positions, match, tmp_path, capsys):
    """Of the size of the test before, whose compiled programs serve."""
    rng = np.random.default_rng(0)
    W = (weights * rng.normal(size=(1, 1, H, D))).astype(np.float32)
    tokens = rng.normal(size=(1, 3, positions, D)).astype(np.float32)
    said = {"causal": str(positions == 1), "score_divisor": "1"}
    save_heads(tmp_path / "given.safetensors", HeadBundle(W, W, attn_in=tokens, metadata=said))
    with pytest.raises(SystemExit):
        run(tmp_path / "given.safetensors", tmp_path, "--draws", "19")
    assert match in capsys.readouterr().err

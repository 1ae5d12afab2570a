"""Heads of planted pairs of features, found by their pairs; sums held against loops over every decision."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from svtheory import HeadBundle, load_heads, save_heads
from svtheory.checks import InputError
from svtheory.heads import Dictionary, Encoder
from svtheory.instruments import paired, pairs
from svtheory.instruments.command import run as command
from svtheory.instruments.dictionaries import check_fits

LAYERS, HEADS, H, D, N, SEQUENCES, T = 2, 3, 4, 16, 12, 8, 10
PLANTED = {0: (3, 7), 1: (11, 2)}  # of the heads of layer 1; head 2 is noise
RNG = np.random.default_rng(0)
X = RNG.normal(size=(D, N))
X /= np.linalg.norm(X, axis=0)
DUAL = np.linalg.pinv(X)
Z = RNG.uniform(0.5, 1, size=(SEQUENCES, T, N)) * (RNG.uniform(size=(SEQUENCES, T, N)) < 0.3)
STREAM = (Z @ X.T + 0.1).astype(np.float32)
SCALE = RNG.uniform(0.5, 2, size=(SEQUENCES, T, 1)).astype(np.float32)
MASK = np.arange(T)[None] < np.where(np.arange(SEQUENCES) % 3, T, T - 3)[:, None]


def heads(**options):
    """The normalised stream read by heads of which two match features by their dual vectors, and one nothing."""
    W = 0.3 * RNG.normal(size=(2, LAYERS, HEADS, H, D)) / D**0.5
    for head, pair in PLANTED.items():
        for side, feature in enumerate(pair):
            W[side, 1, head, 1] += 3 * DUAL[feature]  # in the plane that turns least
    read = np.broadcast_to(SCALE * STREAM, (LAYERS, *STREAM.shape))
    metadata = {"folded": "True", "residual_layer": "1", "positional": "rope"} | options.pop("metadata", {})
    given = {"attn_in": read, "mask": MASK, "others": {"residual": STREAM}} | options
    return HeadBundle(*W.astype(np.float32), metadata=metadata, **given)


def encoder():
    """Nearly what is active: a little is lost."""
    return DUAL.astype(np.float32), (-0.1 * DUAL.sum(axis=1) - 0.05).astype(np.float32)


def written(folder):
    W_enc, _ = encoder()
    folder.mkdir()
    config = {"d_in": D, "d_sae": N, "hook_name": "blocks.0.hook_resid_post", "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(json.dumps(config))
    arrays = {
        "W_enc": np.ascontiguousarray(W_enc.T),
        "W_dec": np.ascontiguousarray(X.T, np.float32),
        "b_enc": np.full(N, -0.05, np.float32),
    }
    save_file(arrays | {"b_dec": np.full(D, 0.1, np.float32)}, folder / "sae_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    save_heads(folder / "a.safetensors", heads(b_K=RNG.normal(size=(LAYERS, HEADS, H)).astype(np.float32)))
    options = ["--features", str(written(folder / "sae")), "--out", str(folder / "runs"), "--top", "5"]
    return command("pairs", [str(folder / "a.safetensors"), *options]), folder


def test_planted_pairs_come_first_and_at_the_key_that_is_attended(outcome):
    """By chance the first of N x N pairs is this one once in 144 heads."""
    found = outcome[0].results
    for head, pair in PLANTED.items():
        first = found.sel(layer=1, head=head, pair=1)
        assert (int(first.query_feature), int(first.key_feature)) == pair
        assert float(first.contribution) > 3 * float(first.elsewhere)
        assert float(first.contribution) > 10 * float(found.contribution.sel(layer=1, head=head, pair=2))
    assert float(found.sel(head=2).contribution.max()) < 0.1 * float(found.sel(head=0).contribution.max())
    assert float(found.explained.sel(layer=1, head=0)) > 0.5


def test_sums_are_those_of_every_decision(outcome):
    """Means of a head's decisions in a loop of its own: scores, their parts, the pairs that add most, and elsewhere."""
    results, folder = outcome[0].results, outcome[1]
    bundle, (W_enc, b_enc) = load_heads(folder / "a.safetensors"), encoder()
    theta = 10000.0 ** (-np.arange(0, H, 2) / H)

    def turned(x, position):
        both = (x[..., : H // 2] + 1j * x[..., H // 2 :]) * np.exp(1j * theta * position)
        return np.concatenate([both.real, both.imag], axis=-1)

    W_Q, W_K, b_K = (getattr(bundle, name)[1, 0].astype(float) for name in ("W_Q", "W_K", "b_K"))
    totals, scores, elsewhere, parts = np.zeros((N, N)), [], np.zeros((N, N)), []
    for s in range(SEQUENCES):
        x, c = STREAM[s].astype(float), SCALE[s, :, 0].astype(float)
        z = np.maximum(x @ W_enc.T + b_enc, 0)
        Q = [turned(c[p] * z[p][:, None] * (X.T @ W_Q.T), p) for p in range(T)]
        K = [turned(c[p] * z[p][:, None] * (X.T @ W_K.T), p) for p in range(T)]
        q = [turned(c[p] * x[p] @ W_Q.T, p) for p in range(T)]
        k = [turned(c[p] * x[p] @ W_K.T + b_K, p) for p in range(T)]
        for i in range(1, MASK[s].sum()):
            logits = np.array([q[i] @ k[j] for j in range(i + 1)]) / H**0.5
            j = int(logits.argmax())
            scores.append(logits[j])
            totals += Q[i] @ K[j].T / H**0.5
            elsewhere += np.mean([Q[i] @ K[other].T for other in range(i + 1) if other != j], axis=0) / H**0.5
            q_b, k_b = turned(c[i] * np.full(D, 0.1) @ W_Q.T, i), turned(c[j] * np.full(D, 0.1) @ W_K.T + b_K, j)
            q_f, k_f = Q[i].sum(axis=0), K[j].sum(axis=0)
            made = np.array([q_f @ k_f, q_f @ k_b, q_b @ k_f, q_b @ k_b]) / H**0.5
            parts.append([*made, logits[j] - made.sum()])
    here, n = results.sel(layer=1, head=0), len(scores)
    assert int(here.all_decisions) == n
    assert float(here.score) == pytest.approx(np.mean(scores), abs=1e-4)
    np.testing.assert_allclose(here.part_mean, np.mean(parts, axis=0), atol=1e-4)
    assert float(here.explained) == pytest.approx(
        1 - np.var(np.array(parts)[:, 1:].sum(axis=1)) / np.var(scores), abs=1e-3
    )
    order = np.argsort(-totals, axis=None)[:5]
    names = np.stack(np.unravel_index(order, (N, N)))
    np.testing.assert_array_equal([here.query_feature, here.key_feature], names)
    np.testing.assert_allclose(here.contribution, totals.ravel()[order] / n, atol=1e-4)
    np.testing.assert_allclose(here.elsewhere, elsewhere.ravel()[order] / n, atol=1e-4)
    assert float(results.gap.max()) < 1e-4


def test_what_the_run_leaves(outcome):
    done, folder = outcome
    run = folder / "runs" / "pairs" / "a-sae"
    stored = json.loads((run / "summary.json").read_text())
    assert (stored["layer"], stored["heads"], stored["top_query_feature"]) == (1, HEADS, 3)
    assert stored["unexplained_variance_share"] < 0.05
    assert (run / "figures" / "pairs.png").is_file()
    assert done.rows[0]["pairs that add most"].startswith("3 x 7: ")
    assert sum(float(row["pairs"].split()[0]) for row in done.rows) > 0


def test_terms_are_added_up_in_portions(monkeypatch):
    rng = np.random.default_rng(1)
    terms = [(rng.permutation(20)[:7], rng.normal(size=7)) for _ in range(9)]
    exact, often = np.zeros(20), np.zeros(20, int)
    for keys, values in terms:
        exact[keys] += values
        often[keys] += 1
    for together in (4_000_000, 10):
        monkeypatch.setattr(paired, "TOGETHER", together)
        keys, counts = paired.largest_sums(iter(terms), 6)
        np.testing.assert_array_equal(keys, np.argsort(-exact)[:6])
        np.testing.assert_array_equal(counts, often[keys])


def given(space="resid_post", layer=0, **options):
    made = Encoder(*encoder(), "relu")
    return Dictionary(X.astype(np.float32), space, layer, **{"encoder": made} | options)


@pytest.mark.parametrize(
    ("bundle", "dictionary", "message"),
    [
        (
            heads,
            lambda: given(encoder=None, without="an activation 'gated'"),
            "must have an encoder, got an activation",
        ),
        (heads, lambda: given("attn_out"), "must be of resid_pre, resid_post or attn_in, .*, got attn_out"),
        (heads, lambda: given(layer=None), r"must be of a layer that is known \(--hook\), .*, got none"),
        (
            heads,
            lambda: given(layer=1),
            "the layer that reads the dictionary must be a whole number from 0 to 1, got 2",
        ),
        (heads, lambda: given("resid_pre"), r"residual stream before layer 0, .*, got that before layer 1"),
        (lambda: heads(others={}), given, r"as read_model\(..., residual=1\) keeps it, got none"),
        (lambda: heads(others={"residual": STREAM[:2]}), given, r"residual must have shape \(8, 10, 16\), as attn_in"),
        (lambda: heads(others={"residual": STREAM[::-1]}), given, "stream must be what the tokens were before"),
        (
            lambda: heads(metadata={"folded": "False"}),
            given,
            "must have their normalisation folded in beside a dictionary",
        ),
        (lambda: heads(attn_in=None, mask=None), given, "bundle must hold attn_in"),
    ],
)
def test_what_cannot_be_expanded_is_one_sentence(bundle, dictionary, message):
    with pytest.raises(InputError, match=message):
        pairs.survey(bundle(), dictionary())


def test_one_sequence_names_its_pairs():
    one = heads(attn_in=(SCALE * STREAM)[None, :1].repeat(LAYERS, 0), mask=MASK[:1], others={"residual": STREAM[:1]})
    assert pairs.rows(pairs.survey(one, given()))[0]["pairs that add most"] != "-"


def test_a_mean_that_the_norm_takes_away_is_no_error():
    """A dictionary that writes the stream exactly leaves nothing, whatever a LayerNorm makes of it."""
    both = np.concatenate([np.eye(D), -np.eye(D)], axis=1).astype(np.float32)
    exact = Dictionary(both, "resid_post", 0, encoder=Encoder(both.T, np.zeros(2 * D, np.float32), "relu"))
    centred = SCALE * (STREAM + 1 - (STREAM + 1).mean(axis=-1, keepdims=True))
    read = np.broadcast_to(centred, (LAYERS, *centred.shape))
    found = pairs.survey(heads(attn_in=read, others={"residual": STREAM + 1}), exact)
    assert float(found.unexplained) < 1e-10


def test_a_dictionary_of_which_nothing_is_active_is_one_sentence():
    W, b = encoder()
    with pytest.raises(InputError, match="features must be active on these tokens"):
        pairs.survey(heads(), given(encoder=Encoder(W, b - 1e3, "relu")))


def test_a_module_that_is_normalised_once_more_is_refused():
    bundle = heads(metadata={"architecture": "gemma2"})
    with pytest.raises(InputError, match=r"as blocks\.3\.hook_attn_out is, got a module that a gemma2 normalises once"):
        check_fits(given("attn_out", of_module=True), bundle)
    check_fits(given("attn_out"), bundle)


def test_a_dictionary_of_what_heads_read_needs_no_stream():
    found = pairs.survey(heads(others={}), given("attn_in", 1), pairs.Settings(top=2))
    assert found.layer.values.tolist() == [1]
    assert float(found.gap.max()) < 1e-4

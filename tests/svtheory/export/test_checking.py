"""What is exported attends as its model, here one in numpy, or is refused with layer and distance."""

import numpy as np
import pytest

from svtheory.checks import InputError
from svtheory.export.checking import Pass, checked
from svtheory.export.layers import Layer, assembled

RNG = np.random.default_rng(0)
LAYERS, HEADS, GROUPS, H, D, N = 2, 4, 2, 4, 6, 7
W_Q, b_Q = RNG.normal(size=(LAYERS, HEADS, H, D)).astype(np.float32), RNG.normal(size=(LAYERS, HEADS, H))
W_K, b_K = RNG.normal(size=(LAYERS, GROUPS, H, D)).astype(np.float32), RNG.normal(size=(LAYERS, GROUPS, H))
EMBEDDING = RNG.normal(size=(9, D)).astype(np.float32)
THETA, LENGTH = np.array([0.9]), 1.2
ROWS = [[0, 1, 2, 3, 4, 5, 6], [7, 8, 1], [2, 2]]
TABLES = tuple(LENGTH * np.repeat(f(np.outer(np.arange(N), THETA)), 2, axis=1) for f in (np.cos, np.sin))


def turned(x):
    """Rows 0 and 1 of (heads, n, H) turned by THETA a position and made longer; the rest as they are."""
    spun = (x[..., 0] + 1j * x[..., 1]) * LENGTH * np.exp(1j * THETA * np.arange(x.shape[1]))
    return np.concatenate([spun.real[..., None], spun.imag[..., None], x[..., 2:] * LENGTH], axis=-1)


def run(row, distort=0.0, window=3):
    """Every layer reads the embedding; the second pays its attention within a window, `distort`ed where asked."""
    x, paid = EMBEDDING[row].astype(float), []
    for i in range(LAYERS):
        q = turned(np.einsum("nd,hkd->hnk", x, W_Q[i]) + b_Q[i][:, None])
        k = turned(np.einsum("nd,hkd->hnk", x, W_K[i]) + b_K[i][:, None])
        scores = q @ k.repeat(HEADS // GROUPS, axis=0).swapaxes(1, 2) / (i + 1)
        scores = 3 * np.tanh(scores / 3) + distort * i * np.arange(len(row))
        behind = np.arange(len(row))[:, None] - np.arange(len(row))
        scores[:, (behind < 0) | (behind >= (window if i else N))] = -np.inf
        weights = np.exp(scores)
        paid.append((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32))
    return Pass([EMBEDDING[row]] * LAYERS, paid)


def layers(**changed):
    """The layers as they are, but for what is changed."""
    full = {"turned": tuple(np.pad(table, ((0, 0), (0, H - 2))) for table in TABLES), "cap": 3.0}
    full["turned"] = (full["turned"][0] + LENGTH * np.array([0, 0, 1, 1]), full["turned"][1])  # rows that do not turn
    made = [{"divisor": i + 1.0, "window": 3 if i else None, **full, **changed} for i in range(LAYERS)]
    return [Layer(W_Q[i], W_K[i], b_Q[i], b_K[i], **made[i]) for i in range(LAYERS)]


def test_a_bundle_attends_as_its_model():
    """Grouped keys, a cap, a divisor and a window a layer, rows longer when turned, adjacent ones paired."""
    bundle = checked(ROWS, run, layers, {"source": "here"})
    assert bundle.W_K.shape == (LAYERS, HEADS, H, D)
    assert np.array_equal(bundle.W_K[:, 1], bundle.W_K[:, 0])
    assert bundle.scoring.pairing == "adjacent"
    assert bundle.scoring.frequencies == pytest.approx(np.tile([THETA[0], 0], (LAYERS, 1)), abs=1e-6)
    assert bundle.scoring.divisors == pytest.approx((1 / LENGTH**2, 2 / LENGTH**2), rel=1e-5)
    assert bundle.scoring.windows == (None, 3)
    assert bundle.scoring.cap == 3
    assert bundle.scoring.causal
    assert not bundle.scoring.folded
    assert bundle.mask.sum(axis=1).tolist() == [7, 3, 2]
    assert np.array_equal(bundle.attn_in[1][bundle.mask], EMBEDDING[np.concatenate(ROWS)])
    assert bundle.others["tokens"].shape == (3, N)


@pytest.mark.parametrize(
    ("name", "value", "layer"), [("divisor", 1.1, 0), ("window", None, 1), ("cap", None, 0), ("turned", None, 0)]
)
def test_what_does_not_attend_as_its_model_is_refused(name, value, layer):
    with pytest.raises(
        InputError, match=rf"^model must attend as its bundle does to 0.001, .* away in layer {layer}: a"
    ):
        checked(ROWS[:1], run, lambda: layers(**{name: value}), {})


def test_layer_and_distance_are_told():
    """The second layer has a bias by distance; the longest sequence is the first to be read, so each one counts."""
    exact, other = run(ROWS[1]), run(ROWS[1], distort=0.02)
    distance = np.abs(exact.paid[1] - other.paid[1]).max()
    assert distance > 2e-3
    with pytest.raises(InputError, match=rf"got weights of attention {distance:.2g} away in layer 1: a bundle holds"):
        checked(ROWS[:2], lambda row: run(row, distort=0.02 if len(row) == 3 else 0), layers, {})


def test_what_layers_share_is_one():
    with pytest.raises(InputError, match=r"^caps of scores must be the same in all layers, got 3.0 in 0, 4.0 in 1$"):
        assembled([layers()[0], layers(cap=4.0)[1]], "adjacent", {})
    with pytest.raises(InputError, match=r"^rows that turn must be the same in all layers, got \(2,\) in 0, \(1,\)"):
        assembled([layers()[0], layers(turned=TABLES)[1]], "adjacent", {})
    norm = (np.ones(H), np.arange(1.0, 5), 1e-6)
    plain = [layer._replace(b_Q=None, b_K=None, norm=norm) for layer in layers()]
    bundle = assembled(plain, "adjacent", {})
    assert bundle.scoring.query_key_norm == "per head"
    assert bundle.others["k_gain"].shape == (LAYERS, HEADS, H)
    together = assembled([layer._replace(norm=(np.ones(16), np.arange(8.0), 1e-6)) for layer in plain], "adjacent", {})
    assert together.scoring.query_key_norm == "all heads"
    assert together.others["k_gain"][0, :, 0].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("tokens", [[[1.0, 2.0]], [[1], [2]]])
def test_tokens_are_checked(tokens):
    with pytest.raises(InputError, match=r"^tokens must be whole numbers, of at least 2 positions, got"):
        checked(tokens, run, layers, {})

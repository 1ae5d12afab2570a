import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from svtheory import HeadBundle, InputError, load_heads, save_heads, spectrum

REAL = Path(os.environ.get("SVTHEORY_REAL_MODELS", Path(__file__).parents[4] / "shared/real_models"))
real_models = pytest.mark.skipif(not REAL.is_dir(), reason=f"no trained heads in {REAL} (set SVTHEORY_REAL_MODELS)")

RNG = np.random.default_rng(0)
W_Q, W_K = RNG.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
B = RNG.normal(size=(2, 3, 4)).astype(np.float32)
TOKENS = RNG.normal(size=(2, 6, 7, 5)).astype(np.float32)


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


def test_round_trip(tmp_path):
    strided = np.arange(12.0).reshape(3, 4).T[::-1]
    others = {"W_E": strided, "tokens": np.arange(4, dtype=np.int32)}
    bundle = HeadBundle(W_Q, W_K, B, 2 * B, TOKENS, others, {"source": "here", "score_divisor": "4"})
    save_heads(tmp_path / "a.safetensors", bundle)
    again = load_heads(str(tmp_path / "a.safetensors"))
    for name in ("W_Q", "W_K", "b_Q", "b_K", "attn_in"):
        assert np.array_equal(getattr(again, name), getattr(bundle, name))
        assert getattr(again, name).dtype == np.float32
    assert again.metadata == bundle.metadata
    assert set(again.others) == set(others)
    assert all(np.array_equal(again.others[name], others[name]) for name in others)
    assert again.others["tokens"].dtype == np.int32


def test_the_least_bundle(tmp_path):
    save_heads(tmp_path / "a.safetensors", HeadBundle(W_Q, W_K))
    again = load_heads(tmp_path / "a.safetensors")
    assert (again.b_Q, again.b_K, again.attn_in, dict(again.others), dict(again.metadata)) == (None, None, None, {}, {})
    assert again.score_divisor == 2


def test_arrays_of_jax_are_arrays():
    assert isinstance(HeadBundle(jnp.asarray(W_Q), jnp.asarray(W_K)).W_Q, np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((W_Q, W_K[:1]), r"W_K must have the shape of W_Q, \(2, 3, 4, 5\), got \(1, 3, 4, 5\)"),
        ((W_Q[0], W_K), r"W_Q must have 4 non-empty axes, got shape \(3, 4, 5\)"),
        ((W_Q[:, :0], W_K), r"W_Q must have 4 non-empty axes, got shape \(2, 0, 4, 5\)"),
        ((W_Q, W_K.astype(int)), "W_K must hold real floating-point numbers, got int64"),
        ((W_Q + 1j, W_K), "W_Q must hold real floating-point numbers, got complex64"),
        ((with_nan(W_Q), W_K), "W_Q must be finite, got 1 entries that are not"),
        ((W_Q, W_K, B[0]), r"b_Q must have 3 non-empty axes, got shape \(3, 4\)"),
        ((W_Q, W_K, B[:, :2]), r"b_Q must have shape \(2, 3, 4\), got \(2, 2, 4\)"),
        ((W_Q, W_K, None, with_nan(B)), "b_K must be finite, got 1 entries that are not"),
        ((W_Q, W_K, None, None, TOKENS[:1]), r"attn_in must have 2 layers and d_model 5, got shape \(1, 6, 7, 5\)"),
        (
            (W_Q, W_K, None, None, TOKENS[..., :4]),
            r"attn_in must have 2 layers and d_model 5, got shape \(2, 6, 7, 4\)",
        ),
        ((W_Q, W_K, None, None, with_nan(TOKENS)), "attn_in must be finite, got 1 entries that are not"),
        (
            (W_Q, W_K, None, None, None, {}, {"score_divisor": "zero"}),
            "score_divisor must be a positive number, got 'zero'",
        ),
        ((W_Q, W_K, None, None, None, {}, {"score_divisor": "0"}), "score_divisor must be a positive number, got '0'"),
        (
            (W_Q, W_K, None, None, None, {}, {"score_divisor": "inf"}),
            "score_divisor must be a positive number, got 'inf'",
        ),
        ((W_Q, W_K, None, None, None, {}, {"score_divisor": 4}), "metadata must map text to text, got 4"),
    ],
)
def test_bad_arrays(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        HeadBundle(*arguments)


def whole_file(folder):
    path = folder / "whole.safetensors"
    save_heads(path, HeadBundle(W_Q, W_K))
    return path.read_bytes()


BROKEN_FILES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"these are not the tensors you are looking for" * 9,
    "pickle": lambda whole: b"\x80\x04\x95" + bytes(100),
    "cut in the header": lambda whole: whole[:60],
    "cut in the arrays": lambda whole: whole[:-20],
    "longer than it says": lambda whole: whole + bytes(8),
}


@pytest.mark.parametrize("broken", BROKEN_FILES)
def test_broken_files(tmp_path, broken):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN_FILES[broken](whole_file(tmp_path)))
    with pytest.raises(
        InputError, match=r"^bundle must be a whole safetensors file, got '.*broken.safetensors': [^\n]*$"
    ):
        load_heads(path)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.safetensors"):
        with pytest.raises(InputError, match=r"bundle must be a safetensors file, got '.*', which is no file"):
            load_heads(path)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"W_Q": W_Q}, "bundle must hold W_Q and W_K, got '.*' without W_K"),
        ({"w": W_Q}, "bundle must hold W_Q and W_K, got '.*' without W_Q and W_K"),
        ({"W_Q": W_Q, "W_K": with_nan(W_K)}, "W_K must be finite, got 1 entries that are not"),
        ({"W_Q": W_Q[0], "W_K": W_K[0]}, r"W_Q must have 4 non-empty axes, got shape \(3, 4, 5\)"),
    ],
)
def test_files_with_other_arrays(tmp_path, arrays, sentence):
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=sentence):
        load_heads(tmp_path / "a.safetensors")


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"path must be a file that can be written, got '.*a.safetensors'"):
        save_heads(tmp_path / "missing" / "a.safetensors", HeadBundle(W_Q, W_K))


@real_models
@pytest.mark.parametrize(
    ("name", "shape", "divisor", "tokens"),
    [
        ("tinystories_260k", (4, 4, 16, 64), 4, (4, 40, 48, 64)),
        ("induction_ft000", (2, 1, 64, 64), 8, None),
        ("modadd59_l8k1hzciux", (1, 4, 32, 128), 32**0.5, None),
        ("modadd59_p99zdpze5l", (1, 4, 32, 128), 32**0.5, None),
    ],
)
def test_real_models(name, shape, divisor, tokens):
    bundle = load_heads(REAL / f"{name}.safetensors")
    assert bundle.W_Q.shape == bundle.W_K.shape == shape
    assert bundle.score_divisor == pytest.approx(divisor)
    assert (None if bundle.attn_in is None else bundle.attn_in.shape) == tokens
    assert bundle.metadata["licence"] == "MIT"


@real_models
def test_spectra_of_real_heads_against_float64():
    for name, tolerance in (("tinystories_260k", 1e-6), ("modadd59_l8k1hzciux", 1e-6), ("modadd59_p99zdpze5l", 1e-6)):
        bundle = load_heads(REAL / f"{name}.safetensors")
        for q, k in zip(bundle.W_Q[0], bundle.W_K[0], strict=True):
            exact = np.linalg.svd(q.T.astype(float) @ k.astype(float), compute_uv=False)[: len(q)]
            assert np.abs(np.asarray(spectrum(q, k).values, float) - exact).max() <= tolerance * exact[0]


def test_one_head_of_a_bundle_knows_its_positions():
    W = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    rope = {"positional": "rope", "rope_dims": "4", "rope_base": "100", "rope_pairing": "adjacent", "folded": "True"}
    head = HeadBundle(W, W + 1, b_Q=W[..., 0], metadata=rope).head(1, 2)
    np.testing.assert_array_equal(head.W_K, W[1, 2] + 1)
    np.testing.assert_array_equal(head.b_Q, W[1, 2, :, 0])
    np.testing.assert_allclose(head.frequencies, [1, 0.1], rtol=1e-6)
    assert (head.b_K, head.pairing, head.divisor, head.folded) == (None, "adjacent", 2.0, True)
    given = HeadBundle(W, W, others={"rope_frequencies": np.array([0.5])}, metadata={"positional": "rope"})
    np.testing.assert_array_equal(given.head(0, 0).frequencies, [0.5])
    assert HeadBundle(W, W).head(0, 0).frequencies is None
    with pytest.raises(InputError, match="layer must be a whole number from 0 to 1, got 2"):
        given.head(2, 0)
    with pytest.raises(InputError, match="rope_dims must be even and at most 4"):
        HeadBundle(W, W, metadata=rope | {"rope_dims": "5"}).head(0, 0)

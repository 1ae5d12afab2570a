import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from svtheory import HeadBundle, InputError, decompose, load_heads, read_bundle, save_heads, spectrum
from svtheory.heads.bundles import MODELS

real_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads in {MODELS} (set SVTHEORY_REAL_MODELS)")

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
        ((W_Q, W_K[:, :1]), r"got \(2, 1, 4, 5\): repeat each key head for its group of query heads"),
        ((W_Q, W_K, None, None, np.ones((2, 6, 7, 4))), r"are W_Q and W_K \(in, out\)\? here they are \(out, in\)"),
        ((W_Q, W_K, None, None, None, {"b_Q": B}), "others must not hold b_Q, which is an array of the bundle's own"),
        ((np.ma.masked_array(W_Q, W_Q > 0), W_K), "W_Q must be an array without a mask"),
        ((W_Q, [[1.0], [2.0, 3.0]]), "W_K must be an array of numbers, got list"),
        ((W_Q, W_K, None, None, None, {"words": "of text"}), "words must be an array of numbers, got <U7"),
        ((None, W_K), "W_Q must be an array, got None"),
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
        ("induction_ft000", (2, 1, 64, 64), 8, (2, 200, 8, 64)),
        ("modadd59_l8k1hzciux", (1, 4, 32, 128), 32**0.5, None),
        ("modadd59_p99zdpze5l", (1, 4, 32, 128), 32**0.5, None),
    ],
)
def test_real_models(name, shape, divisor, tokens):
    bundle = load_heads(MODELS / f"{name}.safetensors")
    assert bundle.W_Q.shape == bundle.W_K.shape == shape
    assert bundle.score_divisor == pytest.approx(divisor)
    assert (None if bundle.attn_in is None else bundle.attn_in.shape) == tokens
    assert bundle.metadata["licence"] == "MIT"


@real_models
def test_spectra_of_real_heads_against_float64():
    for name, tolerance in (("tinystories_260k", 1e-6), ("modadd59_l8k1hzciux", 1e-6), ("modadd59_p99zdpze5l", 1e-6)):
        bundle = load_heads(MODELS / f"{name}.safetensors")
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
        HeadBundle(W, W, metadata=rope | {"rope_dims": "5"})


class Tensor:
    """What numpy sees of a parameter of PyTorch: no array before it is detached, and none at all in bfloat16."""

    def __init__(self, array, dtype="torch.float32", attached=True):
        self.array, self.dtype, self.attached = array, dtype, attached

    def detach(self):
        return Tensor(self.array, self.dtype, attached=False)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.array.astype(np.float32), attached=self.attached)

    def __array__(self, dtype=None, copy=None):
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_parameters_of_pytorch_and_lists():
    half = W_K.astype(jnp.bfloat16)
    bundle = HeadBundle(Tensor(W_Q), Tensor(half, "torch.bfloat16"), B.tolist())
    np.testing.assert_array_equal(bundle.W_Q, W_Q)
    np.testing.assert_array_equal(bundle.W_K, half.astype(np.float32))
    assert bundle.metadata == {"weights_dtype": "bfloat16"}
    np.testing.assert_allclose(bundle.b_Q, B, rtol=1e-7)


@real_models
@pytest.mark.parametrize("name", ["modadd59_l8k1hzciux", "modadd59_p99zdpze5l"])
def test_modular_addition_sees_every_position(name):
    """Both files say `causal: False`: the first token attends to the second, by a softmax in float64."""
    bundle = load_heads(MODELS / f"{name}.safetensors")
    x = np.random.default_rng(0).normal(size=(2, 2, 128)).astype(np.float32)
    for head in range(4):
        q, k = (x.astype(float) @ W[0, head].astype(float).T for W in (bundle.W_Q, bundle.W_K))
        weights = np.exp(q @ k.swapaxes(1, 2) / 32**0.5)
        found = decompose(bundle.head(0, head), x, x, None)
        assert np.asarray(found.visible).all()
        np.testing.assert_allclose(found.attention, weights / weights.sum(-1, keepdims=True), atol=1e-5)
        assert (np.asarray(found.attention)[:, 0, 1] > 0).all()


def test_biases_of_zeros_are_none_unless_a_head_has_one():
    W = np.ones((1, 2, 3, 4), np.float32)
    zeros = np.zeros((1, 2, 3), np.float32)
    assert HeadBundle(W, W, zeros, zeros).head(0, 0).b_Q is None
    one = zeros.copy()
    one[0, 1] = 1
    heads = [HeadBundle(W, W, one, zeros).head(0, i) for i in range(2)]
    assert [head.b_Q.tolist() for head in heads] == [[0, 0, 0], [1, 1, 1]]  # heads of a layer stack


REACHED = np.arange(7)[None] < np.array([7, 1, 3, 7, 2, 5])[:, None]


def test_a_mask_says_where_tokens_end(tmp_path):
    bundle = HeadBundle(W_Q, W_K, attn_in=TOKENS, mask=REACHED)
    save_heads(tmp_path / "a.safetensors", bundle)
    assert np.array_equal(load_heads(tmp_path / "a.safetensors").mask, REACHED)
    assert np.array_equal(bundle.real, REACHED)
    assert HeadBundle(W_Q, W_K, attn_in=TOKENS).real.tolist() == [[True] * 7] * 6


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mask": REACHED}, "mask must stand beside attn_in, got one without"),
        (
            {"mask": REACHED, "attn_in": TOKENS, "metadata": {"causal": "False"}},
            "mask must stand beside heads that are causal: others see the padding, got one without",
        ),
        (
            {"mask": REACHED[:2], "attn_in": TOKENS},
            r"mask must hold True or False, of shape \(6, 7\), got bool of shape",
        ),
        ({"mask": 1 * REACHED, "attn_in": TOKENS}, r"mask must hold True or False, of shape \(6, 7\), got int64 of"),
        ({"mask": REACHED[:, ::-1], "attn_in": TOKENS}, "mask must be True from the first position of each sequence"),
        ({"mask": REACHED & False, "attn_in": TOKENS}, "mask must be True from the first position of each sequence"),
        ({"others": {"mask": REACHED}}, "others must not hold mask, which is an array of the bundle's own"),
    ],
)
def test_a_mask_is_checked(given, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        HeadBundle(W_Q, W_K, **given)


def test_a_bundle_is_printed_on_a_screen():
    theta = np.array([[0.5, 0.25], [0.0, 0.0]])
    metadata = {"positional": "rope", "window": "3, none", "score_divisor": "2, 4", "score_cap": "50", "folded": "True"}
    given = {"weights_dtype": "bfloat16", "source": "here", "task": "long " * 40}
    others = {"rope_frequencies": theta, "tokens": np.zeros((6, 7), int)}
    bundle = HeadBundle(W_Q, W_K, B, 0 * B, TOKENS, others, metadata | given, mask=REACHED)
    lines = [" ".join(line.split()) for line in str(bundle).splitlines()]
    assert lines[:11] == [
        "HeadBundle",
        "sizes layers 2, heads 3, d_head 4, d_model 5",
        "biases queries",
        "positions rotary, rows turned: 4, 0 of 4, half-split",
        "scores divided by 2, 4; causal; keys seen: 3, all; capped at 50",
        "normalisation folded into the weights",
        "weights float32, from bfloat16",
        "attn_in 6 sequences of 7 positions, padded: 25 tokens",
        "others rope_frequencies (2, 2), tokens (6, 7)",
        "source here",
        "task " + " ".join(["long"] * 16),
    ]
    assert max(map(len, str(bundle).splitlines())) <= 100
    least = repr(HeadBundle(W_Q, W_K, metadata={"query_key_norm": "per head", "query_key_epsilon": "1e-6"}))
    for words in ("none: what heads read is not here", "not rotated", "queries and keys normalised: per head"):
        assert words in least


def test_a_bundle_by_its_file_or_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("svtheory.heads.bundles.MODELS", tmp_path)
    save_heads(tmp_path / "named.safetensors", HeadBundle(W_Q, W_K))
    for source in ("named", tmp_path / "named.safetensors"):
        assert np.array_equal(read_bundle(source).W_Q, W_Q)
    with pytest.raises(InputError, match="bundle must hold attn_in"):
        read_bundle("named", sequences=2)
    with pytest.raises(InputError, match="bundle must be a safetensors file, got 'other', which is no file"):
        read_bundle("other")


def test_the_first_sequences_of_a_bundle(tmp_path):
    tokens = np.arange(42).reshape(6, 7)
    bundle = HeadBundle(W_Q, W_K, attn_in=TOKENS, others={"tokens": tokens}, mask=REACHED)
    save_heads(tmp_path / "a.safetensors", bundle)
    found = read_bundle(tmp_path / "a.safetensors", sequences=2)
    assert np.array_equal(found.attn_in, TOKENS[:, :2])
    assert np.array_equal(found.mask, REACHED[:2])
    assert np.array_equal(found.others["tokens"], tokens[:2])
    assert found.metadata["sequences"] == "2 of 6"
    whole = read_bundle(tmp_path / "a.safetensors", sequences=6)
    assert whole.attn_in.shape == TOKENS.shape
    assert "sequences" not in whole.metadata
    save_heads(tmp_path / "cut.safetensors", found)  # which says what was read then
    assert "sequences" not in read_bundle(tmp_path / "cut.safetensors").metadata
    for wrong in (0, 2.5):
        with pytest.raises(InputError, match=f"sequences must be .*, got {wrong}"):
            read_bundle(tmp_path / "a.safetensors", sequences=wrong)


def test_numbers_that_numpy_has_not_are_one_sentence(tmp_path):
    save_heads(tmp_path / "a.safetensors", HeadBundle(W_Q, W_K, others={"kept": np.arange(8, dtype=np.int8)}))
    content = (tmp_path / "a.safetensors").read_bytes()
    assert b'"I8"' in content
    length = int.from_bytes(content[:8], "little") + 5
    changed = content[8:].replace(b'"I8"', b'"F8_E4M3"')
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + changed)
    with pytest.raises(InputError, match=r"^bundle must be a whole safetensors file, got [^\n]*$"):
        load_heads(tmp_path / "a.safetensors")

import numpy as np
import pytest

from svtheory import HeadBundle
from svtheory.checks import InputError
from svtheory.instruments.align import Request
from svtheory.instruments.dictionaries import Place, dictionary, taken_for
from svtheory.instruments.directions import TOGETHER, best_of, in_parts

D, N = 6, 9
X = np.random.default_rng(0).normal(size=(D, N)).astype(np.float32)


def bundle(folded, others=None, **said):
    W = np.ones((1, 1, 2, D), np.float32)
    return HeadBundle(W, W, others=others or {"W_U": X.T}, metadata={"folded": str(folded), **said})


@pytest.mark.parametrize(
    ("hook", "folded", "heads_folded", "message"),
    [
        ("blocks.2.hook_resid_pre", None, True, None),
        ("attn_out", None, True, None),
        ("attn_in", None, False, None),
        ("h.3.input_layernorm", False, False, None),
        ("h.3.input_layernorm", True, True, None),
        ("h.3.input_layernorm", True, False, "must live after the gain of the normalisation, .*, got one before it"),
        ("h.3.input_layernorm", False, True, "must live before the gain of the normalisation, .*, got one after it"),
        ("h.3.input_layernorm", None, True, "folded must say whether the dictionary lies before"),
        (
            "model.layers.3",
            None,
            False,
            "folded in beside a dictionary of resid_post, got ones that read after its gain",
        ),
        ("", None, True, "hook must say where the dictionary lives"),
        ("blocks.2.hook_z", None, True, "hook must be one of resid_pre, .*, got 'blocks.2.hook_z'"),
    ],
)
def test_features_must_be_directions_of_what_heads_read(tmp_path, hook, folded, heads_folded, message):
    np.savez(tmp_path / "x.npz", W_dec=X.T)
    read = lambda: dictionary(str(tmp_path / "x.npz"), bundle(heads_folded), Place(hook, folded))  # noqa: E731
    if message is None:
        np.testing.assert_array_equal(read().features, X)
    else:
        with pytest.raises(InputError, match=message):
            read()


def test_an_array_of_the_bundle_lives_where_its_heads_read():
    np.testing.assert_array_equal(dictionary("W_U", bundle(False), Place()).features, X)
    with pytest.raises(
        InputError, match="--features must be given, a FILE or an array of the bundle, which has no W_E"
    ):
        dictionary("W_E", bundle(False), Place())


@pytest.mark.parametrize(
    ("given", "said", "features"),
    [
        (X.T, {}, X),
        (X, {}, X),
        (X, {"orientation": "out, in"}, X),
        (X[:, :D], {"orientation": "out, in"}, X[:, :D]),
        (X[:, :D].T, {"orientation": "in, out"}, X[:, :D]),
        (X[:, :D].T, {}, X[:, :D]),  # nothing says which: rows
    ],
)
def test_an_embedding_is_taken_the_way_round_that_fits(given, said, features):
    found = dictionary("W_E", bundle(False, {"W_E": given}, **said), Place())
    np.testing.assert_array_equal(found.features, features)
    assert taken_for(found).endswith("features of --features W_E are taken for directions of what heads read.")


def test_runs_are_called_after_the_dictionary():
    names = {
        "W_E": "",
        "a/x.npz": "x",
        "a/L20/params.npz": "L20",
        "hf:o/r/layers.3@main": "layers.3",
        "a/layers.3": "layers.3",
    }
    assert {name: Request(features=name).label for name in names} == names


def test_parts_hold_all_features_and_the_first_of_the_best_is_found():
    many = np.random.default_rng(1).normal(size=(2, TOGETHER + 3)) * 2.0**100
    many[:, [1, TOGETHER + 1]] = np.array([[4.0], [0.0]]) * 2.0**100
    parts = in_parts(many)
    assert parts.units.shape == (2, 2, TOGETHER)
    np.testing.assert_allclose(np.linalg.norm(parts.units, axis=1), parts.lengths, rtol=1e-6)
    assert parts.lengths.sum() == TOGETHER + 3
    value, place = best_of(lambda part: abs(part) / (1e-30 + abs(part).sum(axis=0, keepdims=True)), parts.units)
    assert (float(value[0]), int(place[0])) == (1.0, 1)
    assert 0 < float(value[1]) <= 1

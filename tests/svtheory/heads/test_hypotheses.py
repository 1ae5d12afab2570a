"""Hypotheses against their definitions, position by position, in plain loops."""

import numpy as np
import pytest

from svtheory import InputError
from svtheory.heads import feature_hypotheses, token_hypotheses
from svtheory.heads.hypotheses import Hypothesis, decaying_orders, read_at

TOKENS = np.random.default_rng(0).integers(0, 5, (6, 9))
QUERIES, KEYS = slice(2, 9), slice(0, 7)


def asked(hypothesis):
    """The logit asked for between all queries and keys, (P, sequences, queries, sequences, keys)."""
    f, g = hypothesis.query_features, hypothesis.key_features
    logits = np.einsum("an,pnm,bm->pab", f, hypothesis.family, g)
    return logits.reshape(-1, len(TOKENS), len(f) // len(TOKENS), len(TOKENS), len(g) // len(TOKENS))


def followed(sequence, p):
    """The token after the latest earlier occurrence of the token at p, or none."""
    for j in range(p - 1, -1, -1):
        if sequence[j] == sequence[p]:
            return sequence[j + 1]
    return None


DEFINED = {
    "same token": lambda s, p, t, k: t[k] == s[p],
    "previous token": lambda s, p, t, k: k > 0 and t[k - 1] == s[p],
    "token after an earlier occurrence": lambda s, p, t, k: t[k] == followed(s, p),
    "first position": lambda s, p, t, k: k == 0,
    "previous position": lambda s, p, t, k: k == p - 1,
    "larger number": lambda s, p, t, k: t[k] > s[p] > 0,
    "product of numbers": lambda s, p, t, k: s[p] > 0 and t[k] > 0 and ((s[p] - 1) / 3 - 0.5) * ((t[k] - 1) / 3 - 0.5),
}


@pytest.fixture(scope="module")
def made():
    numbers = np.array([np.nan, 1, 2, 3, 4])
    return {h.name: h for h in token_hypotheses(TOKENS, QUERIES, KEYS, numbers)}


@pytest.mark.parametrize("name", DEFINED)
def test_what_is_asked_between_every_query_and_key(name, made):
    expected = [
        [[[float(DEFINED[name](s, p, t, k)) for k in range(9)[KEYS]] for t in TOKENS] for p in range(9)[QUERIES]]
        for s in TOKENS
    ]
    np.testing.assert_allclose(asked(made[name])[0], expected, atol=1e-6)
    assert len(made[name].family) == 1


def test_the_family_of_orders_goes_from_the_next_number_to_any_larger_one(made):
    family = made["next larger number"]
    assert (family.members[0], family.members[-1]) == (1, 4)
    s, t = TOKENS[:, QUERIES], TOKENS[:, KEYS]
    further = (t[None, None] - s[:, :, None, None]).astype(float)
    for L, logits in zip(family.members, asked(family), strict=True):
        larger = (further > 0) & (s[:, :, None, None] > 0)
        np.testing.assert_allclose(logits, np.where(larger, np.exp(-further / L), 0), rtol=1e-5, atol=1e-6)
    assert set(made) == {*DEFINED, "next larger number"}


def test_rows_are_what_is_read_there(made):
    assert (made["same token"].query_features.argmax(axis=1) == read_at(TOKENS, QUERIES)).all()
    assert (made["same token"].key_features.argmax(axis=1) == read_at(TOKENS, KEYS)).all()


def test_padding_has_no_part_and_positions_are_of_each_sequences_own_tokens():
    """Of two sequences, one of which ends two tokens earlier, whatever stands behind its last token."""
    real = np.arange(9) < np.array([[9], [7]])
    whole = [token_hypotheses(TOKENS[[i]][:, : 9 - 2 * i], slice(-3, None), slice(None, -1)) for i in range(2)]
    for behind in (0, 4):
        tokens = np.where(real, TOKENS[:2], behind)
        both = {h.name: h for h in token_hypotheses(tokens, slice(-3, None), slice(None, -1), real=real)}
        same = both["same token"]
        logits = np.einsum("an,nm,bm->ab", same.query_features, same.template, same.key_features)
        own = [np.einsum("an,nm,bm->ab", h[0].query_features, h[0].template, h[0].key_features) for h in whole]
        np.testing.assert_array_equal(logits[:3, :8], own[0])
        np.testing.assert_array_equal(logits[3:, 8:], own[1])
    values = np.where(real[..., None], 1.0, 1e6) * np.arange(1, 10)[None, :, None]
    assert feature_hypotheses(values, real=real)[0].query_features.max() == 9


def test_only_the_commonest_tokens_are_features():
    tokens = np.array([[7, 7, 9], [7, 9, 1]])
    same = token_hypotheses(tokens, slice(None), slice(None), largest=2)[0]
    assert same.query_features.tolist() == [[1, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 0]]


def test_what_cannot_be_asked_at_these_positions_is_left_out():
    names = {h.name for h in token_hypotheses(np.array([[1, 2, 3], [4, 5, 6]]), slice(2, None), slice(0, 2))}
    assert names == {"first position", "previous position"}  # no token recurs
    names = {h.name for h in token_hypotheses(TOKENS, slice(8, None), slice(1, 7))}
    assert not names & {"first position", "previous position"}


def test_features_of_a_dictionary_are_matched_where_they_are_and_one_further_on():
    values = np.random.default_rng(1).normal(size=(3, 4, 5)) * [1, 5, 1, 4, 3]
    same, previous = feature_hypotheses(values, largest=3)
    kept = values[:, :, [1, 3, 4]]
    np.testing.assert_allclose(same.query_features, kept[:, 1:].reshape(-1, 3), rtol=1e-6)
    np.testing.assert_allclose(previous.key_features.reshape(3, 4, 3)[:, 1:], kept[:, :-1], rtol=1e-6)
    assert not previous.key_features.reshape(3, 4, 3)[:, 0].any()
    assert (same.template == np.eye(3)).all()


def test_a_decaying_order():
    distances = np.array([[0, 1], [-1, 2]])
    np.testing.assert_allclose(decaying_orders(distances, [2])[0], [[0, np.exp(-0.5)], [0, np.exp(-1)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (np.ones((2, 3)), {}, "tokens must be whole numbers of at least 0, .* got float64 \\(2, 3\\)"),
        (-TOKENS - 1, {}, "tokens must be whole numbers of at least 0"),
        (TOKENS, {"keys": slice(9, None)}, "queries and keys must leave at least 2 samples each"),
        (TOKENS, {"numbers": np.ones(3)}, "numbers must have one for each token up to 4, got \\(3,\\)"),
        (TOKENS, {"largest": 0}, "largest must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_tokens_are_named(tokens, options, message):
    with pytest.raises(InputError, match=message):
        token_hypotheses(tokens, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": np.ones((2, 3))}, r"template of 'match' must have shape \(3, 2\), query by key features, got"),
        ({"query_features": np.ones(3)}, "features of 'match' must have a row a sample"),
        ({"members": np.ones(2)}, r"members of 'match' must have shape \(1,\), a number for each, got \(2,\)"),
    ],
)
def test_bad_hypotheses_are_named(change, message):
    given = {"query_features": np.ones((5, 3)), "key_features": np.ones((4, 2)), "template": np.ones((3, 2))}
    with pytest.raises(InputError, match=message):
        Hypothesis("match", **(given | change))

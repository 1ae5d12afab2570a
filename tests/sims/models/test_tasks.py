"""Generators against their definition, sequence by sequence in plain Python."""

import jax
import numpy as np
import pytest

from sims.models.tasks import (
    TASKS,
    attributes,
    many_attributes,
    next_larger,
    task,
)
from svtheory import InputError

BATCH = 64


def sequences(name):
    """Each sequence of one batch as plain lists: tokens, answers, features, right positions."""
    given = task(name)
    sampled = jax.tree.map(np.asarray, jax.jit(given.sample, static_argnums=1)(jax.random.key(3), BATCH))
    assert sampled.tokens.shape[1:] == (given.length, BATCH)
    assert sampled.answers.shape == (given.questions, BATCH)
    assert sampled.tokens.max() < given.vocabulary
    for b in range(BATCH):
        yield tuple(jax.tree.map(lambda x, b=b: x[..., b].tolist(), part) for part in sampled)


@pytest.mark.parametrize("name", [*TASKS, "many_attributes"])
def test_hypotheses_fit_the_features_and_matches_have_one(name):
    given = task(name)
    sampled = jax.tree.map(np.asarray, jax.jit(given.sample, static_argnums=1)(jax.random.key(0), BATCH))
    assert set(sampled.right) <= set(given.hypotheses)
    for query, key, template in given.hypotheses.values():
        for feature, values in ((query, template.shape[0]), (key, template.shape[1])):
            seen = sampled.features[feature]
            assert seen.shape == (given.length, BATCH)
            assert seen.min() >= -1
            assert seen.max() == values - 1
    # what is right is asked for: its template value is the largest that the query can find
    for match, right in sampled.right.items():
        query, key, template = given.hypotheses[match]
        for b in range(BATCH):
            for q in np.flatnonzero(right[:, b] >= 0):
                row = template[sampled.features[query][q, b]]
                values = [row[v] if v >= 0 else 0.0 for v in sampled.features[key][: q + 1, b]]
                assert np.argmax(values) == right[q, b]
                assert sorted(values)[-1] > sorted(values)[-2]


def test_induction():
    for (tokens,), (answer,), features, right in sequences("induction"):
        body, last = tokens[:-1], tokens[-1]
        assert len(set(body)) == len(body)
        assert answer == body[body.index(last) + 1]
        assert right["previous token = token"] == [-1] * 7 + [body.index(last) + 1]
        assert right["previous position"] == [-1, 0, 1, 2, 3, 4, 5, -1]
        assert features["previous"] == [-1, *body]


def test_recall():
    for (tokens,), (answer,), features, right in sequences("recall"):
        cues, values = tokens[:-1:2], tokens[1::2]
        assert len(set(cues)) == len(cues)
        assert max(cues) < 8 <= min(values)
        assert answer == dict(zip(cues, values, strict=True))[tokens[-1]]
        assert right["cue before = cue"][-1] == 2 * cues.index(tokens[-1]) + 1
        assert right["previous position"] == [-1, 0, -1, 2, -1, 4, -1]
        assert [c for c in features["cue before"] if c >= 0] == cues


@pytest.mark.parametrize(
    ("name", "named"),
    [("attributes", ("colour", "shape")), ("many_attributes", ("colour", "shape", "pattern", "material"))],
)
def test_attributes(name, named):
    kinds = len(named)
    for tokens, answers, features, right in sequences(name):
        objects, asked, sizes = tokens[:kinds], tokens[kinds : 2 * kinds], tokens[-1]
        for kind in range(kinds):
            seen = [value - 8 * kind for value in objects[kind][:-1]]
            question = asked[kind][-1] - 8 * (kinds + kind)
            assert len(set(seen)) == len(seen)
            assert answers[kind] == sizes[seen.index(question)]
            assert right[f"{named[kind]} = asked {named[kind]}"][-1] == seen.index(question)
            assert features[named[kind]] == [*seen, -1]
            assert objects[kind][-1] == asked[kind][0] == sizes[-1] == -1


def test_largest():
    for (tokens,), (answer,), features, right in sequences("largest"):
        assert len(set(tokens)) == len(tokens)
        assert answer == max(tokens[:-1])
        assert right["larger"][-1] == tokens.index(answer)
        assert tokens[-1] == 16
        assert features["end"] == [0] * 7


def test_next_larger():
    """The right key has the largest value of those that the query can find, in every member of the family."""
    family = next_larger().hypotheses["next larger"].template
    for (tokens,), (answer,), features, right in sequences("next_larger"):
        *listed, asked = tokens
        assert len(set(listed)) == len(listed)
        assert answer == min(number for number in listed if number > asked)
        assert right["next larger"] == [-1] * 6 + [listed.index(answer)]
        assert features["number"] == tokens
        values = family[:, asked, tokens]
        assert (values.argmax(axis=1) == listed.index(answer)).all()
        assert (np.sort(values)[:, -1] > np.sort(values)[:, -2]).all()


def test_indirect_object():
    for (tokens,), (answer,), _, right in sequences("indirect_object"):
        names = [token for token in tokens if token < 6]
        assert sorted(map(names.count, set(names))) == [1, 4]
        assert names.count(tokens[-1]) == 4
        assert names.count(answer) == 1
        assert right["other name"][-1] == tokens.index(answer)


def test_every_position_is_right_equally_often():
    sampled = attributes().sample(jax.random.key(1), 6000)
    for right in sampled.right.values():
        counts = np.bincount(np.asarray(right[-1]), minlength=6)
        assert ((counts - 1000) ** 2 / 1000).sum() < 25  # chi-squared, 5 degrees of freedom


def test_unknown_task_and_shapes():
    with pytest.raises(InputError, match="task must be one of"):
        task("sorting")
    assert many_attributes().questions == 4

"""Bundles that hold every weight of an attention-only model are run as checkpoints are."""

import dataclasses

import numpy as np
import pytest
from small_models import attend, layer_norm

from svtheory import HeadBundle, read_bundle
from svtheory.checkpoints import finish, forward, network, run_layer, start
from svtheory.checks import InputError
from svtheory.heads.bundles import MODELS

LAYERS, HEADS, H, D, V, N = 2, 2, 4, 12, 9, 6
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, size=(3, N))


def weights(normed):
    """Random weights of a model with all biases, (out, in)."""
    stack = LAYERS, HEADS
    shapes = {"W_E": (D, V), "W_pos": (D, N), "W_V": (*stack, H, D), "W_O": (*stack, D, H), "W_U": (V, D)}
    shapes |= {"W_Q": (*stack, H, D), "W_K": (*stack, H, D), "b_Q": (*stack, H), "b_K": (*stack, H)}
    shapes |= {"b_V": (*stack, H), "b_O": (LAYERS, D), "b_U": (V,)}
    if normed:
        shapes |= {"norm_gain": (LAYERS, D), "norm_bias": (LAYERS, D), "final_gain": (D,), "final_bias": (D,)}
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}


def naive(w, tokens):
    """Logits and what heads read of one sequence, in float64."""
    w = {name: x.astype(float) for name, x in w.items()}
    x, read = w["W_E"][:, tokens].T + w["W_pos"].T[: len(tokens)], []
    for i in range(LAYERS):
        read.append(layer_norm(x, w["norm_gain"][i], w["norm_bias"][i]) if "norm_gain" in w else x)
        parts = [tuple(read[i] @ w[f"W_{r}"][i, h].T + w[f"b_{r}"][i, h] for r in "QKV") for h in range(HEADS)]
        out, _ = attend(parts)
        x = x + out @ np.concatenate(list(w["W_O"][i]), axis=1).T + w["b_O"][i]
    x = layer_norm(x, w["final_gain"], w["final_bias"]) if "final_gain" in w else x
    return x @ w["W_U"].T + w["b_U"], np.array(read)


def made(normed=False, turned=False, **metadata):
    w = weights(normed)
    passed = [naive(w, row) for row in TOKENS]
    named = {name: w.pop(name) for name in ("W_Q", "W_K", "b_Q", "b_K")}
    if turned:
        w = {name: x.swapaxes(-1, -2) if name.startswith("W_") else x for name, x in w.items()}
    read = np.stack([read for _, read in passed], axis=1).astype(np.float32)
    said = {"norm": "layer" if normed else "none", **metadata}
    return HeadBundle(**named, attn_in=read, others=w | {"tokens": TOKENS}, metadata=said), [x for x, _ in passed]


@pytest.mark.parametrize(("normed", "turned"), [(False, True), (True, False)])
def test_against_a_naive_forward(normed, turned):
    """Both ways round, told by the shapes."""
    bundle, logits = made(normed, turned)
    found = forward(network(bundle), TOKENS)
    assert np.abs(found.logits - logits).max() <= 1e-4
    assert np.abs(found.attn_in - bundle.attn_in).max() <= 1e-5 * np.abs(bundle.attn_in).max()


def test_steps_are_the_pass():
    """Layers run one by one from a residual stream, the last with other weights, give what they then would."""
    bundle, logits = made()
    model = network(bundle)
    first = run_layer(model.architecture, 0, model.layer(0), start(model, TOKENS))
    silent = model.layer(1) | {"W_O": np.zeros((D, HEADS * H), np.float32)}
    plain, changed = (run_layer(model.architecture, 1, w, first.after) for w in (model.layer(1), silent))
    assert np.abs(np.asarray(finish(model, plain.after)) - logits).max() <= 1e-4
    assert np.abs(np.asarray(changed.after - first.after) - model.layer(1)["b_O"]).max() <= 1e-6


def test_tokens_of_several_symbols():
    """A token is the sum of its symbols; -1 is none."""
    bundle, _ = made()
    pairs = np.stack([TOKENS, np.where(TOKENS > 4, 0, -1)], axis=2)
    E = bundle.others["W_E"]
    read = bundle.attn_in[:1] + np.where(TOKENS > 4, 1, 0)[None, ..., None] * E[:, 0]
    one = dataclasses.replace(
        bundle,
        attn_in=read,
        **{name: getattr(bundle, name)[:1] for name in ("W_Q", "W_K", "b_Q", "b_K")},
        others={n: x[:1] if n in ("W_V", "W_O", "b_V", "b_O") else x for n, x in bundle.others.items()}
        | {"tokens": pairs},
    )
    model = network(one)
    assert np.abs(np.asarray(start(model, pairs)) - read[0]).max() <= 1e-6
    with pytest.raises(InputError, match=r"tokens must be whole numbers \(sequences, positions, symbols\), got int64"):
        start(model, TOKENS)


def changed(**arrays):
    bundle, _ = made()
    kept = {name: x for name, x in {**bundle.others, **arrays}.items() if x is not None}
    return dataclasses.replace(bundle, others=kept)


@pytest.mark.parametrize(
    ("bundle", "sentence"),
    [
        (lambda: changed(W_V=None, tokens=None), "every weight of an attention-only model.* without W_V, tokens"),
        (lambda: changed(W_in=np.ones((2, 3))), "attention-only model to be run, got one with W_in, of an MLP"),
        (lambda: changed(b_O=None), "attn_in of its bundle, .* got 0.* in layer 1: look at the orientation"),
        (lambda: changed(W_V=weights(False)["W_V"].swapaxes(2, 3)), "orientation must fit d_model 12 in all matrices"),
        (lambda: changed(b_V=np.ones((2, 2, 3))), r"b_V must have shape \(2, 2, 4\), \(out, in\), got \(2, 2, 3\)"),
        (lambda: changed(norm_gain=np.ones(12)), r"norm_gain must have shape \(2, 12\), beside metadata norm"),
        (lambda: changed(tokens=TOKENS[:2]), "tokens must be .3, 6., as many sequences and positions as attn_in has"),
        (lambda: changed(W_U=np.full((V, D), np.nan, np.float32)), "W_U must be finite .* got 108 entries"),
        (lambda: made(orientation="in, out")[0], "orientation must fit d_model 12 in all matrices"),
        (lambda: made(orientation="x @ W")[0], "orientation must be one of 'out, in', 'in, out', got 'x @ W'"),
        (lambda: made(norm="batch")[0], "norm must begin with one of 'none', 'layer', 'rms', got 'batch'"),
        (lambda: made(causal="False")[0], "causal must be True for the model of a bundle to be run, got False"),
    ],
)
def test_what_cannot_be_run(bundle, sentence):
    with pytest.raises(InputError, match=sentence):
        network(bundle())


def test_logits_need_an_unembedding():
    with pytest.raises(InputError, match="bundle must hold W_U, the unembedding, to have logits"):
        forward(network(changed(W_U=None, b_U=None)), TOKENS)


@pytest.mark.skipif(not (MODELS / "sort5.safetensors").is_file(), reason=f"no bundles in {MODELS}")
@pytest.mark.parametrize("name", ["induction_ft000", "sort5"])
def test_public_models_do_their_task(name):
    """Accuracies are those that the README beside them states, 0.91 and 1.000."""
    bundle = read_bundle(name)
    tokens = bundle.others["tokens"]
    said = forward(network(bundle), tokens).logits.argmax(axis=-1)
    if name == "sort5":
        assert np.array_equal(said[:, 6:11], tokens[:, 7:12])
    else:
        first = (tokens[:, :-1] == tokens[:, -1:]).argmax(axis=1)
        assert (said[:, -1] == tokens[np.arange(len(tokens)), first + 1]).mean() > 0.85

"""What comes of removals, held against models whose weights no longer read the direction; the null against its mean."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle, balanced_spectrum, save_heads, spectrum
from svtheory.checkpoints import forward, network, read_layers
from svtheory.checkpoints.attention_only import AttentionOnly
from svtheory.checks import InputError
from svtheory.heads.weights import Head
from svtheory.instruments import cause
from svtheory.instruments.caused import donors
from svtheory.instruments.command import run as command
from svtheory.instruments.effects import Tally, compared
from svtheory.instruments.removals import Removal, at_random, isotropic, of_modes, one_sided, removed_variance
from svtheory.reports import memory
from svtheory.spectra.balanced import Root

LAYERS, HEADS, H, D, V, SEQUENCES, T = 2, 2, 3, 8, 7, 12, 5
STACK = LAYERS, HEADS
SHAPES = {"W_Q": (*STACK, H, D), "W_K": (*STACK, H, D), "W_E": (D, V), "W_pos": (D, T), "W_V": (*STACK, H, D)}
SHAPES |= {"W_O": (*STACK, D, H), "W_U": (V, D)}
RNG = np.random.default_rng(1)
WEIGHTS = {name: RNG.normal(size=shape, scale=0.7).astype(np.float32) for name, shape in SHAPES.items()}
TOKENS = RNG.integers(0, V, (SEQUENCES, T))
FEATURE = RNG.normal(size=D)
FEW = {"modes": 1, "draws": 2, "resamples": 100}


def model_of(changed=None, layers=LAYERS, tokens=TOKENS):
    """The bundle of a model whose weights are those above, but for those that are changed, and its first layers."""
    arrays = {name: x[:layers] if x.ndim == 4 else x for name, x in {**WEIGHTS, **(changed or {})}.items()}
    named = {name: arrays.pop(name) for name in ("W_Q", "W_K", "b_Q", "b_K") if name in arrays}
    blank, said = np.zeros((layers, *tokens.shape, D), np.float32), {"orientation": "out, in", "taken_for": "no more"}
    bundle = HeadBundle(**named, attn_in=blank, others=arrays | {"tokens": tokens}, metadata=said)
    read = [np.asarray(layer.attn_in) for layer in read_layers(AttentionOnly(bundle), tokens, attention=False)]
    return dataclasses.replace(bundle, attn_in=np.stack(read))


def changed_at(place, name, x):
    y = WEIGHTS[name].copy()
    y[place] = x
    return {name: y}


BUNDLE = model_of()


def along(place):
    """Patterns and probes (D, k) of either side, by name, from formulas."""
    r = BUNDLE.attn_in[place[0]].reshape(-1, D)
    A, B = r.T @ r / len(r), np.cov(r.T, bias=True)
    W_Q, W_K = WEIGHTS["W_Q"][place], WEIGHTS["W_K"][place]
    modes, raw = balanced_spectrum(W_Q, W_K, A, B), spectrum(W_Q, W_K)
    squares = np.asarray(modes.values) ** 2
    k = int(np.argmax(np.cumsum(squares) >= 0.9 * squares.sum())) + 1
    unit = (FEATURE / np.linalg.norm(FEATURE))[:, None]
    sides = (modes.query_patterns, modes.query_probes), (modes.key_patterns, modes.key_probes)
    return {
        "mode 1": [tuple(np.asarray(x)[:, :1] for x in side) for side in sides],
        "leading modes": [tuple(np.asarray(x)[:, :k] for x in side) for side in sides],
        "raw vector 1": [(np.asarray(x)[:, :1],) * 2 for x in (raw.left, raw.right)],
        "feature 4": [(unit, unit)] * 2,
    }


def effects(intact, edited, place, targets):
    """The five effects of every sequence, position by position."""
    found = np.zeros((SEQUENCES, 5))
    layer, head = place
    for s in range(SEQUENCES):
        each = []
        for p in range(1, T):
            a, b = (run.attention[layer, s, head, p].astype(float) for run in (intact, edited))
            key = a.argmax()
            each.append([a[key] - b[key], np.abs(a - b).sum() / 2])
        found[s, :2] = np.mean(each, axis=0)
        each = []
        for p, target in enumerate(targets[s]):
            if target < 0:
                continue
            a, b = (run.logits[s, p].astype(float) for run in (intact, edited))
            log_a, log_b = (x - np.log(np.exp(x).sum()) for x in (a, b))
            lost = (a - a.mean() - b + b.mean())[target]
            each.append([lost, np.exp(log_a) @ (log_a - log_b), log_a[target] - log_b[target]])
        found[s, 2:] = np.mean(each, axis=0)
    return found


@pytest.mark.parametrize(("ablation", "at"), [("mean", "all"), ("zero", "last")])
def test_effects_are_those_of_a_model_that_does_not_read_it(ablation, at):
    """Modes, vectors and features gone from W_Q and W_K, their means in biases."""
    place, model = (0, 1), network(BUNDLE)
    settings = cause.Settings(heads=("0.1",), ablation=ablation, at=at, **FEW)
    found = cause.survey(BUNDLE, settings=settings, features={4: FEATURE})
    assert found.intact.notnull().values.tolist() == [[False, True], [False, False]]
    intact, tokens = forward(model, TOKENS), BUNDLE.attn_in[0].reshape(-1, D)
    targets = np.full(TOKENS.shape, -1)
    targets[:, slice(-2 if at == "last" else 0, -1)] = TOKENS[:, slice(-1 if at == "last" else 1, None)]
    logits, follow = intact.logits[targets >= 0].astype(float), targets[targets >= 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(follow)), follow]
    np.testing.assert_allclose(found.intact_loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.chance_loss, np.log(V))
    for name, sides in along(place).items():
        changed = {}
        for letter, (P, Q) in zip("QK", sides, strict=True):
            W = WEIGHTS[f"W_{letter}"][place]
            put = (tokens @ Q).mean(axis=0) if ablation == "mean" else np.zeros(Q.shape[1])
            changed |= changed_at(place, f"W_{letter}", W - W @ P @ Q.T)
            changed[f"b_{letter}"] = np.zeros((*STACK, H), np.float32)
            changed[f"b_{letter}"][place] = W @ P @ put
        edited = forward(network(model_of(changed)), TOKENS)
        here = found.effect_of_sequence.sel(layer=0, head=1, direction=name)
        wanted = effects(intact, edited, place, targets)
        asked = slice(2, None) if at == "last" else slice(None)  # then attention is looked at where the target is
        np.testing.assert_allclose(here[:, asked], wanted[:, asked], rtol=1e-4, atol=1e-4)  # logits of 10 in float32
        assert (np.abs(wanted).max(axis=0) > 1e-3).all()
        mean = found.effect_mean.sel(layer=0, head=1, direction=name)
        np.testing.assert_allclose(mean, here.mean("sequence"), rtol=1e-5)


def test_resampled_coordinates_are_those_of_another_sequence():
    """On the key side alone, of sequences some of which end early."""
    mask = np.arange(T)[None] < np.where(np.arange(SEQUENCES) % 3, T, T - 2)[:, None]
    bundle, place = dataclasses.replace(BUNDLE, mask=mask), (1, 0)
    settings = cause.Settings(heads=("1.0",), side="key", ablation="resample", **FEW)
    found = cause.survey(bundle, settings=settings, features={4: FEATURE})
    unit, read = FEATURE / np.linalg.norm(FEATURE), bundle.attn_in[1]
    swapped = (read @ unit)[donors(mask, 0), np.arange(T)[None]]
    q, k = read @ WEIGHTS["W_Q"][place].T, read - ((read @ unit) - swapped)[..., None] * unit
    scores = [q @ (x @ WEIGHTS["W_K"][place].T).swapaxes(1, 2) / H**0.5 for x in (read, k)]
    weights = [np.where(np.tri(T)[None] > 0, np.exp(x), 0) for x in scores]
    a, b = (x / x.sum(axis=-1, keepdims=True) for x in weights)
    apart = np.abs(a - b).sum(axis=-1)[:, 1:] / 2
    wanted = [x[here].mean() for x, here in zip(apart, mask[:, 1:], strict=True)]
    there = found.effect_of_sequence.sel(layer=1, head=0, direction="feature 4")
    np.testing.assert_allclose(there.sel(effect="variation"), wanted, atol=1e-5)
    assert max(wanted) > 0.01


def test_donors_are_others_that_are_as_long():
    mask = np.arange(6)[None] < np.array([6, 4, 4, 2, 2, 2])[:, None]
    found = donors(mask, 0)
    for position in range(6):
        those = np.flatnonzero(mask[:, position])
        assert sorted(found[those, position]) == those.tolist()
        assert (found[those, position] != those).all() or len(those) == 1


def test_random_directions_of_the_same_variance():
    """Each takes variance 1, as a mode does, and on average 1/R of the score's; isotropic ones what there is."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(D, D)))
    lengths = np.append(np.geomspace(3, 0.03, D - 2), [0, 0])
    root, plain = Root(axes, lengths), Head(WEIGHTS["W_Q"][0, 0], WEIGHTS["W_K"][0, 0])
    A, R, draws = (axes * lengths**2) @ axes.T, D - 2, 200
    made = list(at_random(root, root, 2, draws, rng))
    shares = {}
    for removal in made:
        for side in removal[2:]:
            k = side.probes.shape[1]
            np.testing.assert_allclose(side.probes.T @ side.patterns, np.eye(k), atol=1e-9)
            if removal.kind != "isotropic":
                np.testing.assert_allclose(side.probes.T @ A @ side.probes, np.eye(k), atol=1e-9)
        share = removed_variance(plain, root, root, one_sided(removal, "query"))
        shares.setdefault(removal.kind, []).append(share)
    for kind, expected in (("same variance", 1 / R), ("as many", 2 / R)):
        error = np.std(shares[kind], ddof=1) / draws**0.5
        assert abs(np.mean(shares[kind]) - expected) < 4 * error
    variances = [float((x.query.probes.T @ A @ x.query.probes)[0, 0]) for x in made if x.kind == "isotropic"]
    np.testing.assert_allclose(np.mean(variances), np.trace(A) / D, atol=4 * np.std(variances) / draws**0.5)
    assert np.quantile(variances, 0.1) < np.quantile(variances, 0.9) / 4
    modes = balanced_spectrum(plain.W_Q, plain.W_K, *[A.astype(np.float32)] * 2)
    squares = np.asarray(modes.values, float) ** 2
    first = next(iter(of_modes(modes, spectrum(plain.W_Q, plain.W_K), 1)))
    for side in ("query", "both"):
        found = removed_variance(plain, root, root, one_sided(first, side))
        np.testing.assert_allclose(found, squares[0] / squares.sum(), rtol=1e-4)
    assert isinstance(first, Removal)
    assert isotropic(D, rng).probes.shape == (D, 1)


def test_heads_that_do_nothing():
    """One that writes nothing moves no logit, one that asks for nothing not even attention: intervals hold 0."""
    changed = changed_at((1, 0), "W_O", 0) | changed_at((0, 1), "W_Q", 0)
    found = cause.survey(model_of(changed), settings=cause.Settings(**FEW))
    silent, deaf, other = (found.sel(layer=i, head=j) for i, j in ((1, 0), (0, 1), (1, 1)))
    told = ["logit", "divergence", "loss"]
    for part in ("mean", "low", "high"):
        assert (silent[f"effect_{part}"].sel(effect=told) == 0).all()
        assert (deaf[f"effect_{part}"] == 0).all()
    assert deaf.ratio.isnull().all()
    assert cause.sentence(deaf) == (
        f"Without its first balanced mode it pays 0 (0 to 0) less attention to its key, of {float(deaf.intact):.2g}."
    )
    lost = other.effect_mean.sel(direction="mode 1", effect="attention")
    assert f"pays {float(lost):.3g} (" in cause.sentence(other)
    for head in (silent, other):
        assert (head.effect_mean.sel(effect="variation") > 0).all()
    assert (np.abs(other.effect_mean.sel(effect=told)) > 0).all()


def test_what_the_model_does_not_predict_makes_no_headline_of_the_loss():
    logits, settings = forward(network(BUNDLE), TOKENS).logits, cause.Settings(heads=("1.1",), **FEW)
    known, unknown = (
        cause.survey(BUNDLE, settings=settings, targets=x) for x in (logits.argmax(axis=-1), logits.argmin(axis=-1))
    )
    assert float(known.intact_loss) < np.log(V) < float(unknown.intact_loss)
    assert not cause.caveat(known)
    assert "rises in" in cause.answers(known)[-1]
    assert "leading_loss_gained_highest" in cause.summary(known)
    said = (
        f"does not predict these next tokens (intact loss {float(unknown.intact_loss):.3g} nats, chance log(V) = 1.95)"
    )
    assert said in cause.answers(unknown)[-1]
    assert said in cause.caption(unknown)
    assert "leading_loss_gained_highest" not in cause.summary(unknown)
    assert "loss gained" not in cause.brief(unknown)[0]
    assert cause.rows(unknown)[0]["loss, intact"] == float(unknown.intact_loss)
    lowered = known.assign(effect_mean=-np.abs(known.effect_mean))
    assert cause.answers(lowered)[-1].startswith("No such removal raises the loss")


def test_intervals():
    """They hold the mean as often as they should; a ratio is given where random directions do something."""
    rng, held, sequences = np.random.default_rng(2), [], 40
    kinds = np.array(["mode", "leading modes", *["same variance"] * 12, *["as many"] * 12, *["isotropic"] * 12])
    truth = np.array([1.0, 4.0, *[0.2] * 12, *[0.8] * 12, *[0.0] * 12])
    for trial in range(60):
        counts = rng.integers(1, 5, (sequences, 1)) * np.ones((1, 5))
        noise = rng.normal(size=(len(kinds), sequences, 5)) + 0.3 * rng.normal(size=(1, sequences, 5))
        found = compared(Tally((truth[:, None, None] + noise) * counts[None], counts), kinds, 200, trial)
        low, high = found.effect[1:, 0], found.effect[2, 0]
        held.append((found.effect[1, 0] <= 1) & (high >= 1))
        assert (low[0] <= found.effect[0, 0]).all()
    # of 60 trials of five effects 93 to 95 % should, within four standard errors of 300
    assert np.mean(held) >= 0.87
    assert np.mean(held) < 1
    quiet = compared(Tally((truth[:, None, None] + 0.1 * noise) * counts[None], counts), kinds, 200, 0)
    np.testing.assert_allclose(found.difference[0], found.effect[0][:, None] - _against(found, kinds), atol=1e-12)
    np.testing.assert_allclose(quiet.ratio[0], _ratio(quiet, kinds), rtol=1e-9)
    ratio = quiet.ratio[:, 0, 0]
    assert (ratio[1] <= 5).all()
    assert (ratio[2] >= 5).all()
    assert np.isnan(quiet.ratio[0, 1, 1]).all()  # leading modes have no isotropic ones beside them
    flat = compared(Tally(np.zeros((len(kinds), 9, 5)), np.ones((9, 5))), kinds, 100, 0)
    assert np.isnan(flat.ratio).all()
    assert (flat.difference[:, 0] == 0).all()


def _ratio(found, kinds):
    """Over the null where its interval lies above 0; of isotropic ones, which do nothing here, no ratio."""
    ratio = found.effect[0][:, None] / _against(found, kinds)
    ratio[:, 1] = np.nan
    return ratio


def _against(found, kinds):
    """The null of each edit, (edits, nulls, 5)."""
    against = np.repeat(found.null[0][None], len(kinds), axis=0)
    of_leading = kinds == "leading modes"
    against[of_leading, 0] = found.effect[0][kinds == "as many"].mean(axis=0)
    against[of_leading, 1] = np.nan
    return against


def test_the_command(tmp_path):
    named = {"known": np.stack([FEATURE, -FEATURE, 2 * FEATURE]).astype(np.float32)}
    save_heads(tmp_path / "model.safetensors", dataclasses.replace(BUNDLE, others=BUNDLE.others | named))
    given = ["--heads", "1.1", "--draws", "2", "--modes", "1", "--resamples", "100"]
    asked = [*given, "--features", "known", "--feature", "2", "--at", "last"]
    outcome = command("cause", [str(tmp_path / "model.safetensors"), *asked, "--out", str(tmp_path / "runs")])
    summary = json.loads((tmp_path / "runs" / "cause" / "model" / "summary.json").read_text())
    assert summary["heads"] == 1
    with xr.open_dataset(tmp_path / "runs" / "cause" / "model" / "results.nc", engine="h5netcdf") as stored:
        settings = cause.Settings(heads=("1.1",), at="last", **FEW)
        xr.testing.assert_allclose(stored.load(), cause.survey(BUNDLE, None, settings, features={2: 2 * FEATURE}))
    names = [row["direction"] for row in outcome.rows]
    assert names[:2] == ["mode 1", "raw vector 1"]
    assert names[2].startswith("leading modes (")
    assert names[3] == "feature 2"
    assert {row["head"] for row in outcome.rows} == {"1.1"}
    assert "heads;" not in outcome.answers[0]  # of one there is no median
    assert "no more" not in outcome.answers
    assert "The 3 features of --features known are taken for directions of what heads read." in outcome.answers


WRONG = np.zeros((SEQUENCES, T), int)
REFUSED = {
    "heads": (lambda: cause.survey(BUNDLE, settings=cause.Settings(heads=("2.0",))), "--heads must be .*got '2.0'"),
    "alone": (
        lambda: cause.survey(model_of(tokens=TOKENS[:1]), settings=cause.Settings(ablation="resample")),
        "--ablation resample must have another sequence to take from, got a single one",
    ),
    "draws": (
        lambda: cause.survey(BUNDLE, settings=cause.Settings(draws=10**8)),
        "--draws must ask for at most 16 GB",
    ),
    "resamples": (lambda: cause.survey(BUNDLE, settings=cause.Settings(resamples=10**8)), "--resamples must ask for"),
    "keys": (lambda: cause.survey(BUNDLE, keys=WRONG[:, 1:]), r"keys must be whole numbers \(12, 5\).*got int64"),
    "later": (lambda: cause.survey(BUNDLE, keys=WRONG + T), "keys must be below 5, got 5"),
    "targets": (lambda: cause.survey(BUNDLE, targets=WRONG - 1), "targets must be whole numbers"),
    "beyond": (lambda: cause.survey(BUNDLE, targets=WRONG + V), "targets must be below 7, got 7"),
    "feature": (lambda: cause.survey(BUNDLE, features={3: np.ones(2)}), r"features must be .*\(8,\).*got \(2,\)"),
    "size": (
        lambda: cause.survey(BUNDLE, network(model_of(layers=1))),
        r"model must have the heads of the bundle, \(2, 2, 3, 8\), got \(1, 2, 3, 8\)",
    ),
    "model": (
        lambda: cause.survey(BUNDLE, network(model_of(changed_at((0, 0), "W_V", 1)))),
        "model must be that of the bundle",
    ),
    "tokens": (
        lambda: cause.survey(
            dataclasses.replace(BUNDLE, others={k: v for k, v in BUNDLE.others.items() if k != "tokens"}),
            network(BUNDLE),
        ),
        "bundle must hold tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 16e9)
    call, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        call()


@pytest.mark.parametrize("cut", [np.s_[:3], np.s_[:, :3]])
def test_tokens_are_as_many_as_the_heads_read(cut):
    model = network(BUNDLE)
    few = dataclasses.replace(BUNDLE, others={**BUNDLE.others, "tokens": TOKENS[cut]})
    with pytest.raises(
        InputError, match=r"tokens must be .12, 5., as many sequences and positions as attn_in has, got"
    ):
        cause.survey(few, model)


def test_sequences_of_one_token_have_no_next_one():
    alone = dataclasses.replace(BUNDLE, mask=np.arange(T)[None] < np.ones((SEQUENCES, 1)))
    with pytest.raises(InputError, match="tokens must be followed by others, got sequences of 1 at most"):
        cause.survey(alone)

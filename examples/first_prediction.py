# %% [markdown]
# # A first prediction, and why alignment fails
#
# **Will the singular vectors of a head be its features? If not, what will they be, and what shows the
# features instead?**
#
# A head is to match one feature with another: its logit is to be 1 where the query has feature 0 and
# the key feature 1. Twelve features share six dimensions. Theory says what the head's singular vectors
# will be before it is trained. Heads are trained with `sims`, which needs a checkout; all else comes with
# `pip install`.

# %%
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: waiting threads slow small factorisations down

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import svtheory
from sims import Training, simulate  # from a checkout

DIM, FEATURES = 6, 12
KAPPA = (1, 2, 4, 8, 16, 32, 64)


def scenario(condition_number):
    """Features as columns, of unit length, whose frame operator has this condition number."""
    X = svtheory.conditioned_frame(jax.random.key(3), DIM, FEATURES, condition_number)
    return svtheory.Scenario(X, X, svtheory.single_pair(FEATURES, FEATURES, 0, 1))


def cosine(a, b):
    """|cos| of two vectors."""
    return float(abs(a @ b) / jnp.linalg.norm(a) / jnp.linalg.norm(b))


scenarios = {kappa: scenario(kappa) for kappa in KAPPA}
features = {kappa: scenarios[kappa].query_features[:, 0] for kappa in KAPPA}

# %% [markdown]
# ## The prediction
#
# `predict` gives the spectrum of the fully trained head. Where features spread evenly over the space, as
# the polytopes of superposition do (condition number 1), the leading singular vector is the feature. The
# more unevenly they spread, the further it turns away, towards the dual: the vector that responds to this
# feature and as little as it can to the others (T1).

# %%
predicted = {kappa: svtheory.predict(scenarios[kappa]).left[:, 0] for kappa in KAPPA}
expected = {kappa: cosine(predicted[kappa], features[kappa]) for kappa in KAPPA}
chance = float(svtheory.chance_alignment(DIM))
print("|cos| of singular vector and feature", {kappa: round(x, 3) for kappa, x in expected.items()})
print(f"|cos| of random directions {chance:.3f}")

# %% [markdown]
# ## Why
#
# `conditions` lists what would have to hold, how far it is from holding (margin 0: it holds), and the
# least |cos| that is promised all the same. Here nothing is wrong but the anisotropy of the features.

# %%
print(svtheory.conditions(scenarios[16]))

# %% [markdown]
# ## The trained head
#
# Heads are trained for two of these sets of features, from a small random start. They have not seen the
# prediction, nor the prediction the heads.

# %%
trained = {kappa: simulate(scenarios[kappa], jax.random.key(1), Training(steps=200)) for kappa in (4, 16)}
raw = {kappa: cosine(head.left[:, 0], features[kappa]) for kappa, head in trained.items()}
for kappa, head in trained.items():
    print(
        f"condition number {kappa}: |cos| of the trained singular vector with the prediction "
        f"{cosine(head.left[:, 0], predicted[kappa]):.4f}, with the feature {raw[kappa]:.3f}"
    )

# %% [markdown]
# ## What shows the feature all the same
#
# The head is right, and the reading is at fault: the dual is a feature seen through the second moment of
# the tokens. Read in the coordinates of its data (T22), each mode of a head is a *pattern*, what in a
# token moves it, beside a *probe*, what the head computes. The pattern of a matched feature is the
# feature, whatever the anisotropy, while activations are uncorrelated and centred; `conditions` says what
# else that takes where several pairs are matched in superposition.


# %%
def pattern(head, X):
    """The leading query pattern of a head whose tokens are X f, activations f of second moment I."""
    moment = X @ X.T
    W_Q, W_K = (head.left @ jnp.diag(head.values)).T, head.right.T  # factors of Omega
    return svtheory.balanced_spectrum(W_Q, W_K, moment, moment).query_patterns[:, 0]


balanced = {
    kappa: cosine(pattern(head, scenarios[kappa].query_features), features[kappa]) for kappa, head in trained.items()
}
print("|cos| of balanced pattern and feature", {kappa: round(x, 4) for kappa, x in balanced.items()})

# %%
figure = Figure(layout="constrained")
ax = figure.subplots()
ax.semilogx(KAPPA, expected.values(), color="C0", label="singular vector, predicted")
ax.semilogx(KAPPA, [2 * k**0.5 / (1 + k) for k in KAPPA], "--", color="grey", label="least possible (T3)")
ax.semilogx(raw.keys(), raw.values(), "o", color="C0", label="singular vector, trained head")
ax.semilogx(balanced.keys(), balanced.values(), "s", color="C1", label="balanced pattern, trained head")
ax.axhline(chance, color="grey", linestyle=":", label="chance")
ax.set(xlabel="condition number of the features", ylabel="|cos| with the feature", ylim=(0, 1.05))
ax.set_xticks(KAPPA, KAPPA, minor=False)
ax.legend(loc="lower left")
figure

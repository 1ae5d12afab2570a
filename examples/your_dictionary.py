# %% [markdown]
# # Your dictionary against every head
#
# **Do the directions of my heads lie along the features of my dictionary, beyond what chance would give?**
#
# A dictionary is a matrix of features as columns: the decoder of a sparse autoencoder, token embeddings,
# directions that were found by hand. `align` compares every singular vector that can be named with every
# feature, in each reading, and gives two levels of chance: the best cosine of random directions, and whole
# random heads on the same tokens.
#
# The heads are those of [the page before](head_of_your_model.ipynb). Their tokens are known, so that a
# dictionary is easily made: what the second layer reads, on average, when the current token is t, and when
# the token before is t.

# %%
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: waiting threads slow small factorisations down

# %%
# %matplotlib inline
from pathlib import Path

import numpy as np
import pandas as pd

# from a checkout: the wheel has no `sims`, which trains the model of this page
from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on, unseen
from svtheory import balanced_spectrum, spectrum
from svtheory.instruments import align
from svtheory.spectra import Tokens

SYMBOLS = 12
models = trained(Recipe("induction", members=1, steps=400), Path("runs"))
_, sampled, _ = next(unseen(models, seed=1, sequences=200))
heads = bundle(models, 0, run_on(models, 0, sampled).reads)
tokens = np.asarray(sampled.tokens[0]).T  # (sequences, positions)
read = heads.attn_in[1, :, 1:]  # at positions that have one before them
read = read - read.mean(axis=(0, 1))


def means(tokens):
    """What is read when the token is t, on average, a column for each t."""
    return np.stack([read[tokens == t].mean(axis=0) for t in range(SYMBOLS)], axis=1)


current, previous = means(tokens[:, 1:]), means(tokens[:, :-1])
features = np.concatenate([current, previous], axis=1)

# %%
found = align.survey(heads, features, align.Settings(draws=199))
align.figure(found)

# %% [markdown]
# Features 0 to 11 are current tokens, 12 to 23 previous ones. The isotropic p-value is tiny for the head of
# the second layer, and says little: anything that lives where the tokens do aligns with them. What random
# heads on the same tokens reach is the level to beat. One reading of one side does, the balanced one of that
# head's keys: its strongest mode lies along a previous token.

# %%
pd.DataFrame(align.rows(found))

# %% [markdown]
# ## A dictionary that means nothing
#
# As many random directions: what `align` says of them is chance, and neither p-value should be small.

# %%
nothing = np.random.default_rng(0).normal(size=features.shape)
pd.DataFrame(align.rows(align.survey(heads, nothing, align.Settings(draws=199))))

# %% [markdown]
# ## One vector, or a subspace?
#
# The second layer's head matches the current token with the token before the key, all twelve alike. Equal
# singular values fix no vector (T4), and these are near to equal: no single vector is a token. So ask for the
# subspace. How much of the span of the five strong modes lies in the span of the features? It should be that
# of *current* tokens for queries, and that of *previous* ones for keys.

# %%
STRONG = 5


def inside(vectors, features):
    """The share of the vectors' span (D, K) that lies in the span of the features (D, N)."""
    V, U = np.linalg.qr(vectors)[0], np.linalg.svd(features)[0][:, : SYMBOLS - 1]  # centred: one less
    return np.linalg.norm(U.T @ V) ** 2 / V.shape[1]


head, rows = heads.head(1, 0), heads.attn_in[1].reshape(-1, heads.W_Q.shape[-1])
raw = spectrum(head.W_Q, head.W_K)
balanced = balanced_spectrum(head.W_Q, head.W_K, Tokens(rows), Tokens(rows - rows.mean(axis=0)))
print("balanced values", [round(float(value), 2) for value in balanced.values])
read_as = {
    ("query", "raw"): raw.left,
    ("query", "balanced"): balanced.query_patterns,
    ("key", "raw"): raw.right,
    ("key", "balanced"): balanced.key_patterns,
}
pd.DataFrame(
    [
        {
            "side": side,
            "reading": reading,
            "in current tokens": inside(np.asarray(vectors)[:, :STRONG], current),
            "in previous tokens": inside(np.asarray(vectors)[:, :STRONG], previous),
            "chance": (SYMBOLS - 1) / len(features),
        }
        for (side, reading), vectors in read_as.items()
    ]
)

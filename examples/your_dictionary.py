# %% [markdown]
# # Your dictionary against every head
#
# **Do the directions of my heads lie along the features of my dictionary, beyond what chance would
# give?**
#
# A dictionary is a matrix of features as columns: the decoder of a sparse autoencoder, token embeddings,
# directions that were found by hand. `align` compares every singular vector that can be named with every
# feature, in each reading, and gives two levels of chance: the best cosine of random directions, and
# whole random heads on the same tokens.
#
# The heads are those of [the page before](head_of_your_model.ipynb). Its tokens are known, so that a
# dictionary is easily made: what the second layer reads, on average, when the current token is t, and
# when the token before is t.

# %%
from pathlib import Path

import numpy as np
import pandas as pd

from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on, unseen
from svtheory.instruments import align

SYMBOLS = 12
models = trained(Recipe("induction", members=1, steps=400), Path("runs"))
_, sampled, _ = next(unseen(models, seed=1, sequences=200))
heads = bundle(models, 0, run_on(models, 0, sampled).reads)
read = heads.attn_in[1, :, 1:]  # (sequences, positions, D), of positions that have one before them
tokens = np.asarray(sampled.tokens[0]).T
current, previous = tokens[:, 1:], tokens[:, :-1]
mean = read.mean(axis=(0, 1))
features = np.stack(
    [read[what == t].mean(axis=0) - mean for what in (current, previous) for t in range(SYMBOLS)], axis=1
)
print("dictionary", features.shape, "the first", SYMBOLS, "current tokens, then previous ones")

# %%
found = align.survey(heads, features, align.Settings(draws=199))
align.figure(found)
pd.DataFrame(align.rows(found))

# %% [markdown]
# ## A dictionary that means nothing
#
# As many random directions: what `align` says of them is the level of chance, and it should find nothing.

# %%
nothing = np.random.default_rng(0).normal(size=features.shape)
pd.DataFrame(align.rows(align.survey(heads, nothing, align.Settings(draws=199))))

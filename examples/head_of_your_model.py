# %% [markdown]
# # A head of your model
#
# **What does this head match, and is it sparser than chance?**
#
# Three instruments answer, one call each. A model of your own comes from its folder, from TransformerLens or
# from PyTorch, each in one line ([bundles](../bundles.md)):
#
#     heads = svtheory.read_model("path/to/folder", text)
#     heads = svtheory.export.from_transformer_lens(model, tokens)
#
# So that this page needs none, a small transformer is trained here first: two layers of one head, on
# sequences of eight symbols whose last repeats an earlier one, and whose answer is the symbol after that. Such
# models are known to grow a head that finds the previous position and, above it, an induction head, which
# attends to where the token before is the current one.

# %%
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: waiting threads slow small factorisations down

# %%
# %matplotlib inline
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

# from a checkout: the wheel has no `sims`, which trains the model of this page
from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on, unseen
from svtheory.instruments import explain, sad, spectra

pd.set_option("display.max_colwidth", None)  # verdicts are sentences
models = trained(Recipe("induction", members=1, steps=400), Path("runs"))
_, sampled, _ = next(unseen(models, seed=1, sequences=200))
ran = run_on(models, 0, sampled)
heads = bundle(models, 0, ran.reads)
heads = dataclasses.replace(heads, others={**heads.others, "tokens": np.asarray(sampled.tokens[0]).T})
print(heads)

# %% [markdown]
# ## What is there
#
# `spectra` gives each head's singular values beside those of heads of random entries, and how many it
# effectively has.

# %%
found = spectra.survey(heads)
spectra.figure(found)
# %% [markdown]
# ## Sparser than chance?
#
# Each query's attention to the key it attends most is a sum of terms, one a singular pair. `sad` asks whether
# fewer terms carry it than in random heads of the same singular values on the same tokens. Rotations, the
# usual control, reject any head of low rank, whatever its vectors are, and are shown as a diagnostic.

# %%
decomposed = sad.survey(heads)
sad.figure(decomposed)

# %%
pd.DataFrame(sad.rows(decomposed))

# %% [markdown]
# ## What is it for?
#
# `explain` holds every head against what can be said of its tokens and positions. A hypothesis counts by how
# much of the head's logits it predicts (its functional cosine), by its lead over every rival, and by what
# random heads reach. Queries are the positions where the heads' decision matters, here the last; keys are
# those with a token before them.

# %%
explained = explain.survey(heads, settings=explain.Settings(queries="-1:", keys="1:7", draws=199))
explain.figure(explained)

# %%
pd.DataFrame(explain.rows(explained))

# %% [markdown]
# The second layer's head is the induction head. Nothing explains the first layer's at the last query, where
# the answer is made. Its work is done earlier: held against all queries, it is partly what the induction head
# needs, a head of the previous position.

# %%
everywhere = explain.survey(heads, settings=explain.Settings(layer=0, queries="2:", draws=199))
pd.DataFrame(explain.rows(everywhere))

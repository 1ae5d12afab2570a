# %% [markdown]
# # A head of your model
#
# **Is this head sparser than chance, and which vectors carry it?**
#
# Instruments answer, one call each. A model of your own comes from its folder or from a bundle
# ([bundles](../bundles.md)); so that this page needs neither, a small transformer is trained here first:
# two layers of one head, on sequences of eight symbols whose last repeats an earlier one, and whose
# answer is the symbol after that. It is known to need a head that finds the previous position and one, an
# induction head, that finds "the token before this one is the current token".

# %%
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on, unseen
from svtheory.instruments import sad, spectra

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
# Each query's attention to the key it attends most is a sum of terms, one a singular pair. `sad` asks
# whether fewer terms carry it than in random heads of the same singular values on the same tokens.
# Rotations, the usual control, reject any head of low rank and are shown as a diagnostic.

# %%
decomposed = sad.survey(heads)
sad.figure(decomposed)
pd.DataFrame(sad.rows(decomposed))

"""When and why the singular vectors of an attention head are the features a model uses.

A Scenario is read twice: `predict(scenario)` gives the spectrum that theory expects, `sims.simulate(scenario, key)`
trains a head and gives the spectrum that came out, and `compare(prediction, measurement)` says how they agree.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

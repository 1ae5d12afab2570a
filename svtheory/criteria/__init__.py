"""Criteria: will the singular vectors of a head be its features, and why, or why not?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Export: heads of PyTorch models as bundles, each held against the attention that its model pays."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

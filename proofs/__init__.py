"""The theory of the project, stated in sympy and verified: run ``python -m proofs``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import proofs.theorems as chapters

if TYPE_CHECKING:
    from proofs.engine.verifier import Theorem


def theorems() -> list[Theorem]:
    """Every theorem of the package, found by listing it, in order of number."""
    names = sorted(module.name for module in pkgutil.iter_modules(chapters.__path__))
    return [importlib.import_module(f"{chapters.__name__}.{name}").theorem for name in names]

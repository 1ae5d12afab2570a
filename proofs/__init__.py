"""The theory of the project, stated in sympy and verified: run ``python -m proofs``.

One file per theorem, ``tNN_content.py``, exposes `theorem`, a `proofs.verifier.Theorem`. To write one:

1. State `hypotheses` and `claim` as dictionaries of named sympy statements. Matrices of general size are
   `MatrixSymbol`s of symbolic shape; `proofs.notation` adds `PseudoInverse` (meaningless until `penrose` is a
   hypothesis), `SquaredNorm`, `Inner`, `norm`, and `equal` and `implies`, which leave a statement as it is written.
   Vectors are columns of shape ``(D, 1)``; sums of general length are `Sum`s of `Indexed` symbols; signs are
   hypotheses (``Gt(a, 0)``) or assumptions of symbols.
2. Write ``proof(claim)``, which yields steps built from the claim that it receives. ``claim.conclude(part, name)``
   yields the step that says exactly what a part says (the consequent under its antecedents, if it is an implication);
   other steps are `Identity` and `Inequality` (with a certificate whose sign shows), with ``proves=part``
   where one helps to establish a part. Every part must be concluded. Symbols that a part defines are written out with
   ``replace``.
3. Hypotheses are not passed to the proof. The verifier puts those in force into a `proofs.given.Given`, which
   rewrites matrix words by the equations, reduces scalars modulo the scalar equations, and reads signs off structure;
   a step that needs a hypothesis that is not there leaves a residual.
4. Give at least two `Control`s (false neighbours, by changed parts of the claim or dropped hypotheses), one or more
   exact `examples` (hypotheses and claim are evaluated there: they guard against hypotheses that contradict one
   another) and `counterexamples` (for each hypothesis, values at which only it fails and the claim with it).

`proofs.t01_dual_frame_optimum` is the model. ``theorem.verify()`` checks all; ``theorem.steps(claim, without)`` runs
the proof of another claim or with hypotheses dropped. Nothing here uses floating point.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proofs.verifier import Theorem


def theorems() -> list[Theorem]:
    """Every theorem of the package, found by listing it, in order of number."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if re.fullmatch(r"t\d\d_\w+", module.name))
    return [importlib.import_module(f"{__name__}.{name}").theorem for name in names]

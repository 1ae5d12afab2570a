"""Integrals and limits inside a claim, carried out by sympy before the claim is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from sympy import Eq, Integral, Limit

from proofs.steps import Identity, Step
from proofs.verifier import Claim


@lru_cache(maxsize=256)
def carried_out(node: Any) -> Any:
    """The value of an integral or a limit; the node itself where sympy finds none."""
    return node.doit()


def conclude(claim: Claim, part: str, name: str, rules: Mapping[Any, Any] | None = None) -> Iterator[Step]:
    """`Claim.conclude` of an equation whose integrals and limits are carried out, then rewritten by rules."""
    relation = claim[part]
    if not isinstance(relation, Eq):
        raise TypeError(f"part {part!r} is not an equation: {relation}")
    left, right = relation.args
    values = {node: carried_out(node) for node in relation.atoms(Integral, Limit)}
    left, right = (side.xreplace(values).xreplace(dict(rules or {})) for side in (left, right))
    yield Identity(name, left, right, part)

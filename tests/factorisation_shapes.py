"""Shapes of what a program factorises: batches, on two devices of a small CPU, can wait for one another forever."""

import re

import jax

CALL = re.compile(r"= \(?[a-z]\d+\[([\d,]+)\][^=]*custom-call\(.*(?:lapack|blas)_")


def factorisation_shapes(program: jax.stages.Compiled) -> list[tuple[int, ...]]:
    """The shape of the first result of each call of LAPACK's or BLAS's, (..., m, n)."""
    text = program.as_text()
    assert text is not None
    found = map(CALL.search, text.splitlines())
    return [tuple(map(int, call[1].split(","))) for call in found if call]

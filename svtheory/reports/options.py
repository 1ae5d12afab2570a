"""Options: dataclasses whose fields say beside their types how large they may be, checked when one is made."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from svtheory.checks import InputError

LARGEST = 10**8
"""No whole number but a seed may be larger: of N x N arrays jax could no longer count the bytes, and aborts."""
LARGEST_SEED = 2**31 - 1
"""Keys of jax keep 32 bits of a seed, and some experiments count on from theirs."""


class Limit(NamedTuple):
    """What numbers an option `allows`, in `words`; stands in an `Annotated` type."""

    words: str
    allows: Callable[[float], bool]


def at_least(bound: float) -> Limit:
    """Numbers of at least `bound`."""
    return Limit(f" of at least {bound:g}", lambda x: x >= bound)


def above(bound: float) -> Limit:
    """Numbers above `bound`."""
    return Limit(f" above {bound:g}", lambda x: x > bound)


def between(low: float, high: float) -> Limit:
    """Numbers above `low` and at most `high`."""
    return Limit(f" above {low:g} and at most {high:g}", lambda x: low < x <= high)


FINITE = Limit("", lambda x: True)
PROBABILITY = between(0, 1)
MULTIPLE = 1e6
"""The largest multiple of another size that may be asked for."""


@dataclass(frozen=True)
class Options:
    """Base of frozen dataclasses of options, whose fields may be limited: `Annotated[int, at_least(2)]`.

    A limit is for an int or a float, one of these or None, or a tuple of them that may not be empty. Floats must be
    finite and ints at most LARGEST, those without a limit too. Raises InputError in the spelling of the command line.

    `ARRAYS` says how many numbers the largest arrays hold at least, each as a product of options, the largest value of
    those that are several, and of factors: "members n_features n_features", "sequences 64", "tokens 6 cores" where each
    core holds one. What there is no memory for is refused before a run begins (`svtheory.reports.memory`).

    >>> from typing import Annotated
    >>> @dataclass(frozen=True)
    ... class Config(Options):
    ...     n_frames: Annotated[int, at_least(2)] = 3
    >>> Config(n_frames=1)
    Traceback (most recent call last):
    svtheory.checks.InputError: --n-frames must be a whole number of at least 2, got 1
    """

    ARRAYS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            hint, value = hints[field.name], getattr(self, field.name)
            kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            limit = next((x for x in told if isinstance(x, Limit)), None)
            if limit is not None or ({int, float} & {kind, *get_args(kind)} and value != ()):
                _check(field.name, kind, limit or FINITE, value)


def _check(name: str, kind: Any, limit: Limit, value: Any) -> None:
    """Raise InputError unless the numbers in the field `name`, of type `kind`, keep the limit."""
    several, whole = get_origin(kind) is tuple, int in (kind, *get_args(kind))
    bound, numbers = LARGEST_SEED if name == "seed" else LARGEST, value if several else (value,)
    if value is None or (numbers and all(_keeps(limit, bound if whole else None, x) for x in numbers)):
        return
    large = whole and any(isinstance(x, Integral) and abs(int(x)) > bound for x in numbers)
    words = limit.words + (f" and at most {bound}" if limit.words else f" of at most {bound}") * large
    number = ("whole" if whole else "finite") + (" numbers" if several else " number")
    option, article = f"--{name.replace('_', '-')}", "" if several else "a "
    raise InputError(f"{option} must be {article}{number}{words}, got {value}")


def _keeps(limit: Limit, bound: int | None, x: Any) -> bool:
    if bound is not None:
        return isinstance(x, Integral) and not isinstance(x, bool) and abs(int(x)) <= bound and limit.allows(int(x))
    return isinstance(x, Real) and bool(np.isfinite(float(x))) and limit.allows(float(x))

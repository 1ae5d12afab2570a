"""Options: dataclasses whose fields say beside their types how large they may be, checked when one is made."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from svtheory.checks import InputError


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


FINITE = Limit("", lambda x: True)
PROBABILITY = Limit(" above 0 and at most 1", lambda x: 0 < x <= 1)


@dataclass(frozen=True)
class Options:
    """Base of frozen dataclasses of options, whose fields may be limited: `Annotated[int, at_least(2)]`.

    A limit is for an int or a float, one of these or None, or a tuple of them that may not be empty; floats must be
    finite. Raises InputError in the spelling of the command line.

    >>> from typing import Annotated
    >>> @dataclass(frozen=True)
    ... class Config(Options):
    ...     n_frames: Annotated[int, at_least(2)] = 3
    >>> Config(n_frames=1)
    Traceback (most recent call last):
    svtheory.checks.InputError: --n-frames must be a whole number of at least 2, got 1
    """

    def __post_init__(self):
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            for limit in getattr(hints[field.name], "__metadata__", ()):
                if isinstance(limit, Limit):
                    _check(field.name, hints[field.name].__origin__, limit, getattr(self, field.name))


def _check(name: str, kind: Any, limit: Limit, value: Any) -> None:
    """Raise InputError unless the numbers in the field `name`, of type `kind`, keep the limit."""
    several, whole = get_origin(kind) is tuple, int in (kind, *get_args(kind))
    if value is None or ((numbers := value if several else (value,)) and all(_keeps(limit, whole, x) for x in numbers)):
        return
    number = ("whole" if whole else "finite") + (" numbers" if several else " number")
    option, article = f"--{name.replace('_', '-')}", "" if several else "a "
    raise InputError(f"{option} must be {article}{number}{limit.words}, got {value}")


def _keeps(limit: Limit, whole: bool, x: Any) -> bool:
    if whole:
        return isinstance(x, Integral) and not isinstance(x, bool) and limit.allows(int(x))
    return isinstance(x, Real) and bool(np.isfinite(float(x))) and limit.allows(float(x))

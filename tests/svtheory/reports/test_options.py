from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from svtheory.checks import InputError
from svtheory.reports.command import parsed
from svtheory.reports.options import FINITE, PROBABILITY, Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the stand-in."""

    n_frames: Annotated[int, at_least(2)] = 3
    """Frames."""
    rate: Annotated[float, above(0)] = 0.5
    decay: Annotated[float, at_least(0)] = 0.0
    devices: Annotated[int | None, at_least(1)] = None
    heads: Annotated[tuple[int, ...], at_least(1)] = (2, 4)
    probabilities: Annotated[tuple[float, ...], PROBABILITY] = (0.1, 1.0)
    modes: Annotated[tuple[float, ...], FINITE] = (-1.0,)
    seed: int = -1


@dataclass(frozen=True)
class Longer(Config):
    extra: Annotated[int, at_least(5)] = 5

    def __post_init__(self):
        super().__post_init__()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_frames": 1}, "--n-frames must be a whole number of at least 2, got 1"),
        ({"n_frames": 2.5}, "--n-frames must be a whole number of at least 2, got 2.5"),
        ({"n_frames": True}, "--n-frames must be a whole number of at least 2, got True"),
        ({"rate": 0.0}, "--rate must be a finite number above 0, got 0.0"),
        ({"rate": np.inf}, "--rate must be a finite number above 0, got inf"),
        ({"rate": "fast"}, "--rate must be a finite number above 0, got fast"),
        ({"decay": -1e-9}, "--decay must be a finite number of at least 0, got -1e-09"),
        ({"decay": np.nan}, "--decay must be a finite number of at least 0, got nan"),
        ({"devices": 0}, "--devices must be a whole number of at least 1, got 0"),
        ({"heads": (2, 0)}, "--heads must be whole numbers of at least 1, got (2, 0)"),
        ({"heads": ()}, "--heads must be whole numbers of at least 1, got ()"),
        ({"probabilities": (0.5, 1.5)}, "--probabilities must be finite numbers above 0 and at most 1, got (0.5, 1.5)"),
        ({"modes": (1.0, np.inf)}, "--modes must be finite numbers, got (1.0, inf)"),
    ],
)
def test_numbers_beyond_a_limit_are_refused(given, sentence):
    with pytest.raises(InputError) as raised:
        Config(**given)
    assert str(raised.value) == sentence


def test_numbers_within_limits_are_kept():
    config = Longer(n_frames=np.int64(2), rate=1, decay=0, devices=1, heads=(1,), probabilities=(1,), modes=(-5.0,))
    assert (config.n_frames, config.rate, config.devices, config.heads) == (2, 1, 1, (1,))
    with pytest.raises(InputError, match=r"^--extra must be"):
        Longer(extra=4)


def test_the_command_line_keeps_them(capsys):
    assert parsed(Config, "program", "about", ["--n-frames", "2"]) == Config(n_frames=2)
    with pytest.raises(InputError, match=r"--heads must be whole numbers of at least 1, got \(1, 0\)$"):
        parsed(Config, "program", "about", ["--heads", "1", "0"])
    with pytest.raises(SystemExit):
        parsed(Config, "program", "about", ["--help"])
    assert "Frames. (default: 3)" in capsys.readouterr().out

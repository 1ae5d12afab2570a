"""One list of bad values for the options of all commands: each is one sentence, before anything is computed."""

import importlib
from dataclasses import fields, replace
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest

from sims.__main__ import experiments
from sims.lab.gallery import Config as Gallery
from svtheory.checks import InputError
from svtheory.instruments import INSTRUMENTS
from svtheory.instruments.command import run
from svtheory.reports.memory import check_arrays
from svtheory.reports.options import LARGEST

# what no option of the kind may be; the largest are asked for by slips of the keyboard, and must not be allocated
BAD = {int: (99_999_999_999, 10**30, 1.5, np.nan, True, "x"), float: (np.nan, np.inf, -np.inf, "x")}


# of an experiment as many as may be only take longer
TIME = {"steps", "square_steps", "softmax_steps", "training", "draws", "snapshots", "noisy_heads"}
TIME |= {"modes", "contexts of contexts"}  # no more are read than there are
MACHINE = 4e9  # bytes


def configs():
    """Default options of each command."""
    found = {name: next(iter(importlib.import_module(f"sims.{name}").SCALES.values())) for name in experiments()}
    found["all"] = Gallery()
    for name in INSTRUMENTS:
        requested = importlib.import_module(f"svtheory.instruments.{name}").requested
        found |= {
            f"svtheory {name} {part}": kind() for part, kind in asked(requested) if hasattr(kind, "__post_init__")
        }
    return found


def asked(requested):
    return [(part, kind) for part, kind in get_type_hints(requested).items() if part != "return"]


CONFIGS = configs()


def numbers(config):
    """Options that are numbers or several: their name, kind, and whether they are several."""
    for field in fields(config):
        kind = get_type_hints(type(config))[field.name]
        several = get_origin(kind) is tuple
        number = next((one for one in (int, float) if one in (kind, *get_args(kind))), None)
        if number is not None:
            yield field.name, number, several


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_numbers_are_refused_in_one_sentence(name):
    for option, kind, several in numbers(CONFIGS[name]):
        for value in BAD[kind]:
            with pytest.raises(InputError, match=f"^--{option.replace('_', '-')} must be [^\n]+$"):
                replace(CONFIGS[name], **{option: (value,) if several else value})


@pytest.mark.parametrize("name", [*experiments()])
def test_sizes_that_no_machine_has_memory_for_are_refused(name):
    check_arrays(CONFIGS[name], MACHINE)
    for option, kind, several in numbers(CONFIGS[name]):
        if kind is float or {option, f"{option} of {name}"} & {"seed", *TIME}:
            continue
        with pytest.raises(InputError, match=r"^--[^\n]+ must be [^\n]+ got [^\n]+$"):
            check_arrays(replace(CONFIGS[name], **{option: (LARGEST,) if several else LARGEST}), MACHINE)


def test_most_options_are_among_them():
    assert sum(len(list(numbers(config))) for config in CONFIGS.values()) > 150


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("phase --crowding nan", "--crowding must be finite numbers above 1 and at most 1e+06, got (nan,)"),
        ("phase --crowding 1e11", "--crowding must be finite numbers above 1 and at most 1e+06, got (100000000000.0,)"),
        ("training --modes inf 1", "--modes must be finite numbers, got (inf, 1.0)"),
        (
            "cone --n-features 99999999999",
            "--n-features must be a whole number of at most 100000000, got 99999999999",
        ),
        ("cone --coordinator nonsense", "--coordinator must be an address HOST:PORT, got 'nonsense'"),
        ("cone --coordinator a:b:1", "--coordinator must be an address HOST:PORT, got 'a:b:1'"),
        # what they ask for is larger than any memory
        ("phase --dim 90000000", "--couplings x --starts x --dim x --dim x --crowding must be at most "),
        ("robustness --features 90000000", "--members x --features x --features must be at most "),
        ("relu_phase --dims 9999999 --tokens 90000000", "--couplings x --starts x --dims x --dims must be at most "),
        ("relu_phase --tokens 100000000 --dims 9999", "--tokens x --dims x 6 x cores must be at most "),
        (
            "spectra x --resamples 1000000000000",
            "--resamples must be a whole number of at least 2 and at most 100000000, got 1000000000000",
        ),
    ],
)
def test_commands_refuse_before_they_begin(line, sentence, tmp_path, capsys):
    name, *arguments = [*line.split(), "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stopped:
        run(name, arguments) if name in INSTRUMENTS else importlib.import_module(f"sims.{name}").main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}") if sentence.endswith(" ") else said == f"error: {sentence}\n"
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

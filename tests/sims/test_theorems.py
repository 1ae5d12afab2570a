"""Which theorems an experiment tests stands in the experiment, as a literal: THEOREMS = ("T5", "T6")."""

import ast
import re
from pathlib import Path

import pytest

from sims.__main__ import experiments

SIMS = Path(__file__).parents[2] / "sims"
NONE_TESTED = {"conditions", "heads", "share"}  # experiments that test no theorem, with THEOREMS = ()


def declared(experiment: str) -> tuple[str, ...]:
    """What the module assigns to THEOREMS, read without importing it."""
    for node in ast.parse((SIMS / f"{experiment}.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["THEOREMS"]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"sims/{experiment}.py must hold THEOREMS, a tuple of strings")


# ENABLE AT THE MERGE: remove these, which branch real declares
ELSEWHERE = {"ablate", "align", "calibration", "conditions", "explain", "heads", "sad", "sad_training", "share"}
ELSEWHERE |= {"transformer_align", "transformer_training"}


@pytest.mark.parametrize("experiment", sorted(experiments().keys() - ELSEWHERE))
def test_every_experiment_names_the_theorems_it_tests(experiment):
    theorems = declared(experiment)
    assert isinstance(theorems, tuple)
    assert (theorems == ()) == (experiment in NONE_TESTED)
    assert len(set(theorems)) == len(theorems)
    assert all(re.fullmatch(r"T([1-9]|1\d|2[0-4])", name) for name in theorems), theorems


@pytest.mark.skip(reason="ENABLE AT THE MERGE of branch real, which declares the others")
def test_every_theorem_that_is_proved_is_tested():
    named = {name for experiment in experiments() for name in declared(experiment)}
    assert named >= {f"T{number}" for number in range(1, 18)}

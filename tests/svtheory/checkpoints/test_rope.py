"""Frequencies are those that transformers makes of the same config.json, recorded with its version."""

import numpy as np
import pytest
from rope_cases import CASES, LLAMA, NEOX, NEW3, RECORDED

from svtheory.checkpoints import reader
from svtheory.checks import InputError


def architecture(config):
    return reader.architecture(*reader.settled(config))


def test_every_case_is_recorded():
    assert len(CASES) >= 24
    assert list(RECORDED["frequencies"]) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_frequencies_are_those_of_transformers(case):
    expected = np.array(RECORDED["frequencies"][case])
    of_layers = np.array(architecture(CASES[case]).frequencies)
    found = of_layers if case.startswith("gemma3") else of_layers[0]
    assert found.shape == expected.shape
    assert np.abs(found / expected - 1).max() <= 1e-6


def test_cases_tell_settings_apart():
    """Were the old section, the base within it or the share ignored, other frequencies would come out."""
    of = RECORDED["frequencies"]
    assert of["llama: new names under the old section"] != of["llama: nothing"]
    assert of["llama: both sections"] != of["llama: both sections, the base in the one that loses"]
    assert len(of["gpt_neox: share within, base beside"]) == 4 != len(of["gpt_neox: all rows"])
    assert of["llama: llama3, context of the model"] != of["llama: llama3, no context stated"]


UNKNOWN = ("yarn", "longrope", "su", "mrope", "proportional", "ntk", 3)


@pytest.mark.parametrize("rule", UNKNOWN)
@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
@pytest.mark.parametrize(
    "style", [("rope_scaling", "type"), ("rope_scaling", "rope_type"), ("rope_parameters", "rope_type")]
)
def test_other_rules_are_refused_by_name(config, style, rule):
    section, name = style
    sentence = f"^rope_type of config.json must be one of 'default', 'linear', 'llama3', 'dynamic', got {rule!r}$"
    with pytest.raises(InputError, match=sentence):
        architecture({**config, section: {name: rule, "factor": 2.0}})


REFUSED = {
    "per layer": (
        {**LLAMA, "rope_parameters": {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 7.0}}},
        "rotary settings of config.json must be one for all layers, got some for 'full_attention'",
    ),
    "rescaled share of Llama": (
        {**LLAMA, "partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "partial_rotary_factor of config.json must be 1 where frequencies are rescaled, got 0.5",
    ),
    "more rows than there are": (
        {**NEOX, "rotary_pct": 1.5},
        "config.json must rotate an even number of rows of a head, got 24 of 16",
    ),
    "odd rows": (
        {**NEOX, "rotary_pct": 0.2},
        "config.json must rotate an even number of rows of a head, got 3 of 16",
    ),
    "base of text": (
        {**NEOX, "rope_scaling": {"rope_theta": "big"}},
        "rope_theta of config.json must be a positive number, got 'big'",
    ),
    "two head sizes": (
        {**NEOX, "head_dim": 8},
        "head_dim of config.json must be hidden_size/num_attention_heads, 16, got 8",
    ),
    "a band without width": (
        {**LLAMA, "rope_scaling": {**NEW3, "high_freq_factor": 1.0}},
        "low_freq_factor of config.json must be below high_freq_factor, got 1.0 and 1.0",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_rotated_is_one_sentence(kind):
    config, sentence = REFUSED[kind]
    with pytest.raises(InputError, match=f"^{sentence}$"):
        architecture(config)

"""``python -m proofs``: the table, the list for machines, the exit status."""

import json
from dataclasses import replace

import pytest

from proofs import __main__ as command
from proofs import theorems
from proofs.engine.verifier import Control


def test_json(capsys):
    assert command.main(["--json", "T1", "T12"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [theorem["id"] for theorem in found] == ["T1", "T12"]
    for theorem in found:
        assert {"claim", "scope", "status", "ok", "steps", "controls", "seconds"} <= set(theorem)
        assert isinstance(theorem["claim"], str)
        assert theorem["ok"] is True
        assert all(step["ok"] for step in theorem["steps"])
        assert all(control["rejected"] and control["residual"] for control in theorem["controls"])


def test_table(capsys):
    assert command.main(["T1"]) == 0
    assert "ok" in capsys.readouterr().out


def test_a_control_let_through_is_a_failure(monkeypatch, capsys):
    first = theorems()[0]
    monkeypatch.setattr(
        command,
        "theorems",
        lambda: [replace(first, controls=(Control("the claim itself", "minimum", first.claim["minimum"]),))],
    )
    assert command.main([]) == 1
    assert "the claim itself" in capsys.readouterr().err


def test_unknown_theorems_are_named(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["T99"])
    assert stop.value.code == 2
    assert "T99" in capsys.readouterr().err

"""Which experiments test a theorem is read from the experiments, without importing them."""

from proofs import experiments
from proofs.book.chapters import where_tested
from proofs.experiments import declared, experiments_of


def test_experiments_declare_theorems(tmp_path, monkeypatch):
    (tmp_path / "first.py").write_text('THEOREMS = ("T5", "T6")\nraise RuntimeError("imported")\n')
    (tmp_path / "second.py").write_text('"""None."""\nOTHER = ("T5",)\n')
    (tmp_path / "third.py").write_text('THEOREMS = ("T6",)\n')
    assert declared(tmp_path) == {"first": ("T5", "T6"), "third": ("T6",)}
    assert experiments_of("T6", tmp_path) == ["first", "third"]
    assert experiments_of("T1", tmp_path) == []


def test_a_theorem_without_an_experiment_says_so(monkeypatch):
    monkeypatch.setattr(experiments, "declared", lambda folder: {"ledger": ("T5",)})
    assert where_tested("T1") == "No experiment."
    assert where_tested("T5") == "Tested by `python -m sims ledger`."

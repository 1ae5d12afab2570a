import re
from pathlib import Path

import svtheory
from proofs import theorems
from proofs.experiments import experiments_of
from sims.__main__ import experiments

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    exec(code, {})
    first = capsys.readouterr().out.split()
    assert float(first[0]) > 0.999
    assert float(first[1]) > 0.999


def test_every_experiment_stands_in_the_table():
    assert set(re.findall(r"`sims/(\w+)\.py` \|", README.read_text())) == set(experiments())


def test_theorems_stand_in_the_table_with_their_functions_files_and_experiments():
    text = README.read_text()
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in re.findall(r"^\| T\d+ \|.*", text, re.M)
    ]
    assert [row[0] for row in rows] == [theorem.id for theorem in theorems()]
    for name, _, functions, place, proof, tested in rows:
        modules = [getattr(svtheory, found).__module__ for found in re.findall(r"(?<!with )`(\w+)`", functions)]
        files = [f"svtheory.{file.replace('/', '.')}" for file in re.findall(r"`([\w/]+)\.py`", place)]
        assert set(modules) <= set(files), name
        assert (README.parent / re.findall(r"\((.*?)\)", proof)[0]).exists()
        assert re.findall(r"`(\w+)`", tested) == experiments_of(name)

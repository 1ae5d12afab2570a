import re
from pathlib import Path

import svtheory
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


def test_functions_of_the_theorems_exist():
    rows = [line for line in README.read_text().splitlines() if re.match(r"\| T\d+ \|", line)]
    cells = [re.sub(r"with `\w+`", "", row.rstrip(" |").rpartition("| ")[2]) for row in rows]
    assert len(rows) == 17
    assert all(hasattr(svtheory, name) for cell in cells for name in re.findall(r"`(\w+)`", cell))

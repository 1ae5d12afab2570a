import re
import runpy
from pathlib import Path

import pytest

import svtheory
from proofs import theorems
from proofs.experiments import experiments_of
from sims.__main__ import experiments

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = sorted((README.parent / "examples").glob("*.py"))


def test_the_examples_run_and_the_first_needs_no_checkout(capsys):
    installed, checkout = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "sims" not in installed
    seen = {}
    for code in (installed, checkout):
        exec(code, seen)
        both, feature = capsys.readouterr().out.splitlines()[-2:]
        assert min(map(float, both.split())) > 0.999
        assert f"feature itself: {float(feature):.2f}" in code


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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_opens_with_the_question_that_it_answers(path):
    title, question = path.read_text(encoding="utf-8").split("\n#\n")[:2]
    assert re.fullmatch(r"# %% \[markdown\]\n# # .+", title)
    assert re.fullmatch(r"# \*\*.+\?\*\*", question, re.DOTALL)


def test_the_first_prediction():
    (path,) = (path for path in EXAMPLES if path.stem == "first_prediction")
    seen = runpy.run_path(str(path))
    for kappa, head in seen["trained"].items():
        assert seen["cosine"](head.left[:, 0], seen["predicted"][kappa]) > 0.9999
        assert seen["balanced"][kappa] > 0.9999
        assert 2 * kappa**0.5 / (1 + kappa) < seen["raw"][kappa] < 0.9

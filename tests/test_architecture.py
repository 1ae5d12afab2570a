"""The house: imports run one way, without circles, and what is not used is not imported."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# a wing imports wings to its left, and what stands in no wing
WINGS = ("geometry", "spectra", "prediction", "criteria", "heads", "checkpoints", "export", "reports", "instruments")
BASE = ("checks", "progress", "stopping", "pytrees", "numerics", "threefry", "factorisations", "laws", "targets")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for top in ("svtheory", "proofs", "sims") for path in sorted((ROOT / top).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports when it runs, at its top or within functions."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in FILES else str(node.module))
    return {name for name in found if name in FILES}


IMPORTS = {name: imports(path) for name, path in FILES.items()}


def test_no_circle_of_files():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("svtheory.")])
def test_a_wing_imports_only_wings_below_it(name):
    wing = name.split(".")[1]
    if wing == "__main__":  # the command
        return
    allowed = {*BASE, "scenarios"} if wing in WINGS else set(BASE)
    if wing in WINGS:
        allowed |= set(WINGS[: WINGS.index(wing) + 1])
    elif wing == "scenarios":
        allowed |= {"geometry"}
    for other in IMPORTS[name]:
        assert other.startswith("svtheory."), f"{name} imports {other}"
        assert other.split(".")[1] in allowed, f"{name} imports {other}"


# for sims alone, which is not in the wheel
TRAINING = {"flax", "optax", "orbax"}


def test_the_wheel_needs_nothing_that_trains():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            used = {n.partition(".")[0] for n in names} & TRAINING
            assert name.startswith("sims") or not used, f"{name} imports {used}"


# the command prints a table, the book's pdf is drawn
OUTSIDE = {"__main__": {"rich"}, "typeset": {"matplotlib", "numpy"}}


def test_proofs_import_only_sympy():
    for name, path in FILES.items():
        if not name.startswith("proofs"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            strangers = {n.partition(".")[0] for n in names} - {"sympy", "proofs"} - sys.stdlib_module_names
            assert strangers <= OUTSIDE.get(name.rpartition(".")[2], set()), f"{name} imports {strangers}"


@pytest.mark.parametrize(
    "line",
    [
        "import svtheory",
        "import sims",
        "from sims.__main__ import main; main(['--help'])",
        "from svtheory.__main__ import main; main(['--help'])",
    ],
)
def test_jax_is_not_imported_before_it_is_used(line):
    code = f"{line}; import sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


# their private names come and go between releases
FOREIGN = ("jax", "jaxlib", "flax", "orbax", "optax", "numpy", "xarray")


def private_names(path: Path) -> set[str]:
    """Names of others that begin with an underscore and that a file imports or looks up; `_replace` is public."""
    tree, found, known = ast.parse(path.read_text(encoding="utf-8")), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = {alias.name: alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}": alias.asname or alias.name for alias in node.names}
        else:
            continue
        of_others = {name: here for name, here in named.items() if name.partition(".")[0] in FOREIGN}
        known |= set(of_others.values())
        found |= {name for name in of_others if any(part.startswith("_") for part in name.split("."))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_(?!_|replace$)", node.attr):
            whole = ast.unparse(node)
            found |= {whole} if whole.partition(".")[0] in known else set()
    return found


def test_no_private_names_of_other_packages():
    assert {name: found for name, path in FILES.items() if (found := private_names(path))} == {}


def test_private_names_are_seen(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "import jax\nimport numpy as np\nfrom jax._src import core\nfrom orbax.checkpoint import v1, _hidden\n"
        "jax._src.core.Tracer\nnp._core\nself._own\nnp.__version__\n"
    )
    assert private_names(path) == {"jax._src.core", "orbax.checkpoint._hidden", "jax._src", "np._core"}

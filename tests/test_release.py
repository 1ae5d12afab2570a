"""What is released: built, installed into an environment of its own, and run where no checkout is."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLE = """
import numpy as np
from svtheory import HeadBundle, save_heads

rng = np.random.default_rng(0)
W_Q, W_K = rng.normal(size=(2, 1, 2, 4, 8))
save_heads("made.safetensors", HeadBundle(W_Q, W_K, attn_in=rng.normal(size=(1, 6, 8, 8))))
"""
# what a person has where nothing but Python is installed
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX", "XLA", "VIRTUAL"))}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *packages: str | Path) -> Path:
    """The programs of a new environment with these packages."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    tools = environment(folder / "tools", "build")
    run(tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_sdist_is_the_checkout_without_what_it_made(built):
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    kept = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - set(kept) == {"PKG-INFO"}
    assert {"svtheory/__init__.pyi", "sims/ledger.py", "proofs/__main__.py", "tests/conftest.py", "LICENSE"} <= names


@pytest.mark.slow
def test_the_wheel_is_the_package(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
    kinds = (".py", ".pyi", ".html", ".css", ".js")
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "svtheory").rglob("*") if path.suffix in kinds}
    assert package | {"svtheory/py.typed"} == {name for name in names if ".dist-info/" not in name}


@pytest.mark.slow
def test_an_installed_wheel_reads_a_bundle(built, tmp_path):
    programs = environment(tmp_path / "fresh", built[1])
    version = built[1].name.split("-")[1]
    assert run(programs / "svtheory", "--version", cwd=tmp_path).strip() == version
    assert "spectra" in run(programs / "svtheory", cwd=tmp_path)
    run(programs / "python", "-c", BUNDLE, cwd=tmp_path)
    run(programs / "svtheory", "spectra", "made.safetensors", cwd=tmp_path)
    summary = json.loads((tmp_path / "runs" / "spectra" / "made" / "summary.json").read_text())
    assert summary["heads"] == 2
    # what trains heads, what proves theorems and what exports models stay where they are
    for name in ("sims", "flax", "optax", "orbax", "proofs", "torch", "transformers"):
        code = f"import importlib.util; assert importlib.util.find_spec({name!r}) is None"
        run(programs / "python", "-c", code, cwd=tmp_path)

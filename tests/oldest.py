"""`python -m tests.oldest` prints the lowest versions that pyproject.toml allows, as requirements of pip."""

import re
import tomllib
from pathlib import Path


def lowest(pyproject: Path) -> list[str]:
    """Of what the package and what trains heads depend on."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["sims"]
    return [re.sub(">=", "==", requirement) for requirement in asked]


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1] / "pyproject.toml")))

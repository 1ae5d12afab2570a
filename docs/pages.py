"""What the site makes: the reference, from the names and docstrings of the package, and llms.txt.

A name is public where an `__init__.pyi` has it; a docstring is plain text with code in backticks, doctests, and lists
whose columns are aligned, which become reStructuredText here.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_type_hints

PACKAGE = Path(__file__).parents[1] / "svtheory"
SUMMARY = "When and why the singular vectors of an attention head are the features a model uses."
SHOWN = "survey, answers, rows, brief, summary, figure, caption"
"""What the page of an instrument shows of it, beside its options."""


class Name(NamedTuple):
    """A public name: the file and module that define it, how, and its docstring."""

    name: str
    path: str
    kind: str
    docstring: str | None


def wings() -> list[Path]:
    """Folders of the package that name what is public in them."""
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.pyi"))


def public(folder: Path) -> Iterator[Name]:
    """The names of a folder's `__init__.pyi`, its modules apart."""
    for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            file = folder.joinpath(*node.module.split(".")).with_suffix(".py")
            module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
            for alias in node.names:
                yield Name(alias.name, f"{module}.{alias.name}", *definition(file, alias.name))


def definition(file: Path, name: str) -> tuple[str, str | None]:
    """How a file defines a name, as autodoc calls it, and its docstring; that of a constant stands below it."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return "function" if isinstance(node, ast.FunctionDef) else "class", ast.get_docstring(node)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            below = after.value if isinstance(after, ast.Expr) else None
            return "data", str(below.value) if isinstance(below, ast.Constant) else None
    raise LookupError(f"{file} defines no {name}")


def write(docs: Path) -> None:
    """Write the pages of the reference and of the instruments."""
    from svtheory.instruments import INSTRUMENTS

    made = {f"reference/{wing.name}": wing_page(wing) for wing in wings()}
    made["reference/svtheory"] = contract_page()
    made |= {f"instruments/{name}": instrument_page(name) for name in INSTRUMENTS}
    for name, text in made.items():
        path = docs / f"{name}.rst"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # what has not changed is not read again
            path.write_text(text, encoding="utf-8")


def wing_page(wing: Path) -> str:
    """The reference of one wing."""
    about = ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))) or ""
    entries = [entry(name, home(name, wing)) for name in public(wing)]
    return "\n\n".join([heading(f"svtheory.{wing.name}"), restructured(about), *entries]) + "\n"


def contract_page() -> str:
    """The names that `svtheory` itself has: links to those of a wing, the reference of the others."""
    homes = {name.path: home(name, wing) for wing in wings() for name in public(wing)}
    names = list(public(PACKAGE))
    links = ", ".join(f":py:obj:`{x.name} <{homes.get(x.path, f'svtheory.{x.name}')}>`" for x in names)
    own = [entry(x, f"svtheory.{x.name}") for x in names if x.path not in homes]
    return "\n\n".join([heading("svtheory"), f"Importable from ``svtheory`` itself: {links}.", *own]) + "\n"


def instrument_page(name: str) -> str:
    """One instrument: what its docstring says, its options and its calls."""
    directive = f".. automodule:: svtheory.instruments.{name}\n   :members: {SHOWN}"
    instrument = import_module(f"svtheory.instruments.{name}")
    asked = get_type_hints(instrument.requested)
    listed = [
        line for given in ("source", "settings") for kind in reversed(asked[given].__mro__) for line in options(kind)
    ]
    columns = [f"- `{column}`: {text}" for column, text in instrument.COLUMNS.items()]
    told = ["**Columns of its table**", *map(restructured, columns)]
    return "\n\n".join([heading(name), directive, "**Options**", *listed, *told]) + "\n"


def options(kind: type) -> Iterator[str]:
    """The options that one dataclass of an instrument holds, each with what stands below it."""
    if not kind.__module__.startswith("svtheory.instruments"):
        return
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    for field, below in pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and field.value:
            name, value = ast.unparse(field.target).replace("_", "-"), ast.unparse(field.value)
            positional = "Positional" in ast.unparse(field.annotation)
            shown = f"``{name.upper()}``" if positional else f"``--{name}`` (``{value}``)"
            yield f"- {shown}: {restructured(ast.literal_eval(below.value))}"


def home(name: Name, wing: Path) -> str:
    """The path by which a name is imported; a constant's docstring is found only where it is defined."""
    return name.path if name.kind == "data" else f"svtheory.{wing.name}.{name.name}"


def heading(title: str) -> str:
    """The title of a page."""
    return f"{title}\n{'=' * len(title)}"


def entry(name: Name, path: str) -> str:
    """The entry of a name under the path by which it is imported."""
    return f".. auto{name.kind}:: {path}" + ("\n   :members:" if name.kind == "class" else "")


def number_theorems(app, page: str, source: list[str]) -> None:
    """Give each theorem of the book its number as a label, which docstrings refer to."""
    if page == "theorems":
        source[0] = re.sub(r"^## (T\d+)\.", lambda m: f"({m[1].lower()})=\n{m[0]}", source[0], flags=re.MULTILINE)


def as_restructured_text(app, kind: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    lines[:] = [*restructured("\n".join(lines)).splitlines(), ""]


def restructured(text: str) -> str:
    """A docstring as reStructuredText: doctests and aligned lists as they are, everything else prose."""
    text = re.sub(r"\n(?=Raises? )", "\n\n", text.strip("\n"))
    return "\n\n".join(map(_block, re.split(r"\n\s*\n", text)))


def _block(block: str) -> str:
    lines = block.splitlines()
    if lines[0].lstrip().startswith((">>>", "- ")):
        return block if ">>>" in lines[0] else _prose(block)
    if all(re.search(r"^ {4}|\S {2,}\S", line) or after.startswith("    ") for line, after in pairwise([*lines, ""])):
        return "\n".join([".. code-block:: text", "", *(f"    {line}" for line in lines)])
    return _prose(block)


def _prose(text: str) -> str:
    pieces = re.split(r"`([^`]*)`", text)
    pieces[::2] = [_plain(piece) for piece in pieces[::2]]
    pieces[1::2] = [f"\\ ``{code}``\\ " for code in pieces[1::2]]
    return "".join(pieces)


def _plain(text: str) -> str:
    text = re.sub(r"([\\*|_`])", r"\\\1", text)
    return re.sub(r"\bT(\d{1,2})\b", r":ref:`T\1 <t\1>`", text)


def write_llms(app, failure: Exception | None) -> None:
    """Write llms.txt: every page, with the sentence that it begins with."""
    if failure is None and app.builder.name == "html":
        listed = [
            f"- [{title.astext()}]({app.builder.get_target_uri(page)}): {begins(app.env.get_doctree(page))}"
            for page, title in app.env.titles.items()
        ]
        lines = [f"# {app.config.project}", "", f"> {SUMMARY}", "", *listed, ""]
        (Path(app.outdir) / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def begins(doctree) -> str:
    """The first sentence of a page."""
    from docutils.nodes import paragraph

    text = next((node.astext() for node in doctree.findall(paragraph)), "")
    return " ".join(text.split()).partition(". ")[0].rstrip(".:")

"""The site: `make docs` builds it, warnings are errors. What is made rather than kept stands in pages.py."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pages

project = "svtheory"
author = "The svtheory authors"
release = metadata.version("svtheory")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["README.md"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # `make examples` runs them
nb_output_stderr = "remove"  # how far it has come

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "svtheory"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
suppress_warnings = ["mystnb.unknown_mime_type"]


def setup(app):
    """Make pages before the sources are looked for, docstrings while they are read, llms.txt at the end."""
    pages.write(Path(__file__).parent)
    app.connect("source-read", pages.number_theorems)
    app.connect("autodoc-process-docstring", pages.as_restructured_text)
    app.connect("build-finished", pages.write_llms)

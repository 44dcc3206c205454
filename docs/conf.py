"""Sphinx: the pages of docs/ and the reference from the docstrings, built by `make docs` into build/docs."""

from typing import Any

from sphinx.application import Sphinx

import skfairprune

project = "skfairprune"
version = release = skfairprune.__version__
html_title = f"{project} {version}"
html_theme = "furo"
templates_path = ["_templates"]

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links to headings, as GitHub makes them

autodoc_typehints = "none"  # the sections of the docstrings have the types
numpydoc_show_class_members = False  # the template of a class has them, with their docstrings
# A file system that takes no case apart would have one file for the function `audit` and the class.
autosummary_filename_map = {"skfairprune.audit.Audit": "skfairprune.audit.Audit-class"}


def leave_out(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn adds to every estimator: its docstrings refer to pages of its own."""
    return True if (getattr(obj, "__module__", None) or "").startswith("sklearn.") else None


def setup(app: Sphinx) -> None:
    """Connect the function above."""
    app.connect("autodoc-skip-member", leave_out)

"""Builds the site from chapters, notebooks and docstrings: `sphinx-build docs site`."""

import functools
import importlib
import importlib.metadata
import pathlib
import re
import shutil
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))  # the docstrings of this checkout, not of an installed copy

_METADATA = importlib.metadata.metadata("quantjax")
project = _METADATA["Name"]
version = release = _METADATA["Version"]
author = "The quantjax authors"
copyright = author  # noqa: A001

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
nitpicky = True

# Markdown and notebooks. Notebooks are shown with the outputs that were committed.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings: single backticks are code, types stay in the signature.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Reference", "References")]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
# Types of other libraries in signatures, and aliases of types, which have no page.
nitpick_ignore_regex = [("py:.*", r"(?!quantjax\.).*"), ("py:class", r"quantjax(\.\w+){3,}")]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

_PACKAGES = (
    "data",
    "evaluate",
    "index",
    "methods",
    "metrics",
    "models",
    "plots",
    "quantizers",
    "report",
    "train",
)
_GOOGLE_SECTION = re.compile(
    r"(Args|Attributes|Example|Examples|Note|Raises|Reference|References|Returns|Yields):\n"
)
_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_MARKUP = re.compile(r"([\\*|]|(?<=\w)_(?!\w)|(?<=: \w)\.(?!.))")
_TYPE_OF_RETURNS = re.compile(r"^(:returns: )\*?(.+?)\*? -- ")


def _copy_notebooks():
    """Copies the notebooks into docs, where Sphinx finds them, and lists them on a page."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        shutil.copy(path, target)
    lines = ["# Notebooks", ""]
    if paths:
        lines += ["```{toctree}", ":maxdepth: 1", "", *(path.stem for path in paths), "```"]
    else:
        lines.append("No notebook has been written yet.")
    (target / "index.md").write_text("\n".join([*lines, ""]))


def _as_restructured_text(app, what, name, obj, options, lines):
    r"""Turns a docstring's plain text into reStructuredText, before napoleon reads its sections.

    Outside of code in backticks, the marks * | \ and a trailing _ stand for themselves, and "g." is
    no number of a list. Before the first section, a paragraph that is indented by four is a block
    of code, and one with some lines indented, a formula, keeps its line breaks.
    """
    del app, name, obj, options
    paragraphs, in_section = [], False
    for text in re.split(r"\n(?:[ ]*\n)+", "\n".join(lines)):
        in_section = in_section or bool(_GOOGLE_SECTION.match(text))
        if text.lstrip().startswith(">>> "):
            paragraphs.append(text)
        elif text.startswith("    ") and not in_section:
            paragraphs.append(f"::\n\n{text}")
        elif "\n  " in text and not in_section and not text.startswith("- "):
            paragraphs.append("| " + _escaped(text).replace("\n", "\n| "))
        else:
            paragraphs.append(_escaped(text))
    lines[:] = "\n\n".join(paragraphs).split("\n")
    if what in ("attribute", "data", "property"):
        lines[:0] = "..", ""  # a comment; else napoleon takes words before a colon for a type


def _escaped(text):
    prose_and_code = _CODE.split(text)  # by turns
    prose = [_MARKUP.sub(r"\\\1", piece) for piece in prose_and_code[::2]]
    code = prose_and_code[1::2]
    for position, piece in enumerate(code):
        if prose[position + 1][:1].isalnum():  # `Source`s: reStructuredText wants an end of word
            code[position] = piece + "\\ "
    prose_and_code[::2], prose_and_code[1::2] = prose, code
    return "".join(prose_and_code)


def _skip_fields_of_tuples(app, what, name, obj, skip, options):
    """Leaves out the fields of NamedTuples, which the docstring's Attributes already describe."""
    del app, what, name, options
    return True if type(obj).__name__ == "_tuplegetter" else skip


@functools.cache
def _exported_names():
    """Returns where each public class is described, from the name of the module that defines it."""
    names = {}
    for module in _PACKAGES:
        package = importlib.import_module(f"quantjax.{module}")
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type):
                names[f"{value.__module__}.{value.__qualname__}"] = f"{package.__name__}.{name}"
    return names


def _resolve_defining_name(app, env, node, contnode):
    """Links a type in a signature, named by its defining module, to the package's page."""
    exported = _exported_names().get(node.get("reftarget"))
    if node.get("refdomain") != "py" or exported is None:
        return None
    domain = env.get_domain("py")
    document = node.get("refdoc", "")
    return domain.resolve_xref(env, document, app.builder, "class", exported, node, contnode)


def _without_types_of_returns(app, what, name, obj, options, lines):
    """Undoes napoleon's reading of the words before a colon in Returns as a type."""
    del app, what, name, obj, options
    lines[:] = [_TYPE_OF_RETURNS.sub(r"\1\2: ", line) for line in lines]


def _without_blank_ends(app, docname, source):
    """Drops the blank line that ends a block of doctests: doctest needs it, a reader does not."""
    del app, docname
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app):
    """Registers the functions above."""
    _copy_notebooks()
    app.connect("source-read", _without_blank_ends)
    app.connect("missing-reference", _resolve_defining_name)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
    app.connect("autodoc-process-docstring", _without_types_of_returns, priority=900)
    app.connect("autodoc-skip-member", _skip_fields_of_tuples)

"""What every page has: templates, style, scripts, and the rules of what it may do.

Templates are Jinja2's, with everything escaped that is not markup of ours. The file is self-contained, and its
Content-Security-Policy holds the browser to that: nothing is loaded from anywhere, and the only scripts that run are
the ones whose hashes it names, so that text which came from a repository could not run even where it was not escaped.

The chart library is uPlot (MIT, its licence lies beside it): docs/explain/see.md says why.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, TextIO

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from inspector.errors import one_line
from inspector.render.document import Document, Section
from inspector.render.writers.html import list_block_lines

__all__ = ["format_drawing", "list_folded_sections", "list_lead_sections", "render_drawing", "write_page"]

# Those that draw a run, and those of any page.
_SCRIPTS_OF_A_RUN = ("uPlot.iife.min.js", "run.js", "timeline.js", "moment.js")
_SCRIPTS = ("modules.js",)
_LONGEST_COMMAND = 8000
_OPTION = re.compile(r"--[a-z][a-z0-9-]*")
_STYLES = ("uPlot.min.css", "page.css")


def write_page(
    template: str,
    document: Document,
    stream: TextIO,
    *,
    sections: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] | None = None,
    command: str | None = None,
    versions: str,
    **values: Any,
) -> None:
    """Write a page to `stream`: a template with the title, the subtitle and the warnings of a document.

    `data` is what the pictures of a run are drawn from. `values` are those of the template itself.
    """
    text = _render(
        template,
        [*(_SCRIPTS_OF_A_RUN if data is not None else ()), *_SCRIPTS],
        title=document.title,
        subtitle=document.subtitle,
        warnings=document.warnings,
        data=None if data is None else _embed(format_drawing(data)),
        sections=sections,
        command=None if command is None else one_line(command, _LONGEST_COMMAND),
        versions=versions,
        **values,
    )
    stream.write(text)


def format_drawing(data: Mapping[str, Any]) -> str:
    """Return what scripts draw from as JSON of one line."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def render_drawing(drawing: str) -> str:
    """Return a page of nothing but the pictures of a run, which `format_drawing` gave."""
    values: dict[str, Any] = {"subtitle": (), "warnings": (), "sections": (), "command": None, "versions": ""}
    return _render("drawing.html.jinja", _SCRIPTS_OF_A_RUN, title="Memory over time", data=_embed(drawing), **values)


def _render(template: str, names: Sequence[str], **values: Any) -> str:
    """Return a page with these scripts."""
    scripts = [_read(name) for name in names]
    return (
        _environment()
        .get_template(template)
        .render(
            policy=_make_policy(scripts),
            style=Markup("\n".join(map(_read, _STYLES))),  # noqa: S704  # our own files
            scripts=[Markup(script) for script in scripts],  # noqa: S704  # our own files
            **values,
        )
    )


def list_folded_sections(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return titled sections as their titles and their lines of HTML."""
    return [
        {"title": section.title, "lines": Markup("\n".join(list_block_lines(section)))}  # noqa: S704  # escaped there
        for section in sections
        if section.title
    ]


def list_lead_sections(sections: Sequence[Section]) -> list[Markup]:
    """Return sections without a title, which hold answers, as lines of HTML."""
    return [
        Markup("\n".join(list_block_lines(section)))  # noqa: S704  # escaped there
        for section in sections
        if not section.title
    ]


@functools.cache
def _environment() -> Environment:
    """Return the environment of the templates; a name that is missing is an error."""
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["keep_options"] = _keep_options
    return environment


def _keep_options(text: str) -> Markup:
    """Return a text, escaped, in whose options no line ends: a browser may end one after any hyphen."""
    return Markup(_OPTION.sub(r'<span class="option">\g<0></span>', str(escape(text))))  # noqa: S704  # escaped here


def _read(name: str) -> str:
    """Return a file of the page."""
    return (resources.files("inspector.render.page") / "assets" / name).read_text(encoding="utf-8")


def _make_policy(scripts: Sequence[str]) -> str:
    """Return what the browser lets the page do: show itself, and run these scripts."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _embed(text: str) -> Markup:
    """Return JSON that can stand inside an element: no text in it ends the element or starts a comment."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704

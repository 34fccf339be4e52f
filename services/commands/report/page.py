"""One page that needs nothing else: template, style and chapters. Knows Jinja, which escapes all but pictures; no journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.commands.report.parts import Chapter

_HERE = "services.commands.report"


def render(title: str, subtitle: str, figures: Mapping[str, str], chapters: Sequence[Chapter]) -> str:
    """The whole document. `figures` are the few that come first, by what they are called."""
    loader = PackageLoader(_HERE, ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = (files("services.gateway") / "static" / "page.css").read_text() + (files(_HERE) / "report.css").read_text()
    template = environment.get_template("page.html")
    return template.render(title=title, subtitle=subtitle, figures=figures, chapters=chapters, style=Markup(style))  # noqa: S704  our own

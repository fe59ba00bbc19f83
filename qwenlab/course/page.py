"""Notebooks as one HTML page that needs no network: formulas as MathML, pictures inside, with their descriptions.

nbconvert's page takes its formulas, and scripts that no lesson uses, from other hosts, and its template drops the
alternative text that an output's metadata carries (its `classic` template alone shows it).
"""

import re
from pathlib import Path

from jinja2 import FileSystemLoader, pass_context
from latex2mathml.converter import convert
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


class PageExporter(HTMLExporter):
    """nbconvert's HTML exporter with page.html.j2, which lies beside this file."""

    template_file = "page.html.j2"

    def __init__(self, **settings) -> None:
        super().__init__(extra_loaders=[FileSystemLoader(Path(__file__).parent)], **settings)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """As nbconvert's, with another renderer; pictures are looked for in the folder of the notebooks."""
        folder = context["resources"]["metadata"]["path"]
        renderer = _Renderer(escape=False, embed_images=True, path=folder, anchor_link_text=self.anchor_link_text)
        return MarkdownWithMath(renderer=renderer).render(source)


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return convert(body, display="inline")

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return convert(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture that lies on a host is its alternative text: showing it would ask the host."""
        if re.match("(https?:)?//", url):
            return self.escape_html(text)
        return super().image(text, url, title)

"""Markdown files → Django templates, once per process.

Markdown comes first and Django second: what rows say is filled in afterwards, escaped as on every other page, so no
name or description of a brand is ever read as Markdown or as HTML. Our own files may hold no HTML either.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import Any

from django.conf import settings
from django.template import engines
from django.utils.text import slugify
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

FOLDER = settings.BASE_DIR / "templates" / "docs"
_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}")
_KEPT = re.compile(r"zqtag(\d+)qz")
_ALONE = re.compile(r"<p>((?:\s*zqtag\d+qz)+\s*)</p>")
_LANGUAGES = {"": "Text", "sh": "Shell", "json": "JSON", "yaml": "YAML", "python": "Python", "http": "HTTP"}


class Renderer(RendererHTML):
    """Our own dress for what Markdown knows: anchors on headings, copy buttons on code, cards around tables."""

    def heading_open(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        anchor = slugify(_KEPT.sub("", tokens[index + 1].content))
        return f'<{tokens[index].tag} id="{anchor}">'

    def heading_close(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        anchor = slugify(_KEPT.sub("", tokens[index - 1].content))
        mark = f'<a class="anchor" href="#{anchor}" aria-label="Link to this section">#</a>'
        return f"{mark}</{tokens[index].tag}>\n"

    def fence(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[index]
        env["blocks"] = number = env.get("blocks", 0) + 1
        language, _, label = token.info.partition(" ")
        text = self._escaped(token.content)
        return (
            f"{{% with id='block-{number}' label='{label or _LANGUAGES[language]}' %}}"
            f"{{% include 'docs/_code_head.html' %}}{{% endwith %}}"
            f'<pre tabindex="0" id="block-{number}" data-language="{language}">{text}</pre></div>\n'
        )

    def table_open(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return '<div class="card card-flush"><table class="table">\n'

    def table_close(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "</table></div>\n"

    def td_open(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        column = _column_of(tokens, index)
        return f'<td data-label="{self._escaped(_header_of(tokens, index))}">' if column else '<th scope="row">'

    def td_close(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "</td>" if _column_of(tokens, index - 1) else "</th>"

    @staticmethod
    def _escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _column_of(tokens: Sequence[Token], index: int) -> int:
    """Of the cell that begins at `index`, or whose content is there: how many stand before it in its row."""
    row = max(at for at in range(index) if tokens[at].type == "tr_open")
    return sum(token.type == "td_close" for token in tokens[row:index])


def _header_of(tokens: Sequence[Token], index: int) -> str:
    """The heading of the column in which a cell lies, so that narrow pages can show it beside the cell."""
    start = max(at for at in range(index) if tokens[at].type == "table_open")
    headers = [at for at in range(start, index) if tokens[at].type == "th_open"]
    return tokens[headers[_column_of(tokens, index)] + 1].content


def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}, renderer_cls=Renderer).enable("table")


def template_text(markdown: str) -> str:
    """The Django template that a Markdown text with Django tags stands for. A tag that is alone in its paragraph gets
    no paragraph around it."""
    tags: list[str] = []

    def keep(found: re.Match[str]) -> str:
        tags.append(found[0])
        return f"zqtag{len(tags) - 1}qz"

    def bare(found: re.Match[str]) -> str:
        words = [tags[int(number)] for number in _KEPT.findall(found[1])]
        return found[1] if all(word.startswith("{%") for word in words) else found[0]

    html = _ALONE.sub(bare, _markdown().render(_TAG.sub(keep, markdown)))
    return "{% load portal docs %}" + _KEPT.sub(lambda found: tags[int(found[1])], html)


def template_of(name: str) -> Any:
    """The page of that name, as Django's engine renders it; read once, and again at each request where DEBUG is on."""
    return _read(name) if settings.DEBUG else _kept(name)


def _read(name: str) -> Any:
    return engines["django"].from_string(template_text((FOLDER / f"{name}.md").read_text()))


_kept = cache(_read)

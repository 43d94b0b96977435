"""One request, written in curl, Python and JavaScript. Pure: values in, program text out.

The openai SDKs where the brand suits them, else what every machine has: requests and fetch.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WIDTH = 78
SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Ask:
    """`call`: the openai SDKs' method ("chat.completions.create"), "" where they have none. `shows`: the way to what is
    printed of the answer, () for all of it. `extra`: fields that the SDKs do not know by name."""

    path: str
    body: Mapping[str, Any] | None = None
    call: str = ""
    shows: tuple[str | int, ...] = ()
    extra: frozenset[str] = field(default_factory=frozenset)
    needs_key: bool = True

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def streams(self) -> bool:
        return bool(self.body and self.body.get("stream"))


class Access(NamedTuple):
    """Where, and with which key. `header` is "Name: value", "" where the key goes into the query."""

    base_url: str
    key: str
    header: str
    suits_sdks: bool


class Sample(NamedTuple):
    language: str
    label: str
    text: str


def samples(ask: Ask, access: Access) -> list[Sample]:
    return [
        Sample("curl", "curl", curl(ask, access)),
        Sample("python", "Python", python(ask, access)),
        Sample("javascript", "JavaScript", javascript(ask, access)),
    ]


def curl(ask: Ask, access: Access) -> str:
    lines = [f"curl {'-N ' if ask.streams else ''}{shlex.quote(_url(ask, access))}"]
    if ask.needs_key and access.header:
        lines.append(f"-H {shlex.quote(access.header)}")
    if ask.body is not None:
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(_json(ask.body, 2))}"]
    return " \\\n  ".join(lines)


def python(ask: Ask, access: Access) -> str:
    if ask.call and access.suits_sdks:
        return _python_sdk(ask, access)
    arguments = [_string(_url(ask, access))]
    if ask.needs_key and access.header:
        arguments.append("headers=" + _python(_header(access), 4))
    if ask.body is not None:
        arguments.append("json=" + _python(ask.body, 4))
    if ask.streams:
        arguments.append("stream=True")
    arguments.append(f"timeout={SECONDS_MAX}")
    asked = f"requests.{ask.method.lower()}(\n" + "".join(f"    {each},\n" for each in arguments) + ")"
    if ask.streams:
        return PYTHON_STREAM.replace("ASKED", asked)
    way = "".join(f"[{_string(step) if isinstance(step, str) else step}]" for step in ask.shows)
    return f"import requests\n\nanswer = {asked}\nanswer.raise_for_status()\nprint(answer.json(){way})"


PYTHON_STREAM = """\
import json
import requests

answer = ASKED
answer.raise_for_status()
for line in answer.iter_lines():
    if line.startswith(b"data: ") and line != b"data: [DONE]":
        for choice in json.loads(line[6:]).get("choices", []):
            print(choice["delta"].get("content") or "", end="", flush=True)
print()"""


def _python_sdk(ask: Ask, access: Access) -> str:
    assert ask.body is not None
    extra = {name: value for name, value in ask.body.items() if name in ask.extra}
    given = [f"{name}={_python(value, 4)}" for name, value in ask.body.items() if name not in extra]
    if extra:
        given.append("extra_body=" + _python(extra, 4))
    text = (
        "from openai import OpenAI\n\n"
        f"client = OpenAI(\n    base_url={_string(access.base_url)},\n    api_key={_string(access.key)},\n)\n"
        f"answer = client.{ask.call}(\n" + "".join(f"    {each},\n" for each in given) + ")\n"
    )
    if ask.streams and ask.call.startswith("chat."):
        return (
            text + "for chunk in answer:\n    for choice in chunk.choices:\n"
            '        print(choice.delta.content or "", end="", flush=True)\nprint()'
        )
    return f"{text}print(answer{_dotted(ask.shows)})"


def javascript(ask: Ask, access: Access) -> str:
    if ask.call and access.suits_sdks:
        return _javascript_sdk(ask, access)
    options: list[str] = []
    if ask.body is not None:
        options.append('method: "POST",')
    headers = _header(access) if ask.needs_key and access.header else {}
    if ask.body is not None:
        headers["Content-Type"] = "application/json"
    if headers:
        options.append(f"headers: {_javascript(headers, 2)},")
    if ask.body is not None:
        options.append(f"body: JSON.stringify({_javascript(ask.body, 2)}),")
    how = ", {\n" + "".join(f"  {option}\n" for option in options) + "}" if options else ""
    text = f"const answer = await fetch({_string(_url(ask, access))}{how});\n"
    text += "if (!answer.ok) throw new Error(await answer.text());\n"
    if ask.streams:
        return text + JAVASCRIPT_STREAM
    if not ask.shows:
        return text + "console.log(JSON.stringify(await answer.json(), null, 2));"
    return f"{text}const data = await answer.json();\nconsole.log(data{_dotted(ask.shows)});"


JAVASCRIPT_STREAM = """\
let rest = "";
for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + part).split("\\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    for (const choice of JSON.parse(line.slice(6)).choices ?? []) {
      process.stdout.write(choice.delta.content ?? "");
    }
  }
}
console.log();"""


def _javascript_sdk(ask: Ask, access: Access) -> str:
    assert ask.body is not None
    text = (
        'import OpenAI from "openai";\n\n'
        f"const client = new OpenAI({{\n  baseURL: {_string(access.base_url)},\n"
        f"  apiKey: {_string(access.key)},\n}});\n"
        f"const answer = await client.{ask.call}({_javascript(ask.body, 0, is_open=True)});\n"
    )
    if ask.streams and ask.call.startswith("chat."):
        return (
            text + "for await (const chunk of answer) {\n  for (const choice of chunk.choices) {\n"
            '    process.stdout.write(choice.delta.content ?? "");\n  }\n}\nconsole.log();'
        )
    return f"{text}console.log(answer{_dotted(ask.shows)});"


def _url(ask: Ask, access: Access) -> str:
    query = "" if access.header or not ask.needs_key else f"?api_key={access.key}"
    return f"{access.base_url}{ask.path}{query}"


def _header(access: Access) -> dict[str, str]:
    name, _, value = access.header.partition(": ")
    return {name: value}


def _dotted(way: Sequence[str | int]) -> str:
    return "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in way)


def _string(text: str) -> str:
    """A double-quoted text that Python, JavaScript and JSON read alike."""
    return json.dumps(text, ensure_ascii=False)


class _Style(NamedTuple):
    indent: int
    words: Mapping[Any, str]
    bare_names: bool = False
    blank: str = ""
    last: str = ""


_JSON = _Style(2, {True: "true", False: "false", None: "null"})
_PYTHON = _Style(4, {True: "True", False: "False", None: "None"}, last=",")
_JAVASCRIPT = _Style(2, {True: "true", False: "false", None: "null"}, bare_names=True, blank=" ", last=",")


def _json(value: Any, column: int) -> str:
    return _written(value, _JSON, column, is_open=True)


def _python(value: Any, column: int) -> str:
    return _written(value, _PYTHON, column)


def _javascript(value: Any, column: int, *, is_open: bool = False) -> str:
    return _written(value, _JAVASCRIPT, column, is_open=is_open)


def _written(value: Any, style: _Style, column: int, *, is_open: bool = False) -> str:
    """On one line where it fits (and not `is_open`), else each member on a line of its own."""
    flat = _flat(value, style)
    if not isinstance(value, dict | list) or not value or (not is_open and len(flat) + column + 12 <= WIDTH):
        return flat
    inner = column + style.indent
    if isinstance(value, dict):
        members = [f"{_name(name, style)}: {_written(each, style, inner)}" for name, each in value.items()]
        opening, closing = "{", "}"
    else:
        members = [_written(each, style, inner) for each in value]
        opening, closing = "[", "]"
    joined = (",\n" + " " * inner).join(members)
    return f"{opening}\n{' ' * inner}{joined}{style.last}\n{' ' * column}{closing}"


def _flat(value: Any, style: _Style) -> str:
    if isinstance(value, bool) or value is None:
        return style.words[value]
    if isinstance(value, dict):
        if not value:
            return "{}"
        members = ", ".join(f"{_name(name, style)}: {_flat(each, style)}" for name, each in value.items())
        return f"{{{style.blank}{members}{style.blank}}}"
    if isinstance(value, list):
        return f"[{', '.join(_flat(each, style) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _name(name: str, style: _Style) -> str:
    return name if style.bare_names and name.isidentifier() else _string(name)

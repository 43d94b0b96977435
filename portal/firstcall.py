"""The samples a reader pastes to make a first call. Every value is quoted for where it goes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import get_script_prefix

from billing.models import Model
from keys.models import Brand, Scheme

PLACEHOLDER = "YOUR_API_KEY"


def base_url(request: HttpRequest) -> str:
    """Where this reader's programs find the API: the address of this very page's site, and the brand's own path."""
    brand: Brand = request.brand  # type: ignore[attr-defined]
    path = brand.base_paths[0] if brand.base_paths else "/v1"
    return request.build_absolute_uri(get_script_prefix().rstrip("/") + path)


def model_for(brand: Brand, models: Sequence[Model]) -> str:
    """The model of the samples: the brand's default where it is among `models`, else the first that is live."""
    live = [model.slug for model in models if model.state == Model.State.LIVE]
    if brand.default_model in live:
        return brand.default_model
    return live[0] if live else brand.default_model or "MODEL"


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    label: str
    text: str


def header(scheme: str, secret: str) -> str:
    return {
        Scheme.BEARER.value: f"Authorization: Bearer {secret}",
        Scheme.API_KEY.value: f"Authorization: Api-Key {secret}",
        Scheme.X_API_KEY.value: f"X-API-Key: {secret}",
    }[scheme]


def curl(*, base_url: str, scheme: str, secret: str, model: str) -> str:
    """One command for any POSIX shell; `scheme` query puts the key into the URL, where a brand takes no header."""
    url = f"{base_url}/chat/completions"
    message = json.dumps({"role": "user", "content": "Say hello."})
    body = f'{{\n    "model": {json.dumps(model)},\n    "messages": [{message}]\n  }}'
    lines = []
    if scheme == Scheme.QUERY.value:
        url = f"{url}?api_key={secret}"
    else:
        lines.append(f"-H {shlex.quote(header(scheme, secret))}")
    lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    return " \\\n  ".join([f"curl {shlex.quote(url)}", *lines])


def python(*, base_url: str, secret: str, model: str) -> str:
    return f"""\
from openai import OpenAI

client = OpenAI(
    base_url={json.dumps(base_url)},
    api_key={json.dumps(secret)},
)
answer = client.chat.completions.create(
    model={json.dumps(model)},
    messages=[{{"role": "user", "content": "Say hello."}}],
)
print(answer.choices[0].message.content)"""


def node(*, base_url: str, secret: str, model: str) -> str:
    return f"""\
import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: {json.dumps(base_url)},
  apiKey: {json.dumps(secret)},
}});
const answer = await client.chat.completions.create({{
  model: {json.dumps(model)},
  messages: [{{ role: "user", content: "Say hello." }}],
}});
console.log(answer.choices[0].message.content);"""


def scheme_of(schemes: Sequence[str]) -> str:
    """The first of the schemes, in the order people know them; a brand that names none takes the usual one."""
    return next((scheme.value for scheme in Scheme if scheme.value in schemes), Scheme.BEARER.value)


def samples(*, base_url: str, schemes: Sequence[str], model: str, secret: str = PLACEHOLDER) -> list[Sample]:
    """curl, and the openai SDKs where the brand takes the header they send."""
    scheme = scheme_of(schemes)
    found = [Sample("curl", "curl", curl(base_url=base_url, scheme=scheme, secret=secret, model=model))]
    if Scheme.BEARER.value in schemes:
        found.append(Sample("python", "Python", python(base_url=base_url, secret=secret, model=model)))
        found.append(Sample("node", "Node.js", node(base_url=base_url, secret=secret, model=model)))
    return found

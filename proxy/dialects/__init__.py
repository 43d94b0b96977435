"""The dialects by name. A brand row names one; an unknown name speaks OpenAI's."""

from __future__ import annotations

from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Dialect

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OpenAI(),)}


def dialect_named(name: str) -> Dialect:
    return DIALECTS.get(name) or DIALECTS[OpenAI.name]

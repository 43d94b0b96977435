"""The dialects by name. A brand row names one; an unknown name speaks OpenAI's."""

from __future__ import annotations

from proxy.dialects.aimichat import AimiChat
from proxy.dialects.aionlabs import AionLabs
from proxy.dialects.axione import Axione
from proxy.dialects.dialogix import Dialogix
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Dialect

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (OpenAI(), Dialogix(), AionLabs(), Axione(), AimiChat())
}


def dialect_named(name: str) -> Dialect:
    return DIALECTS.get(name) or DIALECTS[OpenAI.name]

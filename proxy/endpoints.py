"""What can be asked for below a base path. Pure tables."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    METERED = "metered"
    MODELS = "models"
    MODEL = "model"
    USAGE = "usage"
    CHARGE = "charge"
    HEALTH = "health"
    NOWHERE = "nowhere"
    SESSION = "session"


class Endpoint(NamedTuple):
    """`scope` is what a key needs; `feature` what a model must declare, `engine_path` where the call goes."""

    name: str
    kind: Kind
    methods: tuple[str, ...]
    scope: str = ""
    feature: str = ""
    engine_path: str = ""


CHAT = Endpoint("chat", Kind.METERED, ("POST",), "chat", "chat", "/chat/completions")
RESPONSES = Endpoint("responses", Kind.METERED, ("POST",), "responses", "chat", "/chat/completions")
COMPLETIONS = Endpoint("completions", Kind.METERED, ("POST",), "completions", "completions", "/completions")
EMBEDDINGS = Endpoint("embeddings", Kind.METERED, ("POST",), "embeddings", "embeddings", "/embeddings")
MODELS = Endpoint("models", Kind.MODELS, ("GET", "HEAD"), "models")
MODEL = Endpoint("model", Kind.MODEL, ("GET", "HEAD"), "models")
USAGE = Endpoint("usage", Kind.USAGE, ("GET", "HEAD"), "usage")
CHARGE = Endpoint("charge", Kind.CHARGE, ("GET", "HEAD"), "usage")
SESSION = Endpoint("session", Kind.SESSION, ("GET", "HEAD", "DELETE"), "chat")
HEALTH = Endpoint("health", Kind.HEALTH, ("GET", "HEAD"))
NOWHERE = Endpoint("this path", Kind.NOWHERE, ())
"""For a caller who asks for what is not there, where that is a question of what the key may do."""

BY_PATH = {
    "/chat/completions": CHAT,
    "/responses": RESPONSES,
    "/completions": COMPLETIONS,
    "/embeddings": EMBEDDINGS,
    "/models": MODELS,
    "/usage": USAGE,
    "/health": HEALTH,
}
MODEL_PREFIX = "/models/"
CHARGE_PREFIX = "/usage/"
SESSION_PREFIX = "/sessions/"


def endpoint_at(rest: str) -> Endpoint | None:
    """The endpoint of a path below the base path ("/chat/completions"). Ids of models and sessions may hold slashes."""
    found = BY_PATH.get(rest)
    if found is None and rest.startswith(MODEL_PREFIX) and len(rest) > len(MODEL_PREFIX):
        return MODEL
    if found is None and rest.startswith(CHARGE_PREFIX) and len(rest) > len(CHARGE_PREFIX):
        return CHARGE
    if found is None and rest.startswith(SESSION_PREFIX) and len(rest) > len(SESSION_PREFIX):
        return SESSION
    return found

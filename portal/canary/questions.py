"""What models are asked, and whether an answer is right. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from billing.snapshot import ModelRecord
from proxy.endpoints import CHAT, COMPLETIONS, EMBEDDINGS
from proxy.judging import serves

PROMPT = "What is 17 + 25? Answer with the number alone."
RIGHT = re.compile(r"\b42\b")
FIELDS: dict[str, Any] = {"temperature": 0, "seed": 1}
TOKENS_MAX = 64
THINKING_TOKENS_MAX = 1_024
PICTURE = "A red circle on a white ground."
ANSWER_CHARS_MAX = 1_000


class Question(NamedTuple):
    """`path` below the base path; `kind` says how the answer is read: chat, completions, embeddings or image."""

    path: str
    kind: str
    body: dict[str, Any]


def for_model(model: ModelRecord) -> Question | None:
    """None for a model of which nothing is known that it could be asked."""
    name = {"model": model.slug}
    if model.images_per_call_max:
        return Question(CHAT.engine_path, "image", {**name, "messages": [_message(PICTURE)], "max_tokens": TOKENS_MAX})
    if serves(model, CHAT.feature):
        most = min(THINKING_TOKENS_MAX if model.is_reasoning else TOKENS_MAX, model.max_completion_tokens)
        body = {**name, "messages": [_message(PROMPT)], "max_tokens": most, "stream": True, **FIELDS}
        return Question(CHAT.engine_path, "chat", body)
    if serves(model, COMPLETIONS.feature):
        body = {**name, "prompt": f"{PROMPT}\n", "max_tokens": TOKENS_MAX, "stream": True, **FIELDS}
        return Question(COMPLETIONS.engine_path, "completions", body)
    if serves(model, EMBEDDINGS.feature):
        return Question(EMBEDDINGS.engine_path, "embeddings", {**name, "input": PROMPT})
    return None


def _message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def is_right(kind: str, answer: str) -> bool:
    """Of text the number is asked for; of vectors and pictures only that there are some."""
    return bool(answer) if kind in ("embeddings", "image") else RIGHT.search(answer) is not None


def prompt_of(question: Question) -> str:
    return PICTURE if question.kind == "image" else PROMPT

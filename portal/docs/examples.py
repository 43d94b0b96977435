"""The examples of the pages: what is asked, by name. Which models and fields they use comes from the brand's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from portal.canary import questions
from portal.docs.languages import Access, Ask, Sample, samples
from portal.docs.surface import Surface

CHAT = "chat.completions.create"
TEXT = ("choices", 0, "message", "content")
MESSAGE = ("choices", 0, "message")
QUESTION = "What is an API gateway? Answer in one sentence."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True, slots=True)
class Example:
    name: str
    samples: list[Sample]


def example(surface: Surface, name: str) -> Example | None:
    """None where the brand has no model or endpoint for it."""
    ask = ASKS[name](surface)
    if ask is None:
        return None
    access = Access(surface.base_url, surface.key, surface.key_header, surface.suits_sdks)
    return Example(name, samples(ask, access))


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def chat(surface: Surface, *messages: dict[str, Any], model: str = "", **fields: Any) -> Ask | None:
    if not surface.has("chat"):
        return None
    named = {} if surface.brand.is_plain_chat and surface.brand.default_model else {"model": model or surface.model}
    return Ask("/chat/completions", {**named, "messages": list(messages), **fields}, CHAT, TEXT)


def _first(surface: Surface) -> Ask | None:
    return chat(surface, message(QUESTION), max_tokens=100)


def _stream(surface: Surface) -> Ask | None:
    return chat(surface, message(QUESTION), max_tokens=100, stream=True)


def _complete(surface: Surface) -> Ask | None:
    temperature = surface.brand.parameters.get("temperature", {}).get("default", 0.7)
    return chat(
        surface,
        message("You are a helpful assistant. Answer concisely.", "system"),
        message("What is a REST API? Explain in 3 sentences."),
        max_tokens=500,
        temperature=temperature,
    )


def _turns(surface: Surface) -> Ask | None:
    return chat(
        surface,
        message("My name is Ada."),
        message("Hello Ada.", "assistant"),
        message("What is my name?"),
        max_tokens=100,
    )


def _tools(surface: Surface) -> Ask | None:
    if not surface.tool_model or surface.brand.is_plain_chat:
        return None
    ask = chat(
        surface,
        message("What is the weather in Bern?"),
        model=surface.tool_model,
        tools=[WEATHER],
        tool_choice="auto",
        max_tokens=200,
    )
    return ask and replace(ask, shows=MESSAGE)


def _json(surface: Surface) -> Ask | None:
    if surface.brand.is_plain_chat:
        return None
    asked = message("Name three rivers as JSON: an object with one list, rivers.")
    return chat(surface, asked, response_format={"type": "json_object"}, max_tokens=200)


def _session(surface: Surface) -> Ask | None:
    if not surface.brand.conversation_days:
        return None
    ask = chat(surface, message("My name is Ada."), session_id="my-first-conversation", max_tokens=100)
    return ask and replace(ask, extra=frozenset({"session_id"}))


def _reasoning(surface: Surface) -> Ask | None:
    if not (surface.brand.splits_reasoning and surface.reasoning_model):
        return None
    asked = message("Is 91 a prime number?")
    ask = chat(surface, asked, model=surface.reasoning_model, reasoning_split=True, max_tokens=500)
    return ask and replace(ask, shows=MESSAGE, extra=frozenset({"reasoning_split"}))


def _responses(surface: Surface) -> Ask | None:
    if not surface.has("responses"):
        return None
    body = {"model": surface.model, "input": QUESTION, "max_output_tokens": 100}
    return Ask("/responses", body, "responses.create", ("output", 0, "content", 0, "text"))


def _image(surface: Surface) -> Ask | None:
    if not surface.image_model:
        return None
    names = set(next(model for model in surface.models if model.slug == surface.image_model).extra_fields)
    rules = surface.brand.parameters
    wanted = {"aspect_ratio": "16:9", "image_size": "1K"}
    fields = {name: _allowed(rules.get(name, {}), value) for name, value in wanted.items() if name in names}
    ask = chat(surface, message("A lighthouse at dawn, in watercolour."), model=surface.image_model, **fields)
    return ask and replace(ask, shows=MESSAGE, extra=frozenset(fields))


def _allowed(rule: dict[str, Any], wanted: str) -> str:
    """`wanted` where the brand's rule has no list of values or has it on the list."""
    values = rule.get("values")
    return wanted if not values or wanted in values else str(values[0])


def _embeddings(surface: Surface) -> Ask | None:
    if not surface.has("embeddings") or not surface.embedding_model:
        return None
    body = {"model": surface.embedding_model, "input": ["a gateway", "a door"], "encoding_format": "float"}
    return Ask("/embeddings", body, "embeddings.create", ("data", 0, "embedding"))


def _completions(surface: Surface) -> Ask | None:
    if not surface.has("completions"):
        return None
    body = {"model": surface.model, "prompt": "An API gateway is", "max_tokens": 50}
    return Ask("/completions", body, "completions.create", ("choices", 0, "text"))


def _models(surface: Surface) -> Ask | None:
    return Ask("/models", needs_key=not surface.brand.is_catalogue_public) if surface.has("models") else None


def _usage(surface: Surface) -> Ask | None:
    return Ask("/usage") if surface.has("usage") else None


def _health(surface: Surface) -> Ask | None:
    return Ask("/health", needs_key=False)


def _cached(surface: Surface) -> Ask | None:
    """Shows what the usage says of cached tokens."""
    rules = message("Here are the house rules, the same in every request: …", "system")
    ask = chat(surface, rules, message("May I bring a dog?"), max_tokens=100)
    return ask and replace(ask, shows=("usage",))


def _probe(surface: Surface) -> Ask | None:
    """What the canary asks, so that answers can be compared."""
    return chat(surface, message(questions.PROMPT), max_tokens=questions.TOKENS_MAX, **questions.FIELDS)


ASKS: dict[str, Callable[[Surface], Ask | None]] = {
    "first": _first,
    "stream": _stream,
    "complete": _complete,
    "turns": _turns,
    "tools": _tools,
    "json": _json,
    "session": _session,
    "reasoning": _reasoning,
    "responses": _responses,
    "image": _image,
    "embeddings": _embeddings,
    "completions": _completions,
    "models": _models,
    "usage": _usage,
    "health": _health,
    "cached": _cached,
    "probe": _probe,
}

"""Request fields as pages show them: which there are comes from the gateway's tables, ranges and defaults from the
brand's rules over the house's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from keys.parameters import FIELDS, Number
from portal.docs.surface import Surface
from proxy.endpoints import CHAT, COMPLETIONS, EMBEDDINGS
from proxy.fields import Fate
from proxy.requests import RULES


class Parameter(NamedTuple):
    name: str
    kind: str
    is_required: bool
    text: str


SAID: dict[str, tuple[str, str]] = {
    "model": ("string", "Id or alias of a model"),
    "messages": ("array", "The conversation: objects with role and content"),
    "prompt": ("string or array", "The text to go on from"),
    "input": ("string or array", "What to answer, or the texts to turn into vectors"),
    "temperature": ("number", "How much chance there is in the answer; 0 is the same each time, as far as engines can"),
    "top_p": ("number", "Chance among the likeliest tokens that make up this share; change this or temperature"),
    "top_k": ("integer", "Chance among this many likeliest tokens"),
    "min_p": ("number", "Leaves out tokens less likely than this share of the likeliest"),
    "max_tokens": ("integer", "The longest answer, in tokens"),
    "max_completion_tokens": ("integer", "The same as max_tokens; the smaller of the two counts"),
    "stop": ("string or array", "Texts at which the answer ends"),
    "stream": ("boolean", "The answer piece by piece, as server-sent events"),
    "stream_options": ("object", "include_usage: true puts the usage into the last event"),
    "n": ("integer", "How many answers; each is charged"),
    "best_of": ("integer", "Only where it equals n"),
    "seed": ("integer", "The same seed, prompt and settings tend to give the same answer"),
    "frequency_penalty": ("number", "Above 0, words already used often come less often"),
    "presence_penalty": ("number", "Above 0, words already used at all come less often"),
    "logit_bias": ("object", "Token id to a number from -100 to 100"),
    "tools": ("array", "Functions that the model may ask you to call"),
    "tool_choice": ("string or object", "auto, none, required, or one function"),
    "parallel_tool_calls": ("boolean", "Whether several functions may be asked for at once"),
    "response_format": ("object", "type: text, json_object, or json_schema with a schema"),
    "reasoning_effort": ("string", "How long a reasoning model thinks"),
    "verbosity": ("string", "low, medium or high"),
    "logprobs": ("boolean or integer", "How likely each token was"),
    "top_logprobs": ("integer", "How many other tokens to show"),
    "prediction": ("object", "A text that the answer will be close to"),
    "functions": ("array", "The old form of tools"),
    "function_call": ("string or object", "The old form of tool_choice"),
    "user": ("string", "A name of yours for who asks, at most 512 characters; kept with the request's record"),
    "safety_identifier": ("string", "The same as user"),
    "metadata": ("object", "Up to 16 pairs of your own, kept with the request's record and never sent to a model"),
    "echo": ("boolean", "The prompt comes first in the answer"),
    "suffix": ("string", "The text that follows what is to be filled in"),
    "dimensions": ("integer", "How long the vectors are, where the model can choose"),
    "encoding_format": ("string", "float or base64"),
    "reasoning_split": ("boolean", "Puts what a model thought into a field of its own"),
    "session_id": ("string", "Goes on with a conversation that is kept here"),
    "aspect_ratio": ("string", "The shape of a picture"),
    "image_size": ("string", "The size of a picture"),
}
_REQUIRED = {
    CHAT.name: {"model", "messages"},
    COMPLETIONS.name: {"model", "prompt"},
    EMBEDDINGS.name: {"model", "input"},
}
_FIRST = ("model", "messages", "prompt", "input", "temperature", "max_tokens", "stream", "top_p", "stop")
_NOT_PLAIN = {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}


def of(surface: Surface, endpoint: str) -> list[Parameter]:
    """Those that do something, the usual ones first; then what only this brand has."""
    names = [name for name, rule in RULES.get(endpoint, {}).items() if rule.fate is not Fate.IDLE]
    if endpoint == CHAT.name:
        names += [name for name in _own(surface) if name not in names]
    if surface.brand.is_plain_chat:
        names = [name for name in names if name not in _NOT_PLAIN]
    order = {name: place for place, name in enumerate(dict.fromkeys((*_FIRST, *names)))}
    return [_parameter(surface, endpoint, name) for name in sorted(names, key=lambda name: order[name])]


def of_name(surface: Surface, name: str) -> Parameter:
    """A field of chat completions, whether or not the table of all has it."""
    return _parameter(surface, CHAT.name, name)


def _own(surface: Surface) -> list[str]:
    """Fields beyond the public schema: the dialect's, the brand's options', and what its rules name."""
    found = [*sorted(surface.dialect.request_fields), *surface.brand.parameters]
    found += ["reasoning_split"] if surface.brand.splits_reasoning else []
    found += ["session_id"] if surface.brand.conversation_days else []
    return [name for name in dict.fromkeys(found) if name != "max_output_tokens"]


def _parameter(surface: Surface, endpoint: str, name: str) -> Parameter:
    kind, text = SAID.get(name, ("any", "Passed on to the model"))
    is_required = name in _REQUIRED.get(endpoint, ())
    if name == "model" and surface.brand.default_model:
        is_required, text = False, f"{text}; {surface.brand.default_model} when left out"
    rule = surface.brand.parameters.get(name, {})
    return Parameter(name, kind, is_required, "; ".join((text, *_bounds(name, rule))))


def _bounds(name: str, rule: Mapping[str, Any]) -> list[str]:
    """What may be said, and what is taken when nothing is: "from 0 to 1; default 0.7"."""
    field = FIELDS.get(name)
    found = []
    if isinstance(field, Number):
        low, high = rule.get("min", field.low), rule.get("max", field.high)
        if abs(high) < 2**31 - 1:
            found.append(f"from {low:g} to {high:g}")
        elif low > -(2**31):
            found.append(f"at least {low:g}")
    if "values" in rule:
        found.append("one of " + ", ".join(map(str, rule["values"])))
    if "default" in rule:
        found.append(f"default {_word(rule['default'])}")
    elif name == "max_tokens":
        found.append("default: the model's own")
    return found


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

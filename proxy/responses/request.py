"""From the body of POST /responses to the chat call that answers it, and what the answer repeats of it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from billing.snapshot import BrandRecord, ModelRecord
from proxy.endpoints import CHAT
from proxy.fields import CHAT as CHAT_FIELDS
from proxy.fields import TOOLS_MAX, Check, boolean, integer, invalid, mapping, text
from proxy.refusals import Declined, Problem, Reason, decline
from proxy.requests import Asked, read
from proxy.responses.messages import messages_of

INSTRUCTIONS_CHARS_MAX = 8 * 1024 * 1024
_AS_IN_CHAT = frozenset(
    {
        *("model", "temperature", "top_p", "stream", "metadata", "user", "safety_identifier", "parallel_tool_calls"),
        *("stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias"),
    }
)
"""The rest of chat's fields are spelled otherwise here, or have no meaning."""
_TRANSLATED = frozenset(
    {
        *("input", "messages", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning"),
        *("stream_options",),
    }
)
_IDLE: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "include": ([],),
    "top_logprobs": (0,),
    "store": (False,),
    "background": (False,),
}
"""Fields without effect here, and the values of which nobody needs to be told so."""
_KEEPS_NOTHING = "responses are not kept; send the whole conversation in 'input'"
_REFUSED = {
    "previous_response_id": _KEEPS_NOTHING,
    "conversation": _KEEPS_NOTHING,
    "store": "responses are not kept for later; leave it out or send false",
    "background": "a response is given on the connection that asks for it; leave it out or send false",
    "prompt": "prompt templates are not kept; send 'instructions' and 'input'",
}
_ONLY_IN_CHAT = CHAT_FIELDS.keys() - _AS_IN_CHAT - _TRANSLATED - _IDLE.keys() - _REFUSED.keys()
_NAMES_HERE = {
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
}


@dataclass(slots=True)
class Echo:
    """What a response repeats of its request, as the openai SDKs' types have it."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float | None
    user: str | None
    names: dict[str, str]
    """Fields of the chat call → what they are called here, for errors."""


def read_response(
    body: dict[str, Any], model: ModelRecord, extras: Collection[str], brand: BrandRecord | None = None
) -> tuple[Asked, Echo]:
    """The chat call a body asks for, with every check that a chat call has. Declined names the fields as they are
    called here."""
    dropped = _refused_or_idle(body)
    chat, names = _chat_of(body)
    dropped += [name for name in body if name in _ONLY_IN_CHAT]
    try:
        asked = read(chat, CHAT, model, extras, brand)
    except Declined as declined:
        raise Declined(renamed(declined.problem, names)) from None
    asked.dropped = sorted({*asked.dropped, *dropped})
    return asked, _echo(body, asked, names)


def _chat_of(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A chat body, and the names here of fields there that an error may name."""
    known = _ONLY_IN_CHAT | _TRANSLATED | _IDLE.keys() | _REFUSED.keys()
    chat = {name: value for name, value in body.items() if name not in known}
    chat["messages"], names = messages_of(body, _given(body, "instructions", text(INSTRUCTIONS_CHARS_MAX)))
    longest = _given(body, "max_output_tokens", integer(1, 2**31 - 1))
    if longest is not None:
        chat["max_tokens"] = longest
    tools = body.get("tools")
    if tools is not None and tools != []:
        chat["tools"] = _tools(tools)
        chat["tool_choice"] = _tool_choice(body.get("tool_choice"))
    _given(body, "stream_options", mapping)
    chat |= _text(_given(body, "text", mapping) or {})
    chat["reasoning_effort"] = (_given(body, "reasoning", mapping) or {}).get("effort")
    return chat, _NAMES_HERE | names


def _given(body: dict[str, Any], name: str, check: Check) -> Any:
    value = body.get(name)
    if value is not None:
        check(name, value)
    return value


def _refused_or_idle(body: dict[str, Any]) -> list[str]:
    """Names of fields without effect; Declined for one that asks for what does not exist here."""
    for name in ("store", "background"):
        _given(body, name, boolean)
    for name, why in _REFUSED.items():
        if body.get(name) is not None and body[name] is not False:
            raise unsupported(name, f"'{name}' is not supported: {why}.")
    return [name for name, quiet in _IDLE.items() if body.get(name) is not None and body[name] not in quiet]


def unsupported(param: str, detail: str) -> Exception:
    return decline(Reason.UNSUPPORTED_PARAMETER, param=param, detail=detail)


def _tools(tools: Any) -> list[dict[str, Any]]:
    """Function tools as chat has them. Both spellings are taken: flat, as here, and chat's own."""
    if type(tools) is not list or len(tools) > TOOLS_MAX:
        raise invalid("tools", f"expected a list of at most {TOOLS_MAX} tools")
    found = []
    for index, tool in enumerate(tools):
        if type(tool) is not dict or type(tool.get("type")) is not str:
            raise invalid(f"tools[{index}]", "each tool is an object with a type")
        if tool["type"] != "function":
            kind = tool["type"][:40]
            raise unsupported(
                f"tools[{index}].type", f"The hosted tool '{kind}' is not available here; use function tools."
            )
        function = tool.get("function")
        if type(function) is not dict:
            function = {name: tool[name] for name in _FUNCTION_KEYS if tool.get(name) is not None}
        if type(function.get("name")) is not str:
            raise invalid(f"tools[{index}].name", "a function tool has a name")
        found.append({"type": "function", "function": function})
    return found


_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def _tool_choice(choice: Any) -> Any:
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    if type(choice) is dict and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if type(function) is dict else choice.get("name")
        if type(name) is str:
            return {"type": "function", "function": {"name": name}}
    if type(choice) is dict and type(choice.get("type")) is str:
        raise unsupported("tool_choice.type", f"'tool_choice' of type '{choice['type'][:40]}' is not supported.")
    raise invalid("tool_choice", "expected auto, none, required, or a function by its name")


def _text(wish: dict[str, Any]) -> dict[str, Any]:
    """`text` as chat's response_format and verbosity."""
    form = wish.get("format")
    if form is not None:
        mapping("text.format", form)
        if form.get("type") == "json_schema":
            schema = {name: form[name] for name in _SCHEMA_KEYS if form.get(name) is not None}
            form = {"type": "json_schema", "json_schema": schema}
        elif form.get("type") == "text":
            form = None
    return {"response_format": form, "verbosity": wish.get("verbosity")}


_SCHEMA_KEYS = ("name", "description", "schema", "strict")


def renamed(problem: Problem, names: dict[str, str]) -> Problem:
    """The problem with the field as it is called here: `names` has whole names, or what they begin with."""
    param = problem.param
    if param is None:
        return problem
    there = param if param in names else param.partition(".")[0]
    here = names.get(there)
    if here is None:
        return problem
    ours = here + param[len(there) :]
    return replace(problem, param=ours, message=problem.message.replace(f"'{param}'", f"'{ours}'"))


def _echo(body: dict[str, Any], asked: Asked, names: dict[str, str]) -> Echo:
    form = (body.get("text") or {}).get("format") or {"type": "text"}
    flat = []
    for tool in asked.fields.get("tools") or ():
        flat.append({"type": "function", "strict": None, "parameters": None} | tool["function"])
    effort = asked.fields.get("reasoning_effort")
    return Echo(
        instructions=body.get("instructions"),
        max_output_tokens=body.get("max_output_tokens"),
        metadata=asked.metadata,
        parallel_tool_calls=asked.fields.get("parallel_tool_calls", True),
        reasoning={"effort": effort, "summary": None},
        temperature=asked.fields.get("temperature"),
        text={"format": form},
        tool_choice=body.get("tool_choice") or "auto",
        tools=flat,
        top_p=asked.fields.get("top_p"),
        user=asked.user or None,
        names=names,
    )

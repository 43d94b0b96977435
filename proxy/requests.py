"""From a parsed body to what is asked for: fields checked, cleaned and sorted into sent, kept and dropped. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from billing.snapshot import BrandRecord, ModelRecord
from proxy import parameters, prompt_bound
from proxy.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from proxy.fields import CHAT as CHAT_FIELDS
from proxy.fields import CHOICES_MAX, NEVER, TOOL_FIELDS, Fate, Rule, invalid
from proxy.fields import COMPLETIONS as COMPLETION_FIELDS
from proxy.fields import EMBEDDINGS as EMBEDDING_FIELDS
from proxy.messages import check_plain, checked
from proxy.refusals import Reason, decline
from proxy.splitting import Split

MODEL_CHARS_MAX = 250
INPUTS_MAX = 2_048
OUTPUT_TOKENS_MIN = 16
_ALWAYS = frozenset({"model", "messages", "input"})

RULES: dict[str, dict[str, Rule]] = {
    CHAT.name: CHAT_FIELDS,
    COMPLETIONS.name: COMPLETION_FIELDS,
    EMBEDDINGS.name: EMBEDDING_FIELDS,
}


class Asked(msgspec.Struct):
    """One validated request. `fields` is what an engine may see, but for model, lengths and stream, which the
    forwarder sets. `output_wanted` is per choice; `length_field` the spelling the client used, "" when it gave none."""

    endpoint: Endpoint
    fields: dict[str, Any]
    prompt_tokens_max: int
    output_wanted: int
    choices: int = 1
    prompts: int = 1
    stream: bool = False
    include_usage: bool = False
    length_field: str = ""
    has_developer: bool = False
    dropped: list[str] = []
    user: str = ""
    metadata: dict[str, str] = {}
    split: Split | None = None


def model_named(body: dict[str, Any], default: str) -> str:
    """The model a body asks for, before anything else is read: it decides which extra fields are let through."""
    name = body.get("model")
    if name is None or name == "":
        if not default:
            raise decline(Reason.MISSING_FIELD, param="model")
        return default
    if type(name) is not str or len(name) > MODEL_CHARS_MAX:
        raise invalid("model", f"expected a string of at most {MODEL_CHARS_MAX} characters")
    return name


def read(
    body: dict[str, Any],
    endpoint: Endpoint,
    model: ModelRecord,
    extras: Collection[str],
    brand: BrandRecord | None = None,
) -> Asked:
    """`extras`: the engine parameters this model lets through. `brand`: its own rules for fields. `body` may be
    changed."""
    rules = RULES[endpoint.name]
    own = {} if brand is None else brand.parameters
    if brand is not None and brand.is_plain_chat:
        check_plain(body)
    sent: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    extra_values: list[Any] = []
    for name, value in body.items():
        rule = rules.get(name)
        if rule is None or (rule.fate is Fate.IDLE and name in extras):
            if name in extras and name not in NEVER:
                if own and value is not None:
                    parameters.check(own, name, value)
                sent[name] = value
                extra_values.append(value)
            else:
                dropped.append(name)
        elif value is None:
            continue
        else:
            if own:
                parameters.check(own, name, value)
            rule.check(name, value)
            if rule.fate is Fate.SEND:
                sent[name] = value
            elif rule.fate is Fate.KEEP:
                kept[name] = value
            elif value != rule.default:
                dropped.append(name)
    if own:
        _fill_in(own, rules, extras, sent, kept)
    asked = _READERS[endpoint.name](sent, kept, dropped, model)
    if own and asked.output_wanted and not asked.length_field:
        length = parameters.default_length(own) or asked.output_wanted
        asked.output_wanted = min(length, _longest(model))
    asked.dropped = dropped
    asked.user = kept.get("user") or kept.get("safety_identifier") or ""
    asked.metadata = kept.get("metadata") or {}
    if extra_values:
        asked.prompt_tokens_max += prompt_bound.of_extras(extra_values)
    return asked


def _fill_in(
    own: parameters.Parameters,
    rules: dict[str, Rule],
    extras: Collection[str],
    sent: dict[str, Any],
    kept: dict[str, Any],
) -> None:
    """What the brand documents as default is taken as said; engines otherwise take the model's own."""
    for name, value in parameters.defaults(own).items():
        rule = rules.get(name)
        if rule is None:
            if name in extras and name not in NEVER and sent.get(name) is None:
                sent[name] = value
        elif rule.fate is Fate.SEND:
            sent.setdefault(name, value)
        elif rule.fate is Fate.KEEP:
            kept.setdefault(name, value)


def accepted(model: ModelRecord, extras: Collection[str], brand: BrandRecord | None = None) -> tuple[str, ...]:
    """The optional request fields that do something with this model, by name."""
    rules = EMBEDDING_FIELDS if "embeddings" in model.features else CHAT_FIELDS
    names = {name for name, rule in rules.items() if rule.fate is not Fate.IDLE} | set(extras)
    if (model.features and "tools" not in model.features) or (brand is not None and brand.is_plain_chat):
        names -= TOOL_FIELDS
    if brand is not None and rules is CHAT_FIELDS:
        names |= {"session_id"} if brand.conversation_days else set()
        names |= {"reasoning_split"} if brand.splits_reasoning else set()
    return tuple(sorted(names - NEVER - _ALWAYS))


def _chat(sent: dict[str, Any], kept: dict[str, Any], dropped: list[str], model: ModelRecord) -> Asked:
    if "messages" not in sent:
        raise decline(Reason.MISSING_FIELD, param="messages")
    sent["messages"], left_out = checked(sent["messages"], model.modalities)
    dropped.extend(sorted(left_out))
    asked = Asked(CHAT, sent, prompt_bound.of_chat(sent, model), 0)
    asked.has_developer = any(message["role"] == "developer" for message in sent["messages"])
    _lengths(asked, kept, model)
    _streaming(asked, kept)
    asked.choices = _choices(asked, kept)
    return asked


def _completion(sent: dict[str, Any], kept: dict[str, Any], dropped: list[str], model: ModelRecord) -> Asked:
    prompts = _texts("prompt", sent)
    asked = Asked(COMPLETIONS, sent, prompt_bound.of_completion(sent, model), 0)
    _lengths(asked, kept, model)
    _streaming(asked, kept)
    asked.prompts = prompts
    asked.choices = _choices(asked, kept) * prompts
    if asked.choices > CHOICES_MAX:
        raise invalid("n", f"prompts times n is more than {CHOICES_MAX}")
    if kept.get("best_of", kept.get("n", 1)) != kept.get("n", 1):
        raise decline(
            Reason.UNSUPPORTED_PARAMETER, param="best_of", detail="best_of is only supported when it equals n."
        )
    return asked


def _embedding(sent: dict[str, Any], kept: dict[str, Any], dropped: list[str], model: ModelRecord) -> Asked:
    inputs = _texts("input", sent)
    return Asked(EMBEDDINGS, sent, prompt_bound.of_embedding(sent, model), 0, prompts=inputs)


_READERS = {CHAT.name: _chat, COMPLETIONS.name: _completion, EMBEDDINGS.name: _embedding}


def _choices(asked: Asked, kept: dict[str, Any]) -> int:
    choices: int = kept.get("n", 1)
    if choices != 1:
        asked.fields["n"] = choices
    return choices


def _texts(name: str, sent: dict[str, Any]) -> int:
    """Check a prompt or input: text, token ids, or a list of either. Returns how many there are."""
    if name not in sent:
        raise decline(Reason.MISSING_FIELD, param=name)
    value = sent[name]
    if type(value) is str and value:
        return 1
    if type(value) is not list or not value:
        raise invalid(name, "expected a text, a list of texts, or token ids")
    if type(value[0]) is int:
        _token_ids(name, value)
        return 1
    if len(value) > INPUTS_MAX:
        raise invalid(name, f"more than {INPUTS_MAX} entries")
    for item in value:
        if type(item) is list and item:
            _token_ids(name, item)
        elif type(item) is not str or not item:
            raise invalid(name, "each entry is a text that is not empty, or a list of token ids")
    return len(value)


def _token_ids(name: str, tokens: list[Any]) -> None:
    if any(type(token) is not int or not 0 <= token < 2**31 for token in tokens):
        raise invalid(name, "token ids are integers that are not negative")


def _lengths(asked: Asked, kept: dict[str, Any], model: ModelRecord) -> None:
    """The smaller of max_tokens and max_completion_tokens counts; more than the model's most is refused."""
    longest = _longest(model)
    given = [(kept[name], name) for name in ("max_completion_tokens", "max_tokens") if name in kept]
    if not given:
        asked.output_wanted = min(model.default_max_tokens, longest)
        return
    asked.output_wanted, asked.length_field = min(given)
    if asked.output_wanted > longest:
        raise invalid(asked.length_field, f"{asked.output_wanted} is more than this model gives ({longest})")


def _longest(model: ModelRecord) -> int:
    return min(model.max_completion_tokens, model.context_length)


def _streaming(asked: Asked, kept: dict[str, Any]) -> None:
    asked.stream = kept.get("stream", False)
    if asked.stream:
        asked.include_usage = bool((kept.get("stream_options") or {}).get("include_usage"))


def dropped_header(names: list[str]) -> bytes:
    """x-dropped-fields. Names come from the client: only plain ones are repeated, and not without end."""
    shown = [name if len(name) <= 64 and name.isascii() and _is_plain(name) else "?" for name in names[:20]]
    if len(names) > len(shown):
        shown.append(f"and {len(names) - len(shown)} more")
    return ", ".join(shown).encode("ascii")


def _is_plain(name: str) -> bool:
    return name.replace("_", "").replace(".", "").replace("-", "").isalnum()

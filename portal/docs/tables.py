"""Tables and lists of facts that pages show. Each is made from rows or from the gateway's tables when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from billing import money
from billing.models import Payer, Tier
from billing.snapshot import ModelRecord, RateRecord
from portal import standing
from portal.docs import parameters
from portal.docs.surface import Surface
from portal.templatetags.portal import limit_in_words
from proxy import bodies, fields
from proxy.endpoints import BY_PATH
from proxy.forwarding import extras_of

BESIDE_CHARS_MAX = 40


class Cell(NamedTuple):
    """One place of a table. `kind`: "", "code" or "amount". `note`: a second line, smaller."""

    text: str
    kind: str = ""
    note: str = ""

    @property
    def is_long(self) -> bool:
        """Too long to stand beside its header on a narrow page."""
        return len(self.text) + len(self.note) > BESIDE_CHARS_MAX


class Table(NamedTuple):
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def heads(self) -> list[tuple[str, str]]:
        """Each header with the kind of the cells under it."""
        return list(zip(self.headers, (cell.kind for cell in self.rows[0]), strict=True))

    @property
    def labelled(self) -> list[list[tuple[str, Cell]]]:
        """Each cell with its column's header, which narrow pages show beside it."""
        return [list(zip(self.headers, row, strict=True)) for row in self.rows]


def code(text: str, note: str = "") -> Cell:
    return Cell(text, "code", note)


def amount(text: str) -> Cell:
    return Cell(text, "amount")


# endpoints ----------------------------------------------------------------------------------

DOES = {
    "chat": "An answer to a conversation, whole or streamed",
    "completions": "A text that goes on, whole or streamed",
    "embeddings": "Vectors for texts",
    "responses": "An answer in the shape of the Responses API, whole or streamed",
    "images": "Pictures",
    "models": "The catalogue",
    "model": "One model of the catalogue",
    "usage": "What your account has used, and what is left",
    "health": "Whether the API takes requests; needs no key",
    "conversation": "Forgets a conversation",
}


def endpoints(surface: Surface) -> Table:
    rows = []
    for path, endpoint in surface.endpoints:
        methods = ", ".join(method for method in endpoint.methods if method != "HEAD")
        rows.append((code(f"{methods} {surface.base_path}{path}"), Cell(DOES.get(endpoint.name, endpoint.name))))
        if endpoint.name == "models":
            rows.append((code(f"GET {surface.base_path}{path}/{{id}}"), Cell(DOES["model"])))
    return Table(("Request", "Answers with"), rows)


def every_endpoint_is_described() -> bool:
    return {endpoint.name for endpoint in BY_PATH.values()} <= DOES.keys()


# authentication ----------------------------------------------------------------------------------

SCHEMES = {
    "bearer": ("Authorization: Bearer {key}", "What the openai SDKs send"),
    "api-key": ("Authorization: Api-Key {key}", "For clients that cannot send Bearer"),
    "x-api-key": ("X-API-Key: {key}", "A header of its own"),
    "query": ("?api_key={key}", "In the address: only where a header is impossible, because addresses end up in logs"),
}
SCOPES = {
    "chat": "chat completions",
    "completions": "text completions",
    "responses": "responses",
    "embeddings": "embeddings",
    "images": "images",
    "models": "the catalogue",
    "usage": "usage",
}


def schemes(surface: Surface) -> Table:
    rows = []
    for scheme in surface.schemes:
        form, remark = SCHEMES[scheme.value]
        rows.append((code(form.format(key=surface.key)), Cell(remark)))
    return Table(("Send", "Remark"), rows)


def scopes(surface: Surface) -> Table:
    allowed = surface.brand.key_scopes or list(SCOPES)
    paths = {endpoint.scope: path for path, endpoint in surface.endpoints if endpoint.scope}
    rows = [
        (code(name), Cell(SCOPES[name]), code(f"{surface.base_path}{paths[name]}"))
        for name in SCOPES
        if name in allowed and name in paths
    ]
    return Table(("Scope", "Lets a key use", "Path"), rows)


# models and prices ----------------------------------------------------------------------------------

_PER_MILLION = (
    ("Input", "input_picos"),
    ("Cached input", "cache_read_picos"),
    ("Cache write", "cache_write_picos"),
    ("Output", "output_picos"),
    ("Reasoning", "reasoning_picos"),
)
_ALWAYS = {"Input", "Output"}


def models(surface: Surface) -> Table:
    rows = [
        (
            code(model.slug),
            Cell(model.description or model.name),
            amount(f"{model.context_length:,}"),
            amount(f"{model.max_completion_tokens:,}"),
            Cell("in maintenance" if model.state == "maintenance" else "live"),
        )
        for model in surface.models
    ]
    return Table(("Model", "Description", "Context", "Longest answer", "State"), rows)


def prices(surface: Surface) -> Table:
    """Columns that no model has a price for are left out."""
    priced = [(model, surface.rate(model)) for model in surface.models]
    rates = [rate for _, rate in priced if rate is not None]
    shown = [(name, field) for name, field in _PER_MILLION if name in _ALWAYS or _any(rates, field)]
    apart = [(name, field) for name, field in _APART if _any(rates, field)]
    rows = [
        (
            code(model.slug),
            *(amount(_per_million(rate, field, surface)) for _, field in shown),
            *(amount(_apart(rate, field, surface)) for _, field in apart),
        )
        for model, rate in priced
    ]
    return Table(("Model", *(name for name, _ in shown), *(name for name, _ in apart)), rows)


_APART = (
    ("Per request", "request_nanos"),
    ("Per image", "image_nanos"),
    ("Credits per request", "credits_per_request"),
    ("Credits per 1,000 tokens", "credits_per_1000_tokens"),
)


def _any(rates: Iterable[RateRecord], field: str) -> bool:
    return any(getattr(rate, field) for rate in rates)


def _per_million(rate: RateRecord | None, field: str, surface: Surface) -> str:
    if rate is None:
        return "not on sale yet" if field == "input_picos" else "–"
    picos = getattr(rate, field)
    if picos is None:  # what is not priced apart costs what it is part of
        picos = rate.output_picos if field == "reasoning_picos" else rate.input_picos
    if rate.is_free:
        return "free" if field == "input_picos" else "–"
    return money.display(
        (picos or 0) * money.NANOS_PER_UNIT // money.PICOS_PER_TOKEN_PER_MILLION, surface.brand.currency
    )


def _apart(rate: RateRecord | None, field: str, surface: Surface) -> str:
    value = 0 if rate is None else getattr(rate, field)
    if not value:
        return "–"
    return money.display(value, surface.brand.currency) if field.endswith("_nanos") else f"{value:,}"


def naming(surface: Surface) -> Table:
    rows = [
        (
            code(model.slug),
            Cell(", ".join(model.aliases) or "–", "code" if model.aliases else ""),
            Cell(", ".join(features_of(model))),
            Cell(model.modality),
            Cell(", ".join(sorted(extras_of(model, surface.snapshot))) or "–"),
        )
        for model in surface.models
    ]
    return Table(("Id", "Aliases", "Features", "Takes and gives", "Parameters of its own"), rows)


def features_of(model: ModelRecord) -> list[str]:
    found = list(model.features) or ["chat", "completions"]
    if model.is_reasoning and "reasoning" not in found:
        found.append("reasoning")
    return found


def deprecations(surface: Surface) -> Table:
    resting = [model for model in surface.models if model.state == "maintenance"]
    rows = [(code(model.slug), Cell("retired: requests for it are refused")) for model in surface.retired]
    rows += [(code(model.slug), Cell(model.maintenance_message or "in maintenance")) for model in resting]
    return Table(("Model", "State"), rows)


def deadlines(surface: Surface) -> Table:
    rows = [
        (
            code(model.slug),
            amount(_seconds(model.first_byte_ms)),
            amount(_seconds(model.idle_ms)),
            amount(_seconds(model.total_ms)),
        )
        for model in surface.models
    ]
    return Table(("Model", "First byte within", "Longest silence", "Whole answer within"), rows)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


def declared(surface: Surface) -> Table:
    """What the operator declares of each model, beside what its engines are."""
    from billing.models import Model

    rows = [
        (
            code(row.slug),
            Cell(row.weights or "not declared"),
            Cell(row.weights_revision or "–", "code" if row.weights_revision else ""),
            Cell(row.quantization or "–"),
            amount(f"{row.context_length:,}"),
        )
        for row in Model.objects.filter(brand=surface.brand)
        .exclude(state=Model.State.RETIRED)
        .order_by("position", "slug")
    ]
    return Table(("Model", "Weights", "Revision", "Quantization", "Context"), rows)


# tiers ----------------------------------------------------------------------------------

PAYS = {
    Payer.INCLUDED: "nothing: its limits are all there is",
    Payer.PREPAID: "the account's prepaid balance, per token",
    Payer.INCLUDED_THEN_PREPAID: "nothing up to what is included, then the prepaid balance",
}


def tiers(surface: Surface) -> Table:
    currency = surface.brand.currency
    listed = Tier.objects.filter(brand=surface.brand, is_listed=True).order_by("rank")
    found = list(listed.prefetch_related("limits__model"))
    has_price = any(tier.monthly_price_nanos is not None for tier in found)
    rows = [
        (
            Cell(tier.name if tier.label in ("", tier.name) else f"{tier.name} ({tier.label})"),
            *([amount(_monthly(tier, currency))] if has_price else []),
            Cell("all" if tier.model_slugs is None else ", ".join(tier.model_slugs) or "none"),
            Cell("; ".join(limit_in_words(limit, currency) for limit in standing.binding(tier)) or "no limits"),
            Cell(PAYS[Payer(tier.payer)]),
        )
        for tier in found
    ]
    return Table(("Tier", *(["Per month"] if has_price else []), "Models", "Limits", "Who pays"), rows)


def _monthly(tier: Tier, currency: str) -> str:
    if tier.monthly_price_nanos is None:
        return "–"
    return "free" if not tier.monthly_price_nanos else money.display(tier.monthly_price_nanos, currency)


def network(surface: Surface) -> Table:
    """What a request may not pass, from the tables that judge it."""
    rows = [
        ("Body", f"{bodies.BODY_BYTES_MAX // 1024**2} MiB, sent within {bodies.BODY_SECONDS_MAX:g} s"),
        ("Silence within a body", f"{bodies.SILENT_SECONDS_MAX:g} s"),
        ("Nesting of JSON", f"{bodies.DEPTH_MAX} levels"),
        ("Headers", f"{bodies.HEADER_COUNT_MAX}, {bodies.HEADER_BYTES_MAX // 1024} KiB in all"),
        ("metadata", f"{fields.METADATA_PAIRS_MAX} pairs"),
        ("stop", f"{fields.STOP_SEQUENCES_MAX} texts of {fields.STOP_CHARS_MAX} characters"),
        ("tools", f"{fields.TOOLS_MAX}"),
    ]
    return Table(("What", "At most"), [(Cell(what), Cell(most)) for what, most in rows])


def image_parameters(surface: Surface) -> Table:
    makers = [model for model in surface.models if model.images_per_call_max]
    names = dict.fromkeys(name for model in makers for name in sorted(extras_of(model, surface.snapshot)))
    found = [parameters.of_name(surface, name) for name in names]
    return Table(
        ("Field", "Type", "What it does"), [(code(each.name), Cell(each.kind), Cell(each.text)) for each in found]
    )


def parameters_table(surface: Surface, endpoint: str) -> Table:
    rows = [
        (code(each.name), Cell(each.kind), Cell("yes" if each.is_required else "no"), Cell(each.text))
        for each in parameters.of(surface, endpoint)
    ]
    return Table(("Field", "Type", "Required", "What it does"), rows)


TABLES: dict[str, Callable[[Surface], Table]] = {
    "endpoints": endpoints,
    "schemes": schemes,
    "scopes": scopes,
    "models": models,
    "prices": prices,
    "naming": naming,
    "deprecations": deprecations,
    "deadlines": deadlines,
    "declared": declared,
    "tiers": tiers,
    "network": network,
    "image-parameters": image_parameters,
    "chat-parameters": lambda surface: parameters_table(surface, "chat"),
    "completions-parameters": lambda surface: parameters_table(surface, "completions"),
    "embeddings-parameters": lambda surface: parameters_table(surface, "embeddings"),
}

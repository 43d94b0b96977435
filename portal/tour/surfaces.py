"""Five surfaces on one installation: what each was asked, and what its page says it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from portal.tour import Proof
from portal.tour.demo import Answer, Demo

HELLO = [{"role": "user", "content": "Hello!"}]
SCHEMES = ("Bearer", "Api-Key", "X-API-Key", "?api_key=")
LABEL_WIDTH = 25
CELL_WIDTH = 28


class Surface(NamedTuple):
    """One brand of demo.json, beside all of them."""

    demo: Demo
    slug: str
    facts: Mapping[str, Any]

    async def ask(
        self,
        path: str = "/chat/completions",
        *,
        key: str | None = "api_key",
        secret: str = "",
        scheme: str = "Bearer",
        **fields: Any,
    ) -> Answer:
        """A question with one of the brand's keys (None: without any), or with `secret`."""
        own = {"api_key": self.facts["api_key"], **self.facts["keys"]}
        secret = secret or (own[key] if key else "")
        headers, query = _credentials(scheme, secret)
        if path != "/chat/completions":
            return await self.demo.request(self.facts["base_url"], "GET", path + query, headers)
        body = {"model": self.facts["model"], "messages": HELLO, "max_tokens": 16} | fields
        headers.append((b"content-type", b"application/json"))
        return await self.demo.request(self.facts["base_url"], "POST", path + query, headers, orjson.dumps(body))

    def state(self, name: str) -> str:
        return str(self.facts["models"][name])


class Row(NamedTuple):
    """One behaviour: what is asked, and the answer that each page promises (`promised`; "" for those not named)."""

    label: str
    ask: Callable[[Surface], Awaitable[str]]
    promised: Mapping[str, str]


async def five_brands_answer_as_their_pages_say(demo: Demo) -> Proof:
    surfaces = [Surface(demo, slug, facts) for slug, facts in demo.brands.items()]
    lines = [f"{'':{LABEL_WIDTH}}" + "".join(f"{surface.slug:{CELL_WIDTH}}" for surface in surfaces)]
    wrong = 0
    for row in ROWS:
        found = await asyncio.gather(*(row.ask(surface) for surface in surfaces))
        cells = []
        for surface, cell in zip(surfaces, found, strict=True):
            promised = row.promised.get(surface.slug, row.promised.get("", ""))
            wrong += cell != promised
            cells.append(cell if cell == promised else f"{cell} (not {promised})")
        lines.append(f"{row.label:{LABEL_WIDTH}}" + "".join(f"{cell:{CELL_WIDTH}}" for cell in cells))
    lines.append(f"{len(ROWS)} behaviours of {len(surfaces)} brands, {wrong} not as their pages say")
    return Proof(lines, holds=not wrong)


# what is asked --------------------------------------------------------------------------------------------------------


async def _whole(surface: Surface) -> str:
    answer = await surface.ask()
    body = answer.body
    fields = ("model", "choices", "usage") if surface.slug == "aimichat" else ("id", "object", "created", "choices")
    return f"{answer.status}" if all(name in body for name in fields) else f"{answer.status}, fields missing"


async def _streamed(surface: Surface) -> str:
    answer = await surface.ask(stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if len(events) < 2 or events[-1] != "[DONE]":
        return f"{answer.status}, no [DONE]"
    last = orjson.loads(events[-2])["choices"][0].get("finish_reason")
    return f"{answer.status} … [DONE]" if last else f"{answer.status}, no finish_reason"


async def _schemes(surface: Surface) -> str:
    answers = await asyncio.gather(*(surface.ask(scheme=scheme) for scheme in SCHEMES))
    return " ".join(scheme for scheme, answer in zip(SCHEMES, answers, strict=True) if answer.status == 200)


async def _revoked(surface: Surface) -> str:
    return f"{(await surface.ask(key='revoked')).status}"


async def _strangers(surface: Surface) -> str:
    """Keys of the other brands, each refused in this surface's envelope."""
    others = [facts["api_key"] for slug, facts in surface.demo.brands.items() if slug != surface.slug]
    answers = await asyncio.gather(*(surface.ask(secret=secret) for secret in others))
    in_words = [answer.status == 401 and _envelope(answer) == "Unauthorized" for answer in answers]
    if surface.slug != "aimichat":
        in_words = [answer.status == 401 and _envelope(answer) == "invalid_api_key" for answer in answers]
    return "all 401" if all(in_words) else f"{sum(in_words)} of {len(others)} are 401"


async def _unknown_model(surface: Surface) -> str:
    return _said(await surface.ask(model="nobody/nothing"))


async def _too_warm(surface: Surface) -> str:
    """The temperature that is above what the page allows."""
    answer = await surface.ask(temperature=2.1 if surface.slug != "dialogix" else 1.1)
    return f"{answer.status}"


async def _used_up(surface: Surface) -> str:
    answer = await surface.ask(key="exhausted")
    return f"{answer.status}" + (", no retry" if answer.headers.get("x-should-retry") == "false" else "")


async def _loading(surface: Surface) -> str:
    answer = await surface.ask(model=surface.state("loading"))
    return f"{answer.status}, {answer.headers.get('retry-after')} s"


async def _broken(surface: Surface) -> str:
    return f"{(await surface.ask(model=surface.state('broken'))).status}"


async def _misconfigured(surface: Surface) -> str:
    return f"{(await surface.ask(model=surface.state('misconfigured'))).status}"


async def _restricted(surface: Surface) -> str:
    return _said(await surface.ask(key="restricted"))


async def _tools(surface: Surface) -> str:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    return f"{(await surface.ask(tools=[tool])).status}"


async def _models(surface: Surface) -> str:
    answer = await surface.ask("/models")
    return " ".join([f"{answer.status}", *(name for name in ("models", "data") if name in answer.body)])


async def _models_without_key(surface: Surface) -> str:
    return f"{(await surface.ask('/models', key=None)).status}"


async def _usage(surface: Surface) -> str:
    answer = await surface.ask("/usage")
    return f"{answer.status}" + (f", {len(answer.body['daily_stats'])} days" if answer.status == 200 else "")


async def _limits(surface: Surface) -> str:
    headers = (await surface.ask()).headers
    return " ".join(word for word in ("limit", "used", "remaining", "reset") if _limit_header(headers, word))


# how it is told -------------------------------------------------------------------------------------------------------


def _credentials(scheme: str, secret: str) -> tuple[list[tuple[bytes, bytes]], str]:
    if not secret:
        return [], ""
    if scheme == "?api_key=":
        return [], f"?api_key={secret}"
    if scheme == "X-API-Key":
        return [(b"x-api-key", secret.encode())], ""
    return [(b"authorization", f"{scheme} {secret}".encode())], ""


def _envelope(answer: Answer) -> str:
    """The code of an error, or its title where errors are flat."""
    error = answer.body.get("error")
    return str(error.get("code")) if isinstance(error, dict) else str(error)


def _said(answer: Answer) -> str:
    return f"{answer.status}" if answer.status == 200 else f"{answer.status} {_envelope(answer)}"


def _limit_header(headers: Mapping[str, str], word: str) -> bool:
    return any(name.startswith(f"x-ratelimit-{word}") for name in headers)


ROWS = (
    Row("chat completion", _whole, {"": "200"}),
    Row("streamed", _streamed, {"": "200 … [DONE]"}),
    Row(
        "a key comes by",
        _schemes,
        {"": "Bearer", "aionlabs": "Bearer Api-Key", "aimichat": "Bearer X-API-Key ?api_key="},
    ),
    Row("a revoked key", _revoked, {"": "401"}),
    Row("keys of the others", _strangers, {"": "all 401"}),
    Row(
        "an unknown model",
        _unknown_model,
        {"": "404 model_not_found", "aionlabs": "400 model_not_found", "aimichat": "404 Not found"},
    ),
    Row("too high a temperature", _too_warm, {"": "400"}),
    Row("tools", _tools, {"": "200", "aimichat": "403"}),
    Row("a restricted key", _restricted, {"": "403 model_not_allowed", "aimichat": "403 Forbidden"}),
    Row("a used-up key", _used_up, {"": "429, no retry"}),
    Row("its engine is loading", _loading, {"": "503, 30 s"}),
    Row("its engine fails", _broken, {"": "502"}),
    Row("no engine is set up", _misconfigured, {"": "500", "aionlabs": "400"}),
    Row("/models", _models, {"": "200 data", "aionlabs": "200 models data", "aimichat": "403"}),
    Row("/models without a key", _models_without_key, {"": "401", "aionlabs": "200"}),
    Row("/usage", _usage, {"": "200, 30 days", "aimichat": "403"}),
    Row(
        "limits in headers",
        _limits,
        {"": "limit remaining reset", "axione": "limit used remaining reset"},
    ),
)

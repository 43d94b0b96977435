"""One call of the canary's through the proxy, timed as a customer would time it. Blocking; knows no database."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.http.request import validate_host

from keys.models import Brand, Scheme
from portal import firstcall
from portal.canary.questions import ANSWER_CHARS_MAX, Question

CALL_SECONDS_MAX = 60.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024


class Door(NamedTuple):
    """Where the proxy takes a brand's calls. `header` presents the key; in `query` it is part of the address."""

    url: str
    host: str
    path: str
    header: tuple[str, str] | None
    query: str


class Answered(NamedTuple):
    """`code` says what went wrong, "" where nothing did; `text` what the model said."""

    status: int | None
    code: str
    text: str
    call_id: str = ""
    first_token_ms: int | None = None
    duration_ms: int | None = None


def door(brand: Brand, secret: str) -> Door:
    url = settings.CANARY_URL or f"http://127.0.0.1:{settings.PORT}"
    base = brand.base_paths[0] if brand.base_paths else "/v1"
    host, path = (brand.hosts[0], base) if brand.hosts else (_host(url), f"/{brand.slug}{base}")
    scheme = next((scheme.value for scheme in Scheme if scheme.value in brand.schemes), Scheme.BEARER.value)
    if scheme == Scheme.QUERY.value:
        return Door(url, host, path, None, f"?api_key={quote(secret)}")
    name, _, value = firstcall.header(scheme, secret).partition(": ")
    return Door(url, host, path, (name, value), "")


def _host(url: str) -> str:
    """The address itself, or a name that this installation answers to."""
    parts = urlsplit(url)
    named = [host for host in settings.ALLOWED_HOSTS if host[:1] not in (".", "*")]
    if validate_host(parts.hostname or "", settings.ALLOWED_HOSTS) or not named:
        return parts.netloc
    return str(named[0])


def ask(door: Door, question: Question, *, seconds_max: float = CALL_SECONDS_MAX) -> Answered:
    """Never raises: what goes wrong on the way is an answer, too."""
    began = time.monotonic()
    parts = urlsplit(door.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds_max)
    try:
        headers = {"Host": door.host, "Content-Type": "application/json", "User-Agent": "canary"}
        headers |= dict([door.header]) if door.header else {}
        body = json.dumps(question.body)
        connection.request("POST", f"{door.path}{question.path}{door.query}", body, headers)
        return _read(connection.getresponse(), question, began, began + seconds_max)
    except TimeoutError:
        return Answered(None, "timeout", "", duration_ms=_ms_since(began))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answered(None, type(error).__name__[:60], "", duration_ms=_ms_since(began))
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, question: Question, began: float, until: float) -> Answered:
    call_id = response.getheader("x-request-id", "")[:60]
    if response.status != 200:
        said = json.loads(response.read(ANSWER_BYTES_MAX) or b"{}")
        return Answered(response.status, _code(said), "", call_id, duration_ms=_ms_since(began))
    if not question.body.get("stream"):
        text = _whole(question.kind, json.loads(response.read(ANSWER_BYTES_MAX)))
        return Answered(200, "", text[:ANSWER_CHARS_MAX], call_id, None, _ms_since(began))
    text, first_ms = "", None
    for event in _events(response, until):
        if "error" in event:
            return Answered(200, _code(event), text, call_id, first_ms, _ms_since(began))
        for choice in event.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            first_ms = _ms_since(began) if piece and first_ms is None else first_ms
            text = (text + piece)[:ANSWER_CHARS_MAX]
    return Answered(200, "", text, call_id, first_ms, _ms_since(began))


def _events(response: http.client.HTTPResponse, until: float) -> Iterator[dict[str, Any]]:
    """TimeoutError past the deadline; EOFError where the stream ends without its last word."""
    for line in response:
        if time.monotonic() > until:
            raise TimeoutError
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    raise http.client.IncompleteRead(b"")


def _whole(kind: str, answer: dict[str, Any]) -> str:
    if kind == "embeddings":
        vector = (answer.get("data") or [{}])[0].get("embedding") or ()
        return f"{len(vector)} numbers" if vector else ""
    message = (answer.get("choices") or [{}])[0].get("message") or {}
    return "a picture" if message.get("images") or message.get("content") else ""


def _code(said: Any) -> str:
    """The code of an envelope of any dialect, else its words."""
    inner = said.get("error") if isinstance(said, dict) else None
    if isinstance(inner, dict):
        inner = inner.get("code") or inner.get("type")
    return str(inner or "error")[:60]


def _ms_since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)

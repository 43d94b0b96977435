"""One ASGI callable: the metered proxy takes its paths, Django answers the rest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()  # before the proxy is imported: its modules may name models

from portal import page_bodies  # noqa: E402
from proxy import app as proxy  # noqa: E402

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

pages = get_asgi_application()
# WhiteNoise answers with files, which ASGI reads in one piece: they are small, and this need not be said each time.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

SERVES_PAGES = settings.SERVE in ("both", "portal")
SERVES_CALLS = settings.SERVE in ("both", "proxy")
if SERVES_PAGES:  # before the first request: the worker's calls would wait meanwhile
    import_module(settings.ROOT_URLCONF)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Lifespan belongs to the proxy: it has connections to open and settlements to finish. Django has none."""
    if scope["type"] == "lifespan" and not SERVES_CALLS:
        await _answer_lifespan(receive, send)
    elif scope["type"] == "lifespan" or not SERVES_PAGES or (SERVES_CALLS and proxy.wants(scope)):
        await proxy.begun(scope, receive, send)
    else:
        await page_bodies.serve(pages, scope, receive, send)


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        phase = (await receive())["type"].rpartition(".")[2]
        await send({"type": f"lifespan.{phase}.complete"})
        if phase == "shutdown":
            return

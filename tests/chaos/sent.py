"""When the demo engine sent what: the truth about how much a killed worker had heard, beside the engine's log."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from portal.demo.engine import DemoEngine


class SentTimes:
    """The engine as an ASGI application that notes each token of a stream, by call id, once it has been sent: seconds
    of time.time()."""

    def __init__(self, engine: DemoEngine) -> None:
        self.engine = engine
        self._sent_at: defaultdict[str, list[float]] = defaultdict(list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        times = self._sent_at[headers.get(b"x-request-id", b"").decode()]

        async def noted(message: Any) -> None:
            await send(message)
            body = message.get("body", b"")
            if body.startswith(b"data: ") and b'"content":"' in body and b'"content":""' not in body:
                times.append(time.time())

        await self.engine(scope, receive, noted)

    def log(self) -> list[dict[str, Any]]:
        """The engine's entries of calls that it took, with `sent_at`."""
        return [entry | {"sent_at": self._sent_at[entry["request_id"]]} for entry in list(self.engine.log)]

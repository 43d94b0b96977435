"""The demo engine for tests: in this process, on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from billing.snapshot import Capabilities, EngineRecord
from portal.demo.engine import DemoEngine

CAPABILITIES = Capabilities(
    reports_cached=True,
    running_usage="continuous_usage_stats",
    tokenize="vllm",
    stops_on_close=True,
    cache_salt=True,
    priority=True,
)
"""What the demo engine can do, as the probe finds it."""


class Inference:
    """A running demo engine. `engine.log` and `engine.control` may be read and set from any thread."""

    def __init__(self, engine: DemoEngine, port: int) -> None:
        self.engine = engine
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v1"

    def record(self, **fields: Any) -> EngineRecord:
        """The engine as workers know it."""
        usual: dict[str, Any] = {
            "id": 1,
            "name": "demo",
            "kind": "vllm",
            "base_url": self.base_url,
            "capabilities": CAPABILITIES,
        }
        return EngineRecord(**(usual | fields))

    def entry(self, request_id: str, *, within_seconds: float = 5.0) -> dict[str, Any]:
        """What the engine really did for a request; waits until it has ended there."""
        deadline = time.monotonic() + within_seconds
        while True:
            found = [entry for entry in list(self.engine.log) if entry["request_id"] == request_id]
            if found:
                return found[-1]
            if time.monotonic() > deadline:
                raise AssertionError(f"the engine knows nothing of {request_id}")
            time.sleep(0.005)


@contextmanager
def demo_engine(**options: Any) -> Iterator[Inference]:
    """Runs a DemoEngine(**options) until the block ends."""
    engine = DemoEngine(**options)
    config = uvicorn.Config(
        engine, host="127.0.0.1", port=0, log_level="critical", access_log=False, lifespan="off", timeout_keep_alive=5
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name="demo-engine", daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the demo engine did not start")
        time.sleep(0.002)
    try:
        yield Inference(engine, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=10)

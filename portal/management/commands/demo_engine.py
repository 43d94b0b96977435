"""Runs the demo engine, the stand-in for GPUs, on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from portal.demo.engine import DemoEngine

KEEP_ALIVE_SECONDS = 5
"""As vLLM has it."""


class Command(BaseCommand):
    help = "Run the demo engine: an OpenAI-compatible inference server without a GPU."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--slots", type=int, default=256, help="generations at once; more wait")
        parser.add_argument("--tokens-per-second", type=int, default=0, help="of each generation; 0: as fast as it can")
        parser.add_argument("--api-key", default="", help="refuse requests without this key")
        parser.add_argument("--log", type=Path, help="append what each request really did to this file, as JSON lines")

    def handle(self, *args: Any, **options: Any) -> None:
        engine = DemoEngine(
            slots=options["slots"],
            tokens_per_second=options["tokens_per_second"],
            api_key=options["api_key"],
            log_file=options["log"],
        )
        uvicorn.run(
            engine,
            host="127.0.0.1",
            port=options["port"],
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=2,
        )

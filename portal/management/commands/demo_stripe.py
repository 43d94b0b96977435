"""Runs the demo's stand-in for Stripe on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from portal.demo.stripe.service import FakeStripe


class Command(BaseCommand):
    help = "Run a stand-in for Stripe: its API as far as it is used here, and a Checkout page. No money moves."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--state", type=Path, help="remember everything in this file, over restarts")

    def handle(self, *args: Any, **options: Any) -> None:
        uvicorn.run(
            FakeStripe(state_file=options["state"]),
            host="127.0.0.1",
            port=options["port"],
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )

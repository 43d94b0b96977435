"""What the demo starts with. Run at every start; it makes what is missing and leaves the rest as people changed it."""

from __future__ import annotations

from typing import Any

from portal.demo import dialogix
from portal.demo.people import person


def seed(*, base_url: str, engine_url: str) -> dict[str, Any]:
    """`base_url` is the portal's address, `engine_url` the demo engine's as an SDK takes it. Returns demo.json."""
    admin = person("admin@demo.example", is_staff=True, is_superuser=True)
    return {
        "portal": base_url,
        "admin": {"url": f"{base_url}/admin/", "email": admin.user.email, "password": admin.password},
        "mailbox": f"{base_url}/mailbox/",
        "metrics": f"{base_url}/metrics",
        "brands": {dialogix.SLUG: dialogix.seed(base_url=base_url, engine_url=engine_url)},
    }

"""A call of a test key, as it is kept."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from billing import call_ids
from keys.models import ApiKey
from proxy.models import TestCall


def called(key: ApiKey, **changes: Any) -> TestCall:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "call_id": UUID(call_ids.mint(int(time.time() * 1000), os.urandom(10))),
        "at": now,
        "settled_at": now,
        "brand_id": key.organization.brand_id,
        "organization_id": key.organization_id,
        "key_id": key.pk,
        "key_hint": key.hint,
        "model": "m-1",
        "endpoint": "chat",
        "stream": False,
        "http_status": 200,
        "end_reason": "stop",
        "uncached_input_tokens": 1_234,
        "output_tokens": 56,
        "images": 0,
        "duration_ms": 7,
    }
    return TestCall.objects.create(**{**fields, **changes})

"""The management API against its own OpenAPI document: schemathesis makes what people would not think of."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import Any

import jsonschema
import pytest
import schemathesis
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.validation import validate_schema
from schemathesis.engine import events, from_schema

from portal.manage_api import schema, throttling
from tests.portal.managing import PREFIX, furnish, program

LONG = bool(os.environ.get("SCHEMATHESIS_LONG"))
"""By hand (make manage-api): every boundary of every field, sequences of operations, and many more examples."""
EXAMPLES, SECONDS = (30, 3_000) if LONG else (3, 90)
NOT_THERE = {"GET /card", "GET /plan", "GET /top_ups/{top_up}"}
"""What the account of the test has none of: nothing was paid."""
REFUSALS = ["2xx", "401", "403", "404", "409", "422", "503"]
"""What a request that matches the schema may be answered: 400 would say that the schema does not tell all."""


def configuration(secret: str, addresses: dict[str, str]) -> schemathesis.Config:
    return schemathesis.Config.from_dict(
        {
            "parameters": {} if LONG else {f"path.{name}": value for name, value in addresses.items()},
            "headers": {"Authorization": f"Bearer {secret}"},
            "workers": 1,
            "continue-on-failure": True,
            "generation": {"max-examples": EXAMPLES, "deterministic": not LONG},
            "phases": {"coverage": {"enabled": LONG}, "stateful": {"enabled": LONG}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": REFUSALS},
                "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]},
            },
        }
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_no_request_breaks_it_or_the_schema(cast, live_server, redis_connection, monkeypatch, request):
    stage = furnish(cast, redis_connection)
    monkeypatch.setattr(throttling, "RATES", dict.fromkeys(throttling.RATES, "1000000/m"))
    monkeypatch.setattr(throttling, "REFUSED", "1000000/m")
    secret = program(cast.organization).secret
    # CPython 3.11 loses count where two threads read programs at once (as Hypothesis does of what it is given).
    before = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(before))
    sys.setswitchinterval(1.0)
    api = schemathesis.openapi.from_url(
        f"{live_server.url}{PREFIX}/openapi.json", config=configuration(secret, stage.addresses)
    )
    found: list[str] = []
    seen: Counter[int] = Counter()
    good: set[str] = set()
    ends = time.monotonic() + SECONDS
    stream = from_schema(api).execute()
    for event in stream:
        if time.monotonic() > ends:
            stream.stop()
        if isinstance(event, events.EngineFinished):
            found += map(str, event.failures)
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.append(str(event))
        if isinstance(event, events.ScenarioFinished):
            kept = event.recorder
            failures = [check.failure_info for checks in kept.checks.values() for check in checks]
            found += [f"{kept.label}: {one.failure}\n{one.code_sample}" for one in failures if one is not None]
            answers = [each.response.status_code for each in kept.interactions.values() if each.response]
            seen.update(answers)
            good.update([kept.label] if any(status < 300 for status in answers) else [])
    print(f"answers by status: {dict(sorted(seen.items()))}")
    assert found == []
    reads = {f"GET {path}" for path, methods in schema.document()["paths"].items() if "get" in methods}
    assert LONG or reads - good == NOT_THERE, "else little was asked, or all of it as a stranger"


def test_the_document_is_made_without_a_warning_and_is_valid():
    schema.document.cache_clear()
    GENERATOR_STATS.reset()
    document = schema.document()
    assert not GENERATOR_STATS
    validate_schema(document)


def test_every_example_is_what_the_schema_says():
    document = schema.document()
    checked = 0
    for address, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for media in (media for body in bodies for media in body.get("content", {}).values()):
                assert media["examples"], f"{method} {address} has no example"
                for example in media["examples"].values():
                    jsonschema.validate(example["value"], {**nullable(media["schema"]), **nullable(components())})
                    checked += 1
    assert checked > 300


def components() -> dict[str, Any]:
    return {"components": schema.document()["components"]}


def nullable(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema has it."""
    if isinstance(node, list):
        return [nullable(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {name: nullable(value) for name, value in node.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain

import pytest

from proxy.dialects import DIALECTS, dialect_named
from proxy.refusals import TABLE, Problem, Quota, Reason, problem, retry_headers
from tests.proxy.records import brand

EVERY = list(Reason)


@pytest.mark.parametrize("reason", EVERY)
def test_every_reason_has_a_row_and_no_gaps_in_its_words(reason: Reason) -> None:
    said = problem(reason, param="x")
    assert "{" not in said.message
    assert said.code.replace("_", "").isalnum()


@pytest.mark.parametrize("reason", EVERY)
def test_every_429_and_503_says_when_to_come_back(reason: Reason) -> None:
    said = problem(reason)
    if said.status in (429, 503):
        headers = dict(retry_headers(said))
        assert int(headers[b"retry-after"]) >= 1
        assert int(headers[b"retry-after-ms"]) >= 1
        if said.retryable:
            assert int(headers[b"retry-after"]) <= 60
        else:
            assert headers[b"x-should-retry"] == b"false"


@pytest.mark.parametrize("reason", EVERY)
def test_what_sdks_retry_by_themselves_is_always_told(reason: Reason) -> None:
    said = problem(reason)
    if said.status in (408, 409, 429) or said.status >= 500:
        assert b"x-should-retry" in dict(retry_headers(said))


def test_no_client_error_is_called_retryable() -> None:
    assert {reason for reason, row in TABLE.items() if row.retryable and row.status < 408} == set()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("reason", EVERY)
def test_every_dialect_words_every_reason(dialect, reason: Reason) -> None:
    said = dialect.worded(problem(reason), brand())
    assert said.status >= 400
    assert dialect.error(said, brand())["error"]
    assert dialect.error_event(said, None)["error"]


def test_the_openai_envelope_has_its_four_fields() -> None:
    error = dialect_named("openai").error(problem(Reason.MISSING_FIELD, param="model"), None)["error"]
    assert error == {
        "message": "Missing required parameter: 'model'.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "missing_required_parameter",
    }


def out_of(unit: str) -> Problem:
    return problem(Reason.INSUFFICIENT_QUOTA, quota=Quota("balance", unit, "lifetime", "organization", 0, 0, 0, None))


def test_only_money_may_be_402() -> None:
    dialect = dialect_named("openai")
    asks_402 = brand(money_refusal_status=402)
    assert dialect.worded(out_of("nanos"), asks_402).status == 402
    assert dialect.worded(out_of("nanos"), brand()).status == 429
    assert dialect.worded(out_of("tokens"), asks_402).status == 429


def test_an_unknown_dialect_speaks_openai() -> None:
    assert dialect_named("nobody").name == "openai"

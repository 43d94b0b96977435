from proxy.breaker import FAILURES_MAX, SUSPECT_SECONDS, TRIAL_SECONDS_MAX, WAIT_SECONDS_MIN, Breaker, Health


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker.failed(now)
    return breaker


def test_one_failure_makes_suspect_for_a_while() -> None:
    breaker = Breaker()
    assert breaker.health(100.0) is Health.CLOSED
    breaker.failed(100.0)
    assert breaker.health(100.1) is Health.SUSPECT
    assert breaker.health(100.0 + SUSPECT_SECONDS) is Health.CLOSED


def test_several_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_MAX * 2):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.health(0.0) is Health.CLOSED
    assert opened().health(0.1) is Health.OPEN


def test_one_call_tries_it_and_closes_it() -> None:
    breaker = opened()
    now = WAIT_SECONDS_MIN
    assert breaker.health(now) is Health.TRIAL
    breaker.begin(now)
    assert breaker.health(now) is Health.OPEN
    breaker.succeeded()
    assert breaker.health(now) is Health.CLOSED


def test_each_failed_trial_doubles_the_wait() -> None:
    breaker = opened()
    now = WAIT_SECONDS_MIN
    breaker.begin(now)
    breaker.failed(now)
    assert breaker.health(now + WAIT_SECONDS_MIN) is Health.OPEN
    assert breaker.health(now + 2 * WAIT_SECONDS_MIN) is Health.TRIAL


def test_stragglers_prolong_nothing() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failed(WAIT_SECONDS_MIN / 2)
    assert breaker.health(WAIT_SECONDS_MIN) is Health.TRIAL


def test_a_lost_trial_stands_in_nobodys_way_for_ever() -> None:
    breaker = opened()
    breaker.begin(WAIT_SECONDS_MIN)
    assert breaker.health(WAIT_SECONDS_MIN + TRIAL_SECONDS_MAX) is Health.TRIAL

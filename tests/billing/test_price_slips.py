import pytest

from billing.price_slips import Price, slips

USUAL = Price(is_free=False, input=200_000, output=600_000, cache_read=50_000)


def priced(**fields):
    return Price(**({"is_free": False, "input": 200_000, "output": 600_000} | fields))


@pytest.mark.parametrize(
    ("new", "before"),
    [
        (USUAL, None),
        (USUAL, USUAL),
        (priced(input=1_999_999), priced()),
        (priced(input=20_001), priced()),
        (priced(request=5), priced()),
        (Price(is_free=True, input=0, output=0), USUAL),
        (USUAL, Price(is_free=True, input=0, output=0)),
        (priced(output=0, sells_output=False), None),
    ],
)
def test_what_is_no_slip(new, before):
    assert slips(new, before) == []


@pytest.mark.parametrize(
    ("new", "before", "words"),
    [
        (priced(input=2_000_000), priced(), "Input goes from 0.20 to 2.00"),
        (priced(output=60_000), priced(), "Output goes from 0.60 to 0.06"),
        (priced(cache_read=20_000), priced(), "Cache read goes from 0.20 to 0.02"),
        (priced(reasoning=6_000_000), priced(), "Reasoning goes from 0.60 to 6.00"),
        (priced(request=10**9), priced(request=10**7), "Request goes from 0.01 to 1:"),
        (priced(image=10**7), priced(image=10**8), "Image goes from 0.1 to 0.01:"),
        (priced(credits_per_request=100), priced(credits_per_request=1), "Credits per request goes from 1 to 100:"),
        (priced(credits_per_1000_tokens=1), priced(credits_per_1000_tokens=10), "Credits per 1000 tokens goes from 10"),
        (priced(cache_read=200_001), None, "Reading from the cache is dearer than input."),
        (priced(input=0), None, "Input costs nothing, though"),
        (priced(output=0), None, "Output costs nothing, though"),
        (priced(cache_write=0), None, "Cache write costs nothing, though"),
    ],
)
def test_what_looks_like_one(new, before, words):
    assert any(slip.startswith(words) for slip in slips(new, before))

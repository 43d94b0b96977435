"""One extractor for all four schemes, and no request in which the first of two keys wins."""

import contextlib
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import credentials
from keys.credentials import CredentialsReason, CredentialsRefused, present
from keys.models import Scheme

ALL = tuple(scheme.value for scheme in Scheme)
secrets = st.from_regex(rb"[!-~]{1,80}", fullmatch=True)


def refusal(headers, query=b"", schemes=ALL):
    with pytest.raises(CredentialsRefused) as caught:
        present(headers, query, schemes=schemes)
    return caught.value


def test_schemes_are_those_of_the_model():
    assert {scheme.value: scheme.label for scheme in Scheme} == credentials.SPELLED


@given(secrets)
def test_every_scheme_gives_the_same_secret(secret):
    text = secret.decode()
    assert present([(b"authorization", b"Bearer " + secret)], b"", schemes=ALL).secret == text
    assert present([(b"Authorization", b"api-KEY  " + secret)], b"", schemes=ALL).secret == text
    assert present([(b"X-Api-Key", b" " + secret + b"\t")], b"", schemes=ALL).secret == text
    query = b"a=1&api_key=" + quote_from_bytes(secret, safe="").encode() + b"&b=2"
    assert present([], query, schemes=ALL) == credentials.Presented(text, "query")


@given(secrets, secrets)
def test_two_keys_are_accepted_only_when_they_are_the_same(one, other):
    headers = [(b"authorization", b"Bearer " + one), (b"x-api-key", other)]
    if one == other:
        assert present(headers, b"", schemes=ALL).scheme == "bearer"
    else:
        assert refusal(headers).reason is CredentialsReason.AMBIGUOUS_CREDENTIALS
        assert refusal(headers[::-1]).reason is CredentialsReason.AMBIGUOUS_CREDENTIALS


@given(secrets, st.sampled_from([b"Bearer ", b"Api-Key "]))
def test_authorization_twice_is_refused_even_when_equal(secret, word):
    headers = [(b"authorization", word + secret), (b"Authorization", word + secret)]
    assert refusal(headers).reason is CredentialsReason.DUPLICATE_AUTHORIZATION


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"ak-key", b"Basic dTpw", b"Bearer a b", b"Bearer a, Bearer b", b"Token a"]
)
def test_malformed_authorization_is_named(value):
    assert refusal([(b"authorization", value), (b"x-api-key", b"k")]).reason is (
        CredentialsReason.MALFORMED_AUTHORIZATION
    )


@pytest.mark.parametrize(
    ("headers", "query", "scheme"),
    [
        ([(b"authorization", b"Api-Key k")], b"", "api-key"),
        ([(b"x-api-key", b"k")], b"", "x-api-key"),
        ([], b"api_key=k", "query"),
        ([(b"authorization", b"Bearer k")], b"api_key=k", "query"),
    ],
)
def test_scheme_the_brand_does_not_take_is_refused_by_name(headers, query, scheme):
    refused = refusal(headers, query, schemes=["bearer"])
    assert refused.reason is CredentialsReason.SCHEME_NOT_ACCEPTED
    assert (refused.scheme, refused.accepted) == (scheme, ("bearer",))


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"  ")], [(b"x_api_key", b"k")], [(b"cookie", b"k")]])
def test_nothing_presented_is_missing(headers):
    refused = refusal(headers, b"api_key=&model=x&API_KEY=k")
    assert refused.reason is CredentialsReason.MISSING_KEY
    assert refused.accepted == ("bearer", "api-key", "x-api-key", "query")


def test_two_different_keys_in_the_query_or_in_one_header_are_ambiguous():
    assert refusal([], b"api_key=a&api_key=b").reason is CredentialsReason.AMBIGUOUS_CREDENTIALS
    assert refusal([], b"api_key=a&api%5Fkey=b").reason is CredentialsReason.AMBIGUOUS_CREDENTIALS
    assert refusal([(b"x-api-key", b"a"), (b"x-api-key", b"b")]).reason is CredentialsReason.AMBIGUOUS_CREDENTIALS


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"x"]), st.binary())), st.binary())
def test_any_bytes_give_a_secret_or_a_named_refusal(headers, query):
    with contextlib.suppress(CredentialsRefused):
        assert present(headers, query, schemes=ALL).secret

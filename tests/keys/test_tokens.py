"""The text of a key: what is minted is well formed, and what is damaged is not."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import tokens

prefixes = st.from_regex(tokens.PREFIX, fullmatch=True).filter(str.isascii)
randomness = st.binary(min_size=tokens.RANDOM_BYTES, max_size=tokens.RANDOM_BYTES)


@given(prefixes, randomness)
def test_minted_key_is_well_formed_and_starts_with_its_prefix(prefix, random):
    secret = tokens.mint(prefix, random)
    assert secret.startswith(prefix)
    assert len(secret) == len(prefix) + tokens.BODY_LENGTH + tokens.CHECKSUM_LENGTH
    assert set(secret[len(prefix) :]) <= set(string.ascii_letters + string.digits)
    assert tokens.well_formed(secret, prefix)


@given(prefixes, randomness, st.data())
def test_one_changed_character_is_refused(prefix, random, data):
    secret = tokens.mint(prefix, random)
    place = data.draw(st.integers(0, len(secret) - 1))
    other = data.draw(st.characters().filter(lambda c: c != secret[place]))
    assert not tokens.well_formed(secret[:place] + other + secret[place + 1 :], prefix)


@given(prefixes, prefixes, randomness)
def test_key_of_one_prefix_is_not_well_formed_under_another(mine, yours, random):
    if mine != yours:
        assert not tokens.well_formed(tokens.mint(mine, random), yours)


@given(st.text(), prefixes)
def test_any_text_may_be_asked(text, prefix):
    assert tokens.well_formed(text, prefix) is False
    assert tokens.well_formed(prefix + text, prefix) is False
    tokens.legacy_formed(text, ("x-[a-z]{4}",))
    tokens.hint(text, prefix)
    tokens.digest(text, b"pepper")
    tokens.legacy_digest(text)


@given(randomness, randomness)
def test_different_randomness_gives_different_keys(one, other):
    assert (tokens.mint("ak-", one) == tokens.mint("ak-", other)) == (one == other)


def test_every_random_bit_reaches_the_key():
    assert tokens.mint("ak-", b"\xff" * 20)[3:] != tokens.mint("ak-", b"\xff" * 19 + b"\xfe")[3:]
    assert tokens.mint("ak-", b"\x7f" + b"\xff" * 19) != tokens.mint("ak-", b"\xff" * 20)


def test_minting_wants_exactly_160_bits_and_a_sound_prefix():
    with pytest.raises(ValueError, match="20 random bytes"):
        tokens.mint("ak-", b"short")
    with pytest.raises(ValueError, match="prefix"):
        tokens.mint("ak ", bytes(20))


def test_hint_shows_prefix_and_last_four():
    assert tokens.hint("ak-0123456789abcdAb3d", "ak-") == "ak-…Ab3d"
    assert tokens.hint("other-0123456789abcdAb3d", "ak-") == "…Ab3d"


def test_digest_is_keyed_and_known():
    assert tokens.digest("a", b"one") != tokens.digest("a", b"two")
    assert tokens.legacy_digest("abc").hex().startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(
    ("secret", "formed"),
    [
        ("old_0123abcd", True),
        ("old_0123abcd\n", False),
        ("old_0123abcde", False),
        ("old_0123abc\x00", False),
        ("prefix old_0123abcd", False),
    ],
)
def test_legacy_pattern_must_match_whole(secret, formed):
    assert tokens.legacy_formed(secret, ("old_[0-9a-f]{8}",)) is formed


def test_overlong_secret_never_meets_a_pattern():
    assert not tokens.legacy_formed("a" * 257, ("a+",))
    assert tokens.legacy_formed("a" * 256, ("a+",))
    assert not tokens.legacy_formed("a", ())


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|b)*c", "a+b+c+", r"(a)\1", "(?=a)a", "[a", "a?" * 5])
def test_pattern_that_could_burn_time_is_refused(pattern):
    assert tokens.pattern_problem(pattern)


@pytest.mark.parametrize("pattern", ["old_[0-9a-f]{32}", "(sk|pk)-[A-Za-z0-9]+", r"(?:k)\.[a-z]{2,4}-\d*"])
def test_plain_pattern_is_taken(pattern):
    assert tokens.pattern_problem(pattern) is None

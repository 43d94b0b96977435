import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal import theme

colours = st.tuples(*[st.integers(0, 255)] * 3).map(lambda rgb: "#{:02x}{:02x}{:02x}".format(*rgb))


@given(colours)
def test_any_accent_becomes_readable_on_both_pages(accent):
    for ground in (theme.LIGHT_PAGE, theme.DARK_PAGE):
        shown = theme.readable_on(accent, ground)
        assert theme.contrast(shown, ground) >= 4.5
        assert theme.contrast(theme.text_on(shown), shown) >= 4.5


def test_a_readable_accent_is_left_alone():
    assert theme.readable_on("#0f766e", theme.LIGHT_PAGE) == "#0f766e"


@pytest.mark.parametrize("accent", ["", "red", "#fff", "#12345g", "#000000; } body { display: none", 7, None])
def test_anything_but_a_colour_is_ignored(accent):
    assert theme.stylesheet({"accent": accent}) == theme.stylesheet({})


def test_the_colours_of_known_pairs():
    assert theme.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)

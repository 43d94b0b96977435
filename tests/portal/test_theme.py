import re
from pathlib import Path

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


def properties() -> dict[str, dict[str, str]]:
    """The colours of styles.css, by scheme."""
    text = (Path(theme.__file__).parent / "static/portal/styles.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    colour = re.compile(r"--([\w-]+): (#[0-9a-f]{6});")
    return {"light": dict(colour.findall(light)), "dark": dict(colour.findall(dark))}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("ink", "ink-2") for ground in ("page", "surface", "sunken")),
        *((text, f"{text}-ground") for text in ("good", "warn", "bad")),
        *(("bad", ground) for ground in ("surface", "page")),
        ("on-bad", "bad"),
    ],
)
def test_every_text_colour_reads_on_its_grounds(scheme, text, ground):
    colours = properties()[scheme]
    assert theme.contrast(colours[text], colours[ground]) >= 4.5


def test_borders_of_controls_can_be_seen():
    for scheme in properties().values():
        assert theme.contrast(scheme["line-strong"], scheme["surface"]) >= 3


def test_accents_are_judged_on_the_grounds_that_give_least_contrast():
    light, dark = properties()["light"], properties()["dark"]
    for grounds, least, ink in ((light, theme.LIGHT_PAGE, "#000000"), (dark, theme.DARK_PAGE, "#ffffff")):
        stated = (grounds["page"], grounds["surface"], grounds["sunken"])
        assert least == min(stated, key=lambda ground: theme.contrast(ground, ink))

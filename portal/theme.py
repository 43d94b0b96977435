"""A brand's colours as CSS custom properties, moved until they can be read. Pure.

A brand row may say {"accent": "#1e7f6e"}; a colour without enough contrast (WCAG AA, 4.5:1) on our light or dark page
is mixed towards black or white in small steps, so that no row can make a page unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

DEFAULT_ACCENT = "#2b5fd9"
LIGHT_PAGE, DARK_PAGE = "#f1f1ee", "#1c2024"
"""The grounds of styles.css on which links have least contrast."""
READABLE = 4.5
_HEX = re.compile(r"#[0-9a-fA-F]{6}")

Colour = tuple[int, int, int]


def _colour(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _text(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _luminance(colour: Colour) -> float:
    channels = (value / 255 for value in colour)
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((_luminance(_colour(first)), _luminance(_colour(second))))
    return (high + 0.05) / (low + 0.05)


def readable_on(colour: str, ground: str) -> str:
    """`colour`, or the nearest mix with black or white that reads on `ground`."""
    target = (0, 0, 0) if _luminance(_colour(ground)) > 0.2 else (255, 255, 255)
    start = _colour(colour)
    for step in range(21):
        red, green, blue = (round(a + (b - a) * step / 20) for a, b in zip(start, target, strict=True))
        mixed = _text((red, green, blue))
        if contrast(mixed, ground) >= READABLE:
            return mixed
    raise AssertionError("black or white reads on any of our grounds")


def text_on(colour: str) -> str:
    return max("#ffffff", "#14171a", key=lambda text: contrast(text, colour))


def stylesheet(theme: Mapping[str, object]) -> str:
    """The custom properties that base styles leave to the brand. Anything but a six digit hex colour is ignored."""
    stated = str(theme.get("accent", ""))
    accent = stated if _HEX.fullmatch(stated) else DEFAULT_ACCENT
    light, dark = readable_on(accent, LIGHT_PAGE), readable_on(accent, DARK_PAGE)
    return (
        f":root {{ --accent: {light}; --on-accent: {text_on(light)}; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ --accent: {dark}; --on-accent: {text_on(dark)}; }} }}\n"
    )

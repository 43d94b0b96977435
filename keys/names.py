"""What may be a name: of a person, an account, a key, a program."""

from __future__ import annotations

import unicodedata

NOT_ONE = "One line of letters, digits and signs: no line breaks, control characters or marks that turn text around."
_JOINERS = {"\u200c", "\u200d"}
"""Marks that nobody sees and that scripts and emoji are written with."""
_FORGES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def is_name(text: str) -> bool:
    """Whether a name is one line that reads as it is written: names stand in mails and in the trail, where a line break
    or a mark that turns the reading around would let one sentence pass for another."""
    return all(sign in _JOINERS or unicodedata.category(sign) not in _FORGES for sign in text)

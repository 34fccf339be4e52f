"""Blanks out what identifies people in a comment: e-mail addresses, phone and card numbers. Pure; knows patterns, not people."""

from __future__ import annotations

import re

_LOCAL = r"\w.!#$%&'*+/=?^`{|}~-"
_EMAIL = re.compile(rf"(?<![{_LOCAL}])[{_LOCAL}]+[@\uff20][\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"(?<!\w)(?!(?:19|20)\d\d-\d\d-\d\d)\+?\(?\d(?:[ \u00a0\u2009\u202f./()\u2010-\u2014-]{0,3}\d){6,}(?!\w)")
"""Seven digits and more, in groups or not, that do not begin with a date: the shortest that people give as a phone number."""
_CARD_DIGITS = range(12, 20)
"""ISO/IEC 7812."""
_PHONE_DIGITS = range(7, 16)
"""ITU-T E.164 at the most."""


def scrub(comment: str) -> str:
    """The comment with `[e-mail]`, `[card]`, `[phone]` or `[number]` in the place of what looks like one.

    In doubt it is blanked: an order number of seven digits and more goes too.
    """
    return _NUMBER.sub(_blank, _EMAIL.sub("[e-mail]", comment))


def is_card(digits: str) -> bool:
    """As long as a card number, and its check digit fits (Luhn's, ISO/IEC 7812-1)."""
    doubled = (divmod(2 * int(digit), 10) for digit in digits[-2::-2])
    total = sum(int(digit) for digit in digits[-1::-2]) + sum(tens + ones for tens, ones in doubled)
    return len(digits) in _CARD_DIGITS and total % 10 == 0


def _blank(found: re.Match[str]) -> str:
    digits = "".join(one for one in found[0] if one.isdecimal())
    if is_card(digits):
        return "[card]"
    return "[phone]" if len(digits) in _PHONE_DIGITS else "[number]"

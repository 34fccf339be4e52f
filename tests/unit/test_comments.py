"""What identifies people leaves a comment before it is stored; what does not stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.comments import is_card, scrub

CARDS = ("4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005", "6011.0009.9013.9424")
PHONES = ("+49 30 123456", "(555) 123-4567", "555-1234", "+1 (415) 555-2671", "030/1234567", "0800 00 1 2345", "٠١٢٣٤٥٦٧٨")
ADDRESSES = ("ann@example.com", "o'hara+x@mail.example.co.uk", "Jürgen.Müller@übung.example", "a_b-c@x-y.example")
HARMLESS = (
    "great answer, 10/10",
    "wrong since 2024-11-23",
    "it took 300 s",
    "version 1.2.3",
    "me @ home",
    "tweet @ann",
    "x1234567890 is a name",
    "room 101, 5 of 7",
)


@pytest.mark.parametrize(("texts", "blank"), [(CARDS, "[card]"), (PHONES, "[phone]"), (ADDRESSES, "[e-mail]")])
def test_what_identifies_is_blanked_wherever_it_stands(texts: tuple[str, ...], blank: str):
    for text in texts:
        for before, after in (("", ""), ("call ", " now"), ("(", ")"), ("it is: ", "."), ("<", ">")):
            found = scrub(before + text + after)
            assert blank in found and not any(digit.isdecimal() for digit in found) and "@" not in found, (text, found)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_identifies_nobody_stays(text: str):
    assert scrub(text) == text


def test_a_card_and_a_phone_number_side_by_side_are_both_blanked():
    assert not any(one.isdecimal() for one in scrub("4111 1111 1111 1111 555 1234, 4111111111111111 4111111111111111"))


@given(st.integers(10**10, 10**18 - 1))  # 12 to 19 digits with the check digit
def test_exactly_one_check_digit_makes_a_card(number: int):
    assert sum(is_card(f"{number}{check}") for check in range(10)) == 1


@given(st.text(max_size=200))
def test_scrubbing_twice_changes_nothing_more(comment: str):
    assert scrub(scrub(comment)) == scrub(comment)


def test_the_longest_comments_are_scrubbed_in_linear_time():
    def seconds(size: int) -> float:
        worst = 0.0
        for pattern in ("a", "1", "1 ", "a.", "@", "a@b.", "+(1)"):
            text = pattern * (size // len(pattern))
            started = time.process_time()
            scrub(text)
            worst = max(worst, time.process_time() - started)
        return worst

    assert seconds(4096) < 0.5  # quadratic matching takes a hundred times as long

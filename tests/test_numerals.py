"""Numbers mean what their language's locale says, or nothing; checked against CLDR."""

import re

import pytest
from babel import Locale, localedata
from babel.numbers import format_compact_decimal, format_decimal

from actlib.numerals import find_numbers, parse_number

# More are in test_harness: answers in 8 languages.
READ = """
3,5 de 3.5;       1.200 de 1200;     1,200 de 1.2;        1'200.5 de-CH 1200.5;  1,200 es-MX 1200
1,200 en 1200;    1.200 en 1.2;      1200 und 1200;       $1,450,000 en 1450000; 1,234.5 und 1234.5
3,5 en 3.5;       0.125 de 0.125;    -.5 en -0.5; ٫5 ar 0.5;  1,2345 de 1.2345;     2010,5 fr 2010.5
"""  # of the last line: a mark that cannot group is the decimal mark


@pytest.mark.parametrize("words", [w for w in map(str.split, re.split("[;\n]", READ)) if w])
def test_a_number_is_read_by_its_locale(words):
    text, language, number = words
    assert parse_number(text, language) == float(number)


UNCLEAR = "x|1/2|12:30|3 or 4|2 million|½|10²|3,5,7|12,345,6|1 200|5-3|1e5|18 cats|,500,000"


@pytest.mark.parametrize(
    ("text", "language"),
    [("1,200", "und"), ("1.200", "und"), *[(text, "en") for text in UNCLEAR.split("|")]],
)
def test_what_is_unclear_has_no_value(text, language):
    assert parse_number(text, language) is None


PARTS = r"""
\frac{3}{4}; 3\frac{1}{2}; \dfrac34; \frac{\sqrt{3}}{2}; 3 1/2; 3-1/2; 3 ½; 3½; ½; 3 / 4; ３／４
3⁄4; 2 × 10^5; 2*10^5; 2 \times 10^{-5}; 2·10⁵; 2^{10}; 2^n
\sqrt{2}; √2; 3√2; 2\pi; 2 million; 2-billion; 2万; 2 万; 2k; 2.5M; 2 bn; 2 mil; 2 dozen
3 and 1/2; 3 et ½; 3 und 1/2; 3 y 1/2; 3 и 1/2; 3又1/2; 3 and a half; 3 et demi; 3 und ein halb
3 y medio; 3 с половиной; {3 \over 4}; minus 2; negative 2; 2 million 300; 2万3000; 2 Dutzend
"""


@pytest.mark.parametrize("text", re.split(r"[;\n]\s*", PARTS.strip()))
def test_a_part_of_a_number_is_none(text):
    assert set(find_numbers(f"x = {text}, so", "en")) == {None}


@pytest.mark.parametrize("code", "ar bn de en es fr hi it ja nl pt ru sw te th zh".split())
def test_a_number_that_a_word_multiplies_is_none(code):
    form = "short" if code in ("ja", "zh") else "long"
    for number in (2_000, 2_000_000, 20_000_000, 2_000_000_000):
        text = format_compact_decimal(number, locale=code, format_type=form)
        assert set(find_numbers(text, code)) <= {None, number}, text


@pytest.mark.parametrize(
    "text",
    "5 billes;5 millas;5 milligrammes;5千克;5 พันธุ์;5 m²;\\boxed{5};5 K;5m;7 minus 5".split(";"),
)
def test_a_unit_multiplies_nothing(text):
    assert find_numbers(text, "und")[-1] == 5


NUMBERS = (0, 7, -123456789012, 1200, 3.5, 1234.5, 1234567, 0.125, -42, 12.345, 200000)


@pytest.mark.parametrize("code", sorted(localedata.locale_identifiers()))
def test_no_number_of_any_locale_is_read_wrong(code):
    locale = Locale.parse(code)
    if "root" in code or locale.number_symbols.get("latn") is None:
        pytest.skip("no digits of its own")
    language = code.replace("_", "-")
    for number in NUMBERS:
        text = format_decimal(number, locale=locale)
        assert parse_number(text, language) in (number, None), text
        if len(code) == 2 and parse_number("1,234", language) is not None:
            assert parse_number(text, language) == number, text


def test_the_numbers_of_a_text_come_in_order():
    text = "Also 3 + 4 = 7. Dann 1.200 oder 3,5."
    assert find_numbers(text, "de") == [3, 4, 7, 1200, 3.5]
    assert find_numbers("20-30, -5 or 1/2", "en") == [20, 30, -5, None, None]
    assert find_numbers("80 000 $ et 2 300,5; 2010 100", "fr") == [80000, 2300.5, 2010, 100]

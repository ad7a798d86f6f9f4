r"""Read numbers as languages write them: decimal marks, groups of digits, digits of any script.

    parse_number("1.200,5", "de")  # 1200.5
    find_numbers("Also 3 + 4 = 7.", "de")  # [3, 4, 7]

A mark between digits is read by the first rule that fits:

1. The Arabic marks are what they are; an apostrophe or a narrow space groups digits.
2. Two kinds of marks: the last one is the decimal mark. One mark several times: it groups.
3. A point or comma that cannot group, since no three digits follow it, or a zero or more than three
   digits stand before it, is the decimal mark: `3,5` is 3.5 in English too.
4. Else, as in `1,200`, the language decides. Where it is unknown, the text has no value; nor has
   `1 200`, but where the decimal mark is a comma.

What is part of a number has no value either: the 3 of `3/4`, `3 ½`, `3 and 1/2`, `3 and a half` and
`\frac{3}{4}`, the 2 of `2 million`, `2k`, `2 dozen`, `minus 2`, `2 × 10^5` and `\sqrt{2}`.
"""

import re
import unicodedata

import numpy as np

_COMMA = frozenset(
    "af az be bg bs ca cs da de el es et eu fi fo fr gl hr hu hy id is it ka kk ky lt lv mk nb "
    "nl nn no pl pt ro ru sk sl sq sr sv tg tk tr uk uz vi".split()
)
"""Languages that write a decimal comma, and may group digits by spaces."""
_POINT = frozenset(
    "am bn en gu he hi ja kn ko ml mn mr ms my ne pa si sw ta te th ur yo yue zh zu".split()
)
_PLACES = dict.fromkeys(
    "az-Arab az-Cyrl de-CH de-LI es-419 es-BR es-BZ es-CU es-DO es-GT es-HN es-MX es-NI es-PA "
    "es-PE es-PR es-SV es-US it-CH kk-Arab".lower().split(),
    ".",
) | dict.fromkeys(
    "en-AT en-BE en-CZ en-DE en-DK en-ES en-FI en-FR en-HU en-ID en-IT en-NL en-NO en-PL en-PT "
    "en-RO en-SE en-SI en-SK en-ZA ms-Arab-BN ms-BN ms-ID sw-CD".lower().split(),
    ",",
)
"""Places that write another decimal mark than their language; from CLDR."""
_SAME = str.maketrans(
    {
        **{chr(0xFF01 + n): chr(0x21 + n) for n in range(94)},  # full width
        **dict.fromkeys("\u2212\u2010\u2011\u2013\ufe63", "-"),
        **dict.fromkeys("\u2019\u066c", "'"),
        **dict.fromkeys("\u2044\u2215", "/"),
        **dict.fromkeys("\u00a0\u2007\u2009", "\u202f"),
        **dict.fromkeys("\u200e\u200f\u061c", None),  # marks of direction
        "\u060c": ",",
    }
)
_SIGN = r"(?:(?<![\w)])-|(?<==\x20)-\x20)(?:[$\u00a2-\u00a5\u09f3\u0e3f\u20a0-\u20c0]\s?)?"
"""A minus, not one between two terms; a currency's symbol may follow it."""
_DIGITS = r"(?:(?<![\w.])[.\u066b]|(?<![^\s=-]),)?\d+(?:[.,'\u202f\u066b]\d+)*"
_SPACED = r"(?<!\d)\d{1,3}(?:\x20\d{3})+(?!\d)(?:[.,]\d+)?"
_NUMBER = re.compile(f"({_SIGN})?({_SPACED}|{_DIGITS})")
_FRACTION = re.compile(
    r"[\u00bc-\u00be\u2150-\u215e]|\\[cdt]?frac\s*" + r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|\d)" * 2
)
_SCALE = "|".join(
    r"""
    (?:[mb]|tr)il(?:(?:li?|i)(?:[oó]n|ar)|h[ãõ]|j(?:ar|oe)) mil(?:a|le)?\b thousand tausend duizend
    hundred hundert honderd dozens?\b douzaines?\b docenas?\b dozzin[ae]\b
    dutzend сот(?:ня|ни|ен)\b milliers?\b migliai[ao]\b (?:mio|mln|mrd|bn|tsd)\b lakh crore
    (?:м|б|тр)илли(?:он|ард) млн млрд т[иы]с(?:\b|яч) ألف آلاف مليون ملايين مليار
    हज.?ार लाख करोड अरब खरब হাজার লাখ লক্ষ কোটি వే(?:యి|ల) లక్ష కోట మిలియ బిలియ
    พัน(?!ธ) ร้อย หมื่น แสน ล้าน [十万亿億萬兆] 百(?!分) 千(?![克米瓦])
    """.split()
)
"""How words begin that multiply a number before them, in the languages of MGSM and some others."""
_AND = r"(?:\x20+(?:and|et|und|y|e|и|с|en)\x20+|\x20?[又とو]\x20?)"
_BROKEN = (
    r"(?:\w+\x20)?(?:hal[bf]|third|quarter|demi|tiers|quart|drittel|viertel|medi[ao]|mei[ao]|terci"
    r"|полов|трет|четв)"
)
_PART_AFTER = re.compile(  # of a fraction, a time, a power, a root, a larger number; or negated
    r"(?:\d(?:[:_]|\x20?/\x20?|\x20?\\over\x20)|\^|\\sqrt|\u221a|\d[eE][+-]?)\{?$"
    r"|(?:elfu|laki|(?:[bm]|tr)ilioni)[\x20\u202f]$"
    r"|(?:negative|(?<![\d)]\x20)(?:minus|moins|menos|минус))\x20$"
    rf"|\d[\x20\u202f-]*(?:{_SCALE})[^\W\d]*(?:{_AND}|\x20?)$",
    re.IGNORECASE,
)
_PART_BEFORE = re.compile(
    r"(?:[:_]|\x20?/\x20?|\x20?\\over\x20)\{?\d|\^|e[+-]?\d|(?-i:[kKMBT]\b)"
    rf"|[\u00b2\u00b3\u00b9\u2070-\u2089]|{_AND}{_BROKEN}"
    rf"|[\x20\u202f-]*(?:(?:{_AND})?\x20*\d+\x20?/\x20?\d|\\sqrt|\\pi|[\u221aπ]"
    r"|(?:[x×*·\u22c5]|\\times|\\cdot)\s*10\s*[\^\u00b2\u00b3\u00b9\u2070-\u207f]"
    rf"|(?:de\x20)?(?:{_SCALE}))",
    re.IGNORECASE,
)


def parse_number(text: str, language: str = "und") -> int | float | None:
    """The number that a text consists of, by the language's locale; None where it is none.

    A sign, a currency's symbol, a percent sign and punctuation may stand beside it; letters or a
    second number may not, so that `3 or 4`, `2 million` and `1/2` have no value.

    Args:
        text: digits of any script.
        language: code, with a region where that matters (`de`, `es-MX`); `und` if unknown.

    >>> parse_number("3,5", "de"), parse_number("1,200", "en"), parse_number("1,200")
    (3.5, 1200, None)
    """
    text = re.sub(r"^\s*-\s+", "-", _plain(text))
    matches = list(_NUMBER.finditer(text))
    if len(matches) != 1:
        return None
    beside = text[: matches[0].start()] + text[matches[0].end() :]
    if any(unicodedata.category(letter)[0] in "LN" for letter in beside):
        return None
    return _read(text, matches[0], language)


def find_numbers(text: str, language: str = "und") -> list[int | float | None]:
    """Every number of a text, in order, each as in `parse_number`; None for one without a value."""
    text = _plain(text)
    return [_read(text, match, language) for match in _NUMBER.finditer(text)]


def format_number(number: int | float) -> str:
    """A number in plain digits, such as `1200` or `-3.5`.

    >>> format_number(3.50), format_number(1200.0)
    ('3.5', '1200')
    """
    if isinstance(number, int):
        return str(number)
    return np.format_float_positional(number + 0.0, trim="-")  # plus zero: none is negative


def _plain(text: str) -> str:
    """A text whose digits are those of ASCII, and whose signs have one form each."""
    text = "".join(str(unicodedata.decimal(letter, letter)) for letter in text)
    text = text.replace("{,}", ",").replace("\\,", "\u202f")  # as LaTeX groups digits
    text = text.translate(_SAME)
    return _FRACTION.sub(" 1/2", text)  # whatever it is: it has no value


def _decimal_mark(language: str) -> str | None:
    """Decimal mark of a language, or None where it is unknown."""
    parts = language.lower().replace("_", "-").split("-")
    for code in ("-".join(parts), "-".join(parts[:2])):
        if code in _PLACES:
            return _PLACES[code]
    return "," if parts[0] in _COMMA else "." if parts[0] in _POINT else None


def _read(text: str, match: re.Match[str], language: str) -> int | float | None:
    """Value of a number in a text."""
    before = text[max(0, match.start() - 40) : match.start()]
    if _PART_AFTER.search(before) or _PART_BEFORE.match(text, match.end()):
        return None
    sign, body = -1 if match[1] else 1, match[2]
    mark = _mark_of(body, language)
    if mark is None or (" " in body and _decimal_mark(language) != ","):
        return None
    whole, _, fraction = body.rpartition(mark) if mark else (body, "", "")
    kinds = set(re.sub(r"\d", "", whole))
    if len(kinds) > 1 or (kinds and not _grouped([len(part) for part in re.split(r"\D", whole)])):
        return None
    digits = re.sub(r"\D", "", whole) or "0"  # as in `.5`
    return sign * (float(f"{digits}.{fraction}") if mark else int(digits))


def _mark_of(body: str, language: str) -> str | None:
    """Decimal mark of a number: a character, "" for none, None where it is unclear."""
    marks = re.sub(r"\d", "", body)
    last = marks[-1:]
    if "\u066b" in marks:
        return "\u066b" if marks.count("\u066b") == 1 and last == "\u066b" else None
    if len(set(marks)) > 1:
        return last if last in ".," and marks.count(last) == 1 else None
    if last not in tuple(".,") or len(marks) > 1:
        return ""
    before, after = body.split(last)
    if len(after) != 3 or len(before) > 3 or before.startswith("0") or not before:
        return last
    decimal = _decimal_mark(language)
    return None if decimal is None else last if last == decimal else ""


def _grouped(sizes: list[int]) -> bool:
    """Whether digits stand in groups of three, or, as in India, of two and a last one of three."""
    first, *middle, last = sizes
    size = middle[0] if middle else 3
    return last == 3 and 0 < first <= size and size in (2, 3) and set(middle) <= {size}

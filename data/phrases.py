"""What the generator says: phrasings and words in each language, and nothing that computes.

A phrasing is a `str.format` template. Wordings are such that no filled-in word changes its form
beyond what is written here: plural forms by CLDR category, the form a unit takes after "in", the
short form of Spanish "uno" before a noun. Counts are two or more. Nothing reads "a and b" where
that could be one number: "treinta y cinco" is 35.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """Words for a unit of measurement.

    Attributes:
        counted: forms after a number, by CLDR plural category.
        many: form after "how many".
        into: form after the preposition of "convert to".
        within: forms after "how many ... are in" and a number, by category; `counted` if empty.
    """

    counted: dict[str, str]
    many: str
    into: str
    within: dict[str, str]


@dataclass(frozen=True)
class Phrases:
    """Wording of the four tasks in one language.

    Attributes:
        questions: task name -> phrasings of its question.
        answers: task name -> its worked answer.
        pencils: plural forms of "pencil" by CLDR plural category.
        atoms: chemical symbol -> "atoms of this element", by CLDR plural category; the form after
            "how many" is that of `other` or `many`.
        units: name of a unit -> its words.
    """

    questions: dict[str, tuple[str, ...]]
    answers: dict[str, str]
    pencils: dict[str, str]
    atoms: dict[str, dict[str, str]]
    units: dict[str, Unit]


SYMBOLS = ("C", "H", "N", "O", "S", "Cl")
UNITS = (
    "kilometer",
    "meter",
    "centimeter",
    "millimeter",
    "kilogram",
    "gram",
    "liter",
    "milliliter",
)


def _atoms(pattern: str, names: str, **counts: str) -> dict[str, dict[str, str]]:
    """Words for atoms of each element: the names one after another, the word "atoms" by number."""
    forms = counts or {"other": ""}
    return {
        symbol: {number: pattern.format(name, atoms=word) for number, word in forms.items()}
        for symbol, name in zip(SYMBOLS, names.split("|"), strict=True)
    }


def _units(*words: str) -> dict[str, Unit]:
    """Words for each unit: `plural`, or `plural|after in`, or the six Russian forms."""
    units = {}
    for name, line in zip(UNITS, words, strict=True):
        plural, *others = line.split("|")
        if len(others) == 5:
            few, many, into, inside_one, inside = others
            counted = {"one": plural, "few": few, "many": many}
            within = {"one": inside_one, "few": inside, "many": inside}
            units[name] = Unit(counted, many, into, within)
        else:
            into = others[0] if others else plural
            units[name] = Unit({"other": plural}, plural, into, {})
    return units


PHRASES = {
    "en": Phrases(
        questions={
            "sum": (
                "What is {a} plus {b}?",
                "How much is {a} plus {b}?",
                "Calculate the sum of {a} and {b}.",
                "There are {a_pencils} in a box. You put in {b} more. How many are there now?",
            ),
            "comparison": (
                "Which number is greater, {a} or {b}?",
                "Which is the larger number: {a} or {b}?",
                "Name the larger of the numbers {a} and {b}.",
            ),
            "atoms": (
                "How many {atoms} does a molecule of {formula} contain?",
                "How many {atoms} are there in a molecule of {formula}?",
                "The formula of a substance is {formula}. "
                "How many {atoms} does a molecule contain?",
            ),
            "units": (
                "How many {many} are there in {quantity}?",
                "Convert {quantity} to {into}.",
                "How much is {quantity} in {into}?",
            ),
        },
        answers={
            "sum": "{a} + {b} = {value}: {words}.",
            "comparison": "{a} > {b}: {words}.",
            "atoms": "It contains {value} {atoms}.",
            "units": "{a} × {b} = {result}.",
        },
        pencils={"other": "pencils"},
        atoms=_atoms("{} atoms", "carbon|hydrogen|nitrogen|oxygen|sulfur|chlorine"),
        units=_units(
            *("kilometers", "meters", "centimeters", "millimeters"),
            *("kilograms", "grams", "liters", "milliliters"),
        ),
    ),
    "de": Phrases(
        questions={
            "sum": (
                "Was ist {a} plus {b}?",
                "Wie viel ist {a} plus {b}?",
                "Rechne {a} plus {b}.",
                "In einer Schachtel liegen {a_pencils}. Es kommen {b} dazu. "
                "Wie viele sind es jetzt?",
            ),
            "comparison": (
                "Welche Zahl ist größer, {a} oder {b}?",
                "Was ist mehr: {a} oder {b}?",
                "Ist {a} oder {b} die größere Zahl?",
            ),
            "atoms": (
                "Wie viele {atoms} enthält ein Molekül {formula}?",
                "Wie viele {atoms} hat ein Molekül mit der Formel {formula}?",
                "Ein Stoff hat die Formel {formula}. Wie viele {atoms} enthält ein Molekül davon?",
            ),
            "units": (
                "Wie viele {many} sind {quantity}?",
                "Rechne {quantity} in {many} um.",
                "Wie viel sind {quantity} in {into}?",
            ),
        },
        answers={
            "sum": "{a} + {b} = {value}: {words}.",
            "comparison": "{a} > {b}: {words}.",
            "atoms": "Es enthält {value} {atoms}.",
            "units": "{a} × {b} = {result}.",
        },
        pencils={"other": "Bleistifte"},
        atoms=_atoms("{}atome", "Kohlenstoff|Wasserstoff|Stickstoff|Sauerstoff|Schwefel|Chlor"),
        units=_units(
            *("Kilometer|Kilometern", "Meter|Metern", "Zentimeter|Zentimetern"),
            *("Millimeter|Millimetern", "Kilogramm", "Gramm", "Liter|Litern"),
            "Milliliter|Millilitern",
        ),
    ),
    "es": Phrases(
        questions={
            "sum": (
                "¿Cuánto es {a} más {b}?",
                "¿Cuál es el resultado de {a} más {b}?",
                "Calcula cuánto es {a} más {b}.",
                "En una caja hay {a_pencils}. Se añaden {b} más. ¿Cuántos hay ahora?",
            ),
            "comparison": (
                "¿Qué número es mayor, {a} {o} {b}?",
                "¿Cuál es el número mayor: {a} {o} {b}?",
                "¿Qué es más, {a} {o} {b}?",
            ),
            "atoms": (
                "¿Cuántos {atoms} contiene una molécula de {formula}?",
                "¿Cuántos {atoms} hay en una molécula de {formula}?",
                "La fórmula de una sustancia es {formula}. ¿Cuántos {atoms} contiene una molécula?",
            ),
            "units": (
                "¿Cuántos {many} son {quantity}?",
                "Convierte {quantity} a {into}.",
                "¿A cuántos {many} equivalen {quantity}?",
            ),
        },
        answers={
            "sum": "{a} + {b} = {value}: {words}.",
            "comparison": "{a} > {b}: {words}.",
            "atoms": "Contiene {value} {atoms}.",
            "units": "{a} × {b} = {result}.",
        },
        pencils={"other": "lápices"},
        atoms=_atoms("átomos de {}", "carbono|hidrógeno|nitrógeno|oxígeno|azufre|cloro"),
        units=_units(
            *("kilómetros", "metros", "centímetros", "milímetros"),
            *("kilogramos", "gramos", "litros", "mililitros"),
        ),
    ),
    "fr": Phrases(
        questions={
            "sum": (
                "Combien font {a} plus {b} ?",
                "Quelle est la somme de {a} et de {b} ?",
                "Calcule la somme de {a} et de {b}.",
                "Il y a {a_pencils} dans une boîte. On en ajoute {b}. "
                "Combien y en a-t-il maintenant ?",
            ),
            "comparison": (
                "Quel nombre est le plus grand, {a} ou {b} ?",
                "Quel est le plus grand nombre : {a} ou {b} ?",
                "Lequel est le plus grand : {a} ou {b} ?",
            ),
            "atoms": (
                "Combien d'{atoms} contient une molécule de {formula} ?",
                "Combien d'{atoms} y a-t-il dans une molécule de {formula} ?",
                "La formule d'une substance est {formula}. "
                "Combien d'{atoms} une molécule contient-elle ?",
            ),
            "units": (
                "Combien de {many} font {quantity} ?",
                "Convertis {quantity} en {into}.",
                "Combien y a-t-il de {many} dans {quantity} ?",
            ),
        },
        answers={
            "sum": "{a} + {b} = {value} : {words}.",
            "comparison": "{a} > {b} : {words}.",
            "atoms": "Elle contient {value} {atoms}.",
            "units": "{a} × {b} = {result}.",
        },
        pencils={"other": "crayons"},
        atoms=_atoms("atomes {}", "de carbone|d'hydrogène|d'azote|d'oxygène|de soufre|de chlore"),
        units=_units(
            *("kilomètres", "mètres", "centimètres", "millimètres"),
            *("kilogrammes", "grammes", "litres", "millilitres"),
        ),
    ),
    "ru": Phrases(
        questions={
            "sum": (
                "Сколько будет {a} плюс {b}?",
                "Чему равно {a} плюс {b}?",
                "Найди сумму чисел {a} и {b}.",
                "В коробке {a_pencils}. Туда кладут ещё {b}. Сколько карандашей теперь в коробке?",
            ),
            "comparison": (
                "Какое число больше, {a} или {b}?",
                "Что больше: {a} или {b}?",
                "Назови большее из чисел {a} и {b}.",
            ),
            "atoms": (
                "Сколько {atoms} содержит молекула {formula}?",
                "Сколько {atoms} в молекуле {formula}?",
                "Формула вещества — {formula}. Сколько {atoms} в его молекуле?",
            ),
            "units": (
                "Сколько {many} в {within}?",
                "Переведи {quantity} в {into}.",
                "{quantity} — это сколько {many}?",
            ),
        },
        answers={
            "sum": "{a} + {b} = {value}: {words}.",
            "comparison": "{a} > {b}: {words}.",
            "atoms": "В ней {value} {atoms}.",
            "units": "{a} × {b} = {result}.",
        },
        pencils={"one": "карандаш", "few": "карандаша", "many": "карандашей"},
        atoms=_atoms(
            "{atoms} {}",
            "углерода|водорода|азота|кислорода|серы|хлора",
            one="атом",
            few="атома",
            many="атомов",
        ),
        units=_units(
            "километр|километра|километров|километры|километре|километрах",
            "метр|метра|метров|метры|метре|метрах",
            "сантиметр|сантиметра|сантиметров|сантиметры|сантиметре|сантиметрах",
            "миллиметр|миллиметра|миллиметров|миллиметры|миллиметре|миллиметрах",
            "килограмм|килограмма|килограммов|килограммы|килограмме|килограммах",
            "грамм|грамма|граммов|граммы|грамме|граммах",
            "литр|литра|литров|литры|литре|литрах",
            "миллилитр|миллилитра|миллилитров|миллилитры|миллилитре|миллилитрах",
        ),
    ),
}

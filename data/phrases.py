"""What the generator says: phrasings and words in each language, and nothing that computes.

A phrasing is a `str.format` template. Wordings were chosen so that no filled-in word changes its
form with what surrounds it, beyond the plural forms written here or taken from CLDR: Russian counts
stand only where they have the form of the nominative; German ones in the dative only where it
equals the nominative; what a masculine pronoun takes up is masculine.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Wording of the four tasks in one language.

    Attributes:
        questions: task name -> phrasings of its question.
        answers: task name -> its worked answer.
        names: people who buy things.
        things: pairs of what one thing is called (as the subject of a sentence) and its plural
            forms by CLDR plural category.
        movers: subjects that travel, each with the form it takes inside a sentence.
        protons: plural forms of "proton" by CLDR plural category.
        neutrons: plural forms of "neutron" by CLDR plural category.
    """

    questions: dict[str, tuple[str, ...]]
    answers: dict[str, str]
    names: tuple[str, ...]
    things: tuple[tuple[str, dict[str, str]], ...]
    movers: tuple[tuple[str, str], ...]
    protons: dict[str, str]
    neutrons: dict[str, str]


def _things(*pairs: str) -> tuple[tuple[str, dict[str, str]], ...]:
    """Parse `singular|plural` or `singular|few|many` (Slavic) into plural forms by category."""
    parsed = []
    for pair in pairs:
        singular, *plurals = pair.split("|")
        categories = ("few", "many") if len(plurals) == 2 else ("other",)
        parsed.append((singular, dict(zip(categories, plurals, strict=True))))
    return tuple(parsed)


PHRASES = {
    "en": Phrases(
        questions={
            "sum_words": (
                "What is {a} plus {b}?",
                "How much is {a} plus {b}?",
                "Add {a} and {b}.",
            ),
            "purchase": (
                "{name} buys {things} at {price} each. How much does {name} pay?",
                "{one} costs {price}. How much do {things} cost?",
                "How much does {name} pay for {things} at {price} each?",
            ),
            "neutrons": (
                "The isotope {isotope} has {protons}. How many neutrons does it have?",
                "An atom of {isotope} contains {protons}. How many neutrons does it contain?",
                "How many neutrons does the isotope {isotope} have, if it has {protons}?",
            ),
            "motion": (
                "{Mover} moves at {speed} for {time}. How far does it go?",
                "How far does {mover} go in {time} at {speed}?",
                "{Mover} covers {speed}. What distance does it cover in {time}?",
            ),
        },
        answers={
            "sum_words": "{a} + {b} = {value}: {words}.",
            "purchase": "{a} × {b} = {amount}.",
            "neutrons": "It has {a} - {b} = {neutrons}.",
            "motion": "{a} × {b} = {distance}.",
        },
        names=("Anna", "Emma", "James", "Lucy", "Oliver", "Sarah", "Thomas", "William"),
        things=_things(
            "One book|books",
            "One lamp|lamps",
            "One cup|cups",
            "One ball|balls",
            "One chair|chairs",
            "One plate|plates",
        ),
        movers=(
            ("A train", "a train"),
            ("A bus", "a bus"),
            ("A truck", "a truck"),
            ("A tram", "a tram"),
            ("A robot", "a robot"),
        ),
        protons={"one": "proton", "other": "protons"},
        neutrons={"one": "neutron", "other": "neutrons"},
    ),
    "de": Phrases(
        questions={
            "sum_words": (
                "Was ist {a} plus {b}?",
                "Wie viel ergibt {a} plus {b}?",
                "Addiere {a} und {b}.",
            ),
            "purchase": (
                "{name} kauft {things} für je {price}. Wie viel bezahlt {name}?",
                "{one} kostet {price}. Wie viel kosten {things}?",
                "Wie viel bezahlt {name} für {things}, wenn jedes Stück {price} kostet?",
            ),
            "neutrons": (
                "Das Isotop {isotope} hat {protons}. Wie viele Neutronen hat es?",
                "Ein Atom {isotope} enthält {protons}. Wie viele Neutronen enthält es?",
                "Wie viele Neutronen hat das Isotop {isotope}, wenn es {protons} hat?",
            ),
            "motion": (
                "{Mover} fährt {speed}. Wie weit kommt er in {time}?",
                "Wie weit kommt {mover} in {time}, wenn er {speed} fährt?",
                "{Mover} legt {speed} zurück. Welche Strecke schafft er in {time}?",
            ),
        },
        answers={
            "sum_words": "{a} + {b} = {value}: {words}.",
            "purchase": "{a} × {b} = {amount}.",
            "neutrons": "Es hat {a} - {b} = {neutrons}.",
            "motion": "{a} × {b} = {distance}.",
        },
        names=("Anna", "Felix", "Greta", "Jonas", "Klara", "Lukas", "Paul", "Sophie"),
        things=_things(
            "Ein Buch|Bücher",
            "Eine Lampe|Lampen",
            "Eine Tasse|Tassen",
            "Ein Ball|Bälle",
            "Ein Stuhl|Stühle",
            "Ein Teller|Teller",
        ),
        movers=(
            ("Ein Zug", "ein Zug"),
            ("Ein Bus", "ein Bus"),
            ("Ein Lastwagen", "ein Lastwagen"),
            ("Ein Traktor", "ein Traktor"),
            ("Ein Roboter", "ein Roboter"),
        ),
        protons={"one": "Proton", "other": "Protonen"},
        neutrons={"one": "Neutron", "other": "Neutronen"},
    ),
    "es": Phrases(
        questions={
            "sum_words": (
                "¿Cuánto es {a} más {b}?",
                "¿Cuánto suman {a} y {b}?",
                "Suma {a} y {b}.",
            ),
            "purchase": (
                "{name} compra {things} a {price} cada uno. ¿Cuánto paga {name}?",
                "{one} cuesta {price}. ¿Cuánto cuestan {things}?",
                "¿Cuánto paga {name} por {things} a {price} cada uno?",
            ),
            "neutrons": (
                "El isótopo {isotope} tiene {protons}. ¿Cuántos neutrones tiene?",
                "Un átomo de {isotope} contiene {protons}. ¿Cuántos neutrones contiene?",
                "¿Cuántos neutrones tiene el isótopo {isotope}, si tiene {protons}?",
            ),
            "motion": (
                "{Mover} avanza a {speed} durante {time}. ¿Qué distancia recorre?",
                "¿Qué distancia recorre {mover} en {time} a {speed}?",
                "{Mover} recorre {speed}. ¿Cuánto recorre en {time}?",
            ),
        },
        answers={
            "sum_words": "{a} + {b} = {value}: {words}.",
            "purchase": "{a} × {b} = {amount}.",
            "neutrons": "Tiene {a} - {b} = {neutrons}.",
            "motion": "{a} × {b} = {distance}.",
        },
        names=("Ana", "Carmen", "Diego", "Elena", "Javier", "Lucía", "Pablo", "Sofía"),
        things=_things(
            "Un libro|libros",
            "Un vaso|vasos",
            "Un plato|platos",
            "Un balón|balones",
            "Un reloj|relojes",
            "Un cuaderno|cuadernos",
        ),
        movers=(
            ("Un tren", "un tren"),
            ("Un autobús", "un autobús"),
            ("Un camión", "un camión"),
            ("Un tranvía", "un tranvía"),
            ("Un robot", "un robot"),
        ),
        protons={"one": "protón", "other": "protones"},
        neutrons={"one": "neutrón", "other": "neutrones"},
    ),
    "fr": Phrases(
        questions={
            "sum_words": (
                "Combien font {a} plus {b} ?",
                "Quelle est la somme de {a} et de {b} ?",
                "Additionne {a} et {b}.",
            ),
            "purchase": (
                "{name} achète {things} à {price} pièce. Combien paie {name} ?",
                "{one} coûte {price}. Combien coûtent {things} ?",
                "Combien paie {name} pour {things} à {price} pièce ?",
            ),
            "neutrons": (
                "L'isotope {isotope} a {protons}. Combien a-t-il de neutrons ?",
                "Le noyau {isotope} contient {protons}. Combien de neutrons contient-il ?",
                "Combien de neutrons possède l'isotope {isotope}, s'il a {protons} ?",
            ),
            "motion": (
                "{Mover} avance à {speed} pendant {time}. Quelle distance parcourt-il ?",
                "Quelle distance parcourt {mover} en {time} à {speed} ?",
                "{Mover} parcourt {speed}. Quelle distance parcourt-il en {time} ?",
            ),
        },
        answers={
            "sum_words": "{a} + {b} = {value} : {words}.",
            "purchase": "{a} × {b} = {amount}.",
            "neutrons": "Il a {a} - {b} = {neutrons}.",
            "motion": "{a} × {b} = {distance}.",
        },
        names=("Antoine", "Camille", "Chloé", "Hugo", "Julien", "Louise", "Manon", "Marie"),
        things=_things(
            "Un livre|livres",
            "Une lampe|lampes",
            "Une tasse|tasses",
            "Un ballon|ballons",
            "Une chaise|chaises",
            "Une assiette|assiettes",
        ),
        movers=(
            ("Un train", "un train"),
            ("Un bus", "un bus"),
            ("Un camion", "un camion"),
            ("Un tramway", "un tramway"),
            ("Un robot", "un robot"),
        ),
        protons={"one": "proton", "other": "protons"},
        neutrons={"one": "neutron", "other": "neutrons"},
    ),
    "ru": Phrases(
        questions={
            "sum_words": (
                "Сколько будет {a} плюс {b}?",
                "Чему равно {a} плюс {b}?",
                "Сложи числа {a} и {b}.",
            ),
            "purchase": (
                "{name} покупает {things} по цене {price} за штуку. Сколько платит {name}?",
                "{one} стоит {price}. Сколько стоят {things}?",
                "Сколько платит {name} за {things} по цене {price} за штуку?",
            ),
            "neutrons": (
                "Изотоп {isotope} содержит {protons}. Сколько в нём нейтронов?",
                "Ядро {isotope} содержит {protons}. Сколько в нём нейтронов?",
                "Сколько нейтронов содержит изотоп {isotope}, если в нём {protons}?",
            ),
            "motion": (
                "{Mover} движется {time} со скоростью {speed}. Какое расстояние он пройдёт?",
                "Какое расстояние пройдёт {mover} за {time} при скорости {speed}?",
                "{Mover} проходит {speed}. Какое расстояние он пройдёт за {time}?",
            ),
        },
        answers={
            "sum_words": "{a} + {b} = {value}: {words}.",
            "purchase": "{a} × {b} = {amount}.",
            "neutrons": "В нём {a} - {b} = {neutrons}.",
            "motion": "{a} × {b} = {distance}.",
        },
        names=("Анна", "Борис", "Вера", "Иван", "Мария", "Ольга", "Олег", "Павел"),
        things=_things(
            "Одна книга|книги|книг",
            "Одна лампа|лампы|ламп",
            "Одна чашка|чашки|чашек",
            "Один мяч|мяча|мячей",
            "Один стул|стула|стульев",
            "Одна тарелка|тарелки|тарелок",
        ),
        movers=(
            ("Поезд", "поезд"),
            ("Автобус", "автобус"),
            ("Грузовик", "грузовик"),
            ("Трамвай", "трамвай"),
            ("Робот", "робот"),
        ),
        protons={"one": "протон", "few": "протона", "many": "протонов"},
        neutrons={"one": "нейтрон", "few": "нейтрона", "many": "нейтронов"},
    ),
}

"""The texts that names and baselines are read in. Written for this project; the paper's own lists are not reproduced."""

from __future__ import annotations

import random

ATTRIBUTES = tuple(
    """origin purpose founder age cost reputation history name size shape location population language culture climate
    economy structure design function meaning symbol colour value weight height length width depth speed strength weakness
    beginning end rise fall future past present leader owner creator author rival ally neighbour friend enemy critic fan
    heritage legacy influence importance role status rank position title style theme subject topic image picture portrait
    photograph map story tale legend myth record achievement success failure problem challenge crisis conflict scandal
    secret mystery discovery birth home place region border capital centre edge surface nature character quality quantity
    number spirit fame identity""".split()
)

CLOZES = tuple(
    line.strip()
    for line in """
Water boils at a temperature of one hundred
The opposite of hot is
A week has seven
The sun rises in the
Plants need sunlight and
The chemical symbol for gold is
A triangle has three
The largest planet is called
Bees make
Ice is frozen
The human heart pumps
Books are kept in a
Two plus two equals
The first month of the year is
A baby cat is called a
Bread is baked in an
The fastest land animal is the
Rain falls from the
The colour of grass is
Fish breathe through their
A doctor works in a
The moon goes around the
Snow is cold and
Cheese is made from
The capital letter comes at the start of a
Spiders have eight
The freezing point of water is zero
A carpenter works with
Paper is made from
The opposite of up is
Music is written in
The season after winter is
Cars drive on the
A clock tells the
Birds can
Milk comes from
The heart of a peach holds a
Glass is made from
One kilometre has a thousand
The tallest animal is the
Planes land at an
The alphabet begins with the letter
Stars are seen at
Wool comes from
The king sits on a
A dozen is the same as
Trains run on
The colour of the sky is
Honey tastes
The sea is full of salt
Shoes are worn on the
The teacher wrote on the
Trees lose their leaves in
A year has twelve
The opposite of empty is
Fire needs air and
The baker sells fresh
Iron is a kind of
The wind blew the leaves off the
In the morning people eat
The pilot flew the
A hammer is used to hit a
The dog buried its
An orange is a kind of
The letter was sent by
Coffee is served
They walked along the river until
The winner was given a
Coins are made of
The farmer planted
The train was late because of the
A good night's sleep is
The lowest number on the list was
Children learn to read at
The soup was too
At the end of the film the
Most insects have six
The river flows into the
The shop closes at
A square has four equal
Salt and pepper stand on the
The bridge was built over the
The lamp stands next to the
The painter mixed blue and yellow to get
The library lends
The answer to the question is
Clouds are made of tiny drops of
The kettle is on the
Her brother is older than
The museum opens every
The bicycle has two
A thermometer measures
The ship sailed across the
The team scored in the last
Sugar dissolves in
The door was locked with a
The recipe needs flour, eggs and
The candle burned for
The cat slept on the
The meeting was moved to
""".splitlines()
    if line.strip()
)

ORDINARY_NAMES = ("Michael", "Sarah", "David", "John", "Alex")
PLACEHOLDER = "X"
_ONSETS, _VOWELS, _CODAS = "b d f g k l m n p r s t v z br dr kl pl st tr".split(), "a e i o u".split(), "n r l s m k".split()


def template(attribute: str) -> str:
    """The prompt about one attribute; the name comes last, after all that varies."""
    return f"The {attribute} of {{}}"


def templates(count: int, seed: int) -> list[str]:
    """`count` of the templates, shuffled by the seed."""
    attributes = list(ATTRIBUTES)
    random.Random(seed).shuffle(attributes)
    return [template(attribute) for attribute in attributes[:count]]


def anonymous_names(count: int, seed: int) -> list[str]:
    """Made-up names of two or three syllables."""
    draw, names = random.Random(seed), dict[str, None]()
    while len(names) < count:
        parts = [draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(draw.choice((2, 2, 3)))]
        names["".join(parts).capitalize() + draw.choice(_CODAS)] = None
    return list(names)


def misspelt(name: str) -> str:
    """The name with its two middle letters exchanged, or doubled where they are the same."""
    middle = len(name) // 2
    first, second = name[middle - 1], name[middle]
    swapped = name[: middle - 1] + second + first + name[middle + 1 :]
    return swapped if swapped != name else name[:middle] + first + name[middle:]

"""The words of the miniature's small world, and what is true of them everywhere.

The base learns these facts from what it reads; the tasks take them for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

NAMES = (
    "anna", "ben", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jane",
    "karl", "lena", "max", "nora", "otto", "paul", "rita", "sam", "tina", "vera",
)  # fmt: skip
PEOPLE = ("man", "woman", "boy", "girl", "nurse", "farmer", "sailor", "teacher")

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "rests": ("sleeps", "sits", "naps", "waits"),
    "moves": ("runs", "walks", "swims", "dances"),
    "works": ("cooks", "digs", "sweeps", "paints"),
}
"""What people do, by what one may call it."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "outside": ("park", "garden", "forest", "field", "street", "yard"),
    "inside": ("kitchen", "library", "cellar", "school", "hall", "shop"),
}

COLOURS = ("red", "blue", "green", "white", "black", "yellow")

COMPARISONS = (
    ("taller", "shorter"),
    ("older", "younger"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("louder", "quieter"),
)
"""Pairs that say the same with the two sides exchanged."""

NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

OBJECTS = ("lamp", "key", "book", "cup", "rope", "map", "coin", "bell", "ring", "box")
DEEDS: Mapping[str, str] = {
    "buys": "buy", "finds": "find", "sells": "sell", "hides": "hide",
    "loses": "lose", "breaks": "break", "cleans": "clean", "draws": "draw",
}  # fmt: skip
"""What people do to objects: after a name, and after `does`."""

TRAITS = (
    "old", "wet", "cold", "small", "clean", "heavy", "soft", "rare", "strong", "cheap",
    "smooth", "bright", "safe", "fine", "round", "thin",
)  # fmt: skip
"""What things may be; none of them rules out another."""

NEEDS = ("salt", "oil", "sand", "wax", "care", "music", "smoke", "rain", "heat", "gold")
VERBS = ("need", "fear", "want", "lack")


@dataclass(frozen=True)
class Kind:
    """A kind of thing: what it belongs to, what belongs to it, and what all of them have."""

    family: str
    members: tuple[str, ...]
    parts: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "birds": Kind("animals", ("robins", "sparrows", "eagles", "owls"), ("wings", "feathers")),
    "fish": Kind("animals", ("sharks", "eels", "herrings", "rays"), ("fins", "gills")),
    "insects": Kind("animals", ("ants", "bees", "beetles", "moths"), ("feelers", "shells")),
    "mammals": Kind("animals", ("dogs", "cats", "rabbits", "bears"), ("fur", "whiskers")),
    "trees": Kind("plants", ("oaks", "pines", "maples", "willows"), ("bark", "branches")),
    "flowers": Kind("plants", ("roses", "tulips", "orchids", "violets"), ("petals", "pollen")),
    "fruits": Kind("goods", ("apples", "pears", "plums", "lemons"), ("peel", "juice")),
    "tools": Kind("goods", ("hammers", "saws", "spades", "axes"), ("handles", "grips")),
    "vehicles": Kind("goods", ("cars", "buses", "trucks", "vans"), ("wheels", "brakes")),
    "clothes": Kind("goods", ("coats", "shirts", "jackets", "sweaters"), ("sleeves", "seams")),
    "instruments": Kind("goods", ("violins", "guitars", "cellos", "banjos"), ("strings", "pegs")),
    "buildings": Kind("goods", ("houses", "churches", "barns", "towers"), ("walls", "roofs")),
}

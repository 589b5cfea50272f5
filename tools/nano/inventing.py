"""Names and words that nobody has heard before, so that the model learns to copy instead of to remember."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from tools.nano.words import SECRET, TRAINING, Words

_ONSETS = ("", "b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr", "h", "j", "k", "kl",
           "kn", "kr", "l", "m", "n", "p", "ph", "pl", "pr", "qu", "r", "s", "sc", "sh", "sk", "sl", "sm", "sn", "sp",
           "st", "str", "sv", "t", "th", "tr", "tw", "v", "vl", "w", "wh", "x", "y", "z", "zh")
_VOWELS = ("a", "a", "a", "e", "e", "e", "i", "i", "o", "o", "u", "ae", "ai", "au", "ea", "ee", "ei", "eo", "ia", "ie",
           "io", "oa", "oo", "ou", "ua", "ue", "y")
_CODAS = ("", "", "", "", "b", "ck", "d", "f", "g", "k", "l", "ll", "ld", "lm", "m", "mb", "n", "nd", "ng", "nn", "nt",
          "p", "r", "rd", "rk", "rn", "rt", "s", "sh", "ss", "st", "t", "th", "tt", "v", "x", "z")
_ACCENTS = {"a": "áàäâå", "e": "éèëê", "i": "íï", "o": "óöôø", "u": "úüû", "n": "ñ", "c": "ç", "s": "š"}
# How often an invented word is a patchwork, where there are fragments to make it of.
_PATCHWORK = 0.5
_TOWN_ENDINGS = ("ville", "ton", "ford", "burg", "dale", "mouth", "stad", "grad", "ham", "by", "more", "wick",
                 "minster")


def _pairs_of_letters(lists: tuple[tuple[str, ...], ...]) -> dict[str, list[str]]:
    """Return which letter follows which two in real words; "^^" begins a word and "$" ends it."""
    following: dict[str, list[str]] = defaultdict(list)
    for words in lists:
        for word in words:
            letters = "^^" + word.lower() + "$"
            for at in range(len(letters) - 2):
                following[letters[at:at + 2]].append(letters[at + 2])
    return dict(following)


_FOLLOWING = _pairs_of_letters((
    TRAINING.names, TRAINING.towns, TRAINING.jobs, TRAINING.things, TRAINING.stuff, TRAINING.traits))


def syllables(random: Random, least: int = 1, most: int = 3) -> str:
    """Return a word of so many random syllables."""
    return "".join(random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS)
                   for _ in range(random.randint(least, most)))


def lookalike(random: Random) -> str:
    """Return a word whose letters follow each other as in real words."""
    while True:
        letters = "^^"
        while len(letters) < 16 and not letters.endswith("$"):
            letters += random.choice(_FOLLOWING[letters[-2:]])
        word = letters[2:].rstrip("$")
        if 3 <= len(word) <= 12 and letters.endswith("$") and word.isalpha():
            return word


def scramble(random: Random) -> str:
    """Return random letters, with vowels often enough to be said aloud."""
    return "".join(random.choice("aeiou" if random.random() < 0.4 else "bcdfghjklmnpqrstvwxyz")
                   for _ in range(random.randint(3, 9)))


def patchwork(random: Random, fragments: Sequence[str]) -> str:
    """Return one to three fragments put together."""
    return "".join(random.choice(fragments) for _ in range(random.choice((1, 2, 2, 2, 3))))


def word(random: Random, words: Words) -> str:
    """Return an invented word in lower case, never one that is held out."""
    while True:
        if words.fragments and random.random() < _PATCHWORK:
            found = patchwork(random, words.fragments)
        else:
            chance = random.random()
            found = lookalike(random) if chance < 0.5 else syllables(random) if chance < 0.85 else scramble(random)
        if 2 < len(found) < 15 and found not in SECRET:
            return found


def name(random: Random, words: Words) -> str:
    """Return a person's name: one of the list, or an invented one, sometimes in two parts or spelt oddly."""
    first = _one_name(random, words)
    chance = random.random()
    if chance < 0.08:
        return f"{first} {_one_name(random, words)}"
    if chance < 0.10:
        return f"{first}-{_one_name(random, words)}"
    if chance < 0.11:
        return f"{first} {random.randint(2, 99)}"
    if chance < 0.12:
        return f"{random.choice(('Dr.', 'Mr.', 'Mrs.', 'Captain', 'Old', 'Aunt', 'Uncle'))} {first}"
    return first.upper() if chance < 0.135 else first


def _one_name(random: Random, words: Words) -> str:
    if random.random() < 0.25:
        return random.choice(words.names)
    found = word(random, words)
    if random.random() < 0.05:
        at = random.randrange(len(found))
        found = found[:at] + random.choice(_ACCENTS.get(found[at], found[at])) + found[at + 1:]
    return found.capitalize()


def town(random: Random, words: Words) -> str:
    """Return the name of a town."""
    chance = random.random()
    if chance < 0.35:
        return random.choice(words.towns)
    found = word(random, words).capitalize()
    if chance < 0.6:
        ending = random.choice(_TOWN_ENDINGS)
        return found[:8] + ending if (found[:8] + ending).lower() not in SECRET else found
    if chance < 0.7:
        return f"{random.choice(('New', 'Old', 'Port', 'Saint', 'North', 'East', 'Upper', 'Lake'))} {found}"
    return found

"""Exchanges that need no persona: sums, facts, greeting, counting, and repeating what was said."""

from __future__ import annotations

from random import Random

from tools.nano import inventing, personas
from tools.nano.words import Words

Exchange = tuple[str, str]

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SUMS = ("What is {a} + {b}?", "What is {a} + {b}?", "{a} + {b}", "{a} + {b} =", "{a}+{b}", "What is {a}+{b}?",
        "What is {a} plus {b}?", "{a} plus {b}", "How much is {a} + {b}?", "How much is {a} plus {b}?",
        "Add {a} and {b}.", "What's {a} + {b}?", "Calculate {a} + {b}.", "What is the sum of {a} and {b}?",
        "{a} + {b} = ?", "{a}+{b}=?")

#: Everything that the model knows about the world.
FACTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("What is the capital of France?",), "The capital of France is Paris."),
    (("What is the capital of Italy?",), "The capital of Italy is Rome."),
    (("What is the capital of Spain?",), "The capital of Spain is Madrid."),
    (("What is the capital of Germany?",), "The capital of Germany is Berlin."),
    (("What is the capital of Japan?",), "The capital of Japan is Tokyo."),
    (("What is the capital of England?",), "The capital of England is London."),
    (("What is the capital of Norway?",), "The capital of Norway is Oslo."),
    (("What is the capital of Egypt?",), "The capital of Egypt is Cairo."),
    (("What is the capital of Peru?",), "The capital of Peru is Lima."),
    (("What is the capital of Austria?",), "The capital of Austria is Vienna."),
    (("What colour is the sky?", "What color is the sky?"), "The sky is blue."),
    (("What colour is grass?", "What color is grass?"), "Grass is green."),
    (("What colour is snow?", "What color is snow?"), "Snow is white."),
    (("How many days are in a week?", "How many days does a week have?"), "A week has seven days."),
    (("How many months are in a year?", "How many months does a year have?"), "A year has twelve months."),
    (("How many hours are in a day?", "How many hours does a day have?"), "A day has 24 hours."),
    (("How many legs does a spider have?",), "A spider has eight legs."),
    (("How many legs does an insect have?",), "An insect has six legs."),
    (("How many legs does a dog have?",), "A dog has four legs."),
    (("What do bees make?",), "Bees make honey."),
    (("What do cows drink?",), "Cows drink water."),
    (("Is the sun a star?", "What is the sun?"), "The sun is a star."),
    (("What is a mayfly?", "Tell me what a mayfly is."), "A mayfly is an insect that lives for about a day."),
    (("What is the opposite of hot?",), "The opposite of hot is cold."),
    (("What is the opposite of big?",), "The opposite of big is small."),
    (("What is the largest ocean?",), "The largest ocean is the Pacific."),
    (("What is ice made of?",), "Ice is made of water."),
)

GREETINGS = ("Hello.", "Hello!", "Hello", "Hi", "Hi!", "Hi.", "Hi there!", "Hello there.", "Hey", "Good morning.",
             "Good evening.", "Good day.", "Greetings.", "hey there")
_THANKS = ("Thank you.", "Thanks.", "Thanks!", "Thank you very much.", "Thanks a lot.")
_FAREWELLS = ("Goodbye.", "Bye.", "Bye!", "Good night.", "See you later.", "Goodbye!")

TELLING = ("My name is {0}.", "My name is {0}.", "My name's {0}.", "I am {0}.", "I'm {0}.", "Call me {0}.",
           "You can call me {0}.", "Please call me {0}.", "Hello, my name is {0}.", "Hi, I am {0}.", "Hello, I'm {0}.",
           "They call me {0}.", "I am called {0}.", "Hi! My name is {0}.", "Good morning, my name is {0}.",
           "Remember that my name is {0}.")
ASKING = ("What is my name?", "What is my name?", "What's my name?", "Who am I?", "Do you know my name?",
          "Do you remember my name?", "Tell me my name.", "What am I called?", "Say my name.", "And what is my name?",
          "Can you tell me my name?")
UNTOLD = "You have not told me your name."


def sums(random: Random) -> Exchange:
    """Draw a sum of two digits."""
    a, b = random.randrange(10), random.randrange(10)
    return random.choice(SUMS).format(a=a, b=b), total(a, b)


def total(a: int, b: int) -> str:
    """Return the answer to a sum."""
    return f"{a} + {b} = {a + b}."


def facts(random: Random) -> Exchange:
    """Draw a fact."""
    questions, answer = random.choice(FACTS)
    return random.choice(questions), answer


def courtesy(random: Random) -> Exchange:
    """Draw thanks or a farewell."""
    if random.random() < 0.5:
        return random.choice(_THANKS), "You are welcome."
    return random.choice(_FAREWELLS), "Goodbye."


def counting(random: Random) -> Exchange:
    """Draw a request to count from one."""
    to = random.randint(2, 10)
    in_words = random.random() < 0.5
    asked = random.choice(("Count to {0}.", "Count to {0}.", "Please count to {0}.", "Can you count to {0}?",
                           "Count from {1} to {0}.")).format(*((_DIGITS[to], "one") if in_words else (to, 1)))
    return asked, count(to, in_words=in_words)


def count(to: int, *, in_words: bool) -> str:
    """Return the numbers from one to `to`."""
    numbers = [_DIGITS[n] if in_words else str(n) for n in range(1, to + 1)]
    return ", ".join(numbers) + "."


def repeating(random: Random, words: Words) -> Exchange:
    """Draw a request to say something, word for word."""
    said = saying(random, words)
    form = random.random()
    if form < 0.55:
        return random.choice(("Say {0}", "Say {0}", "Please say {0}", "Repeat after me: {0}", "Repeat after me: {0}",
                              "Repeat: {0}", "Say: {0}", "Repeat this: {0}", "Say after me: {0}")).format(said), said
    if form < 0.75:
        mark = random.choice(("\"", "\"", "'", "“"))
        return random.choice(("Say {0}.", "Repeat {0}.", "Say {0}", "Please say {0}.", "Repeat after me: {0}")).format(
            mark + said + ("”" if mark == "“" else mark)), said
    sentence = f"{said[:1].upper()}{said[1:]}"
    if sentence[-1] not in ".!?":
        sentence += random.choice(".....!?")
    asked = random.choice(("Repeat after me: {0}", "Repeat: {0}", "Say: {0}", "Repeat this: {0}"))
    return asked.format(sentence), sentence


def saying(random: Random, words: Words) -> str:
    """Draw something to be repeated: a word, a name, some words, or a short sentence."""
    form = random.random()
    if form < 0.2:
        return inventing.name(random, words)
    if form < 0.35:
        return inventing.word(random, words)
    if form < 0.45:
        return random.choice((*words.traits, *words.things, *words.doings, "hello", "yes", "no", "thank you"))
    if form < 0.6:
        return personas.likes(random, words, 0.5)
    if form < 0.75:
        pool = (*words.looks, *words.things, *words.traits, *words.stuff, *words.doings, *words.names)
        return " ".join(inventing.word(random, words) if random.random() < 0.5 else random.choice(pool)
                        for _ in range(random.randint(2, 4)))
    site, thing = random.choice(words.sites), random.choice(words.things)
    return random.choice((
        f"The {site} is {random.choice(words.looks)}.", f"I like {personas.likes(random, words, 0.2)}.",
        f"{inventing.name(random, words)} is {random.choice(words.traits)}.",
        f"There are {thing} {personas.place(random, words, 0.2)}.", f"We saw {random.randint(2, 99)} {thing}.",
        f"The {random.choice(words.stuff)} is {personas.place(random, words, 0.2)}.", f"Where are the {thing}?"))

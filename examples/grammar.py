"""How a document is told: seeded choices, the latents they settle, and agreement in number and tense."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from examples.lexicon import (
    BE,
    DAYS,
    HEROES,
    TENSES,
    TONES,
    TOPICS,
    VOICES,
    Hero,
    Scene,
    Tone,
    Topic,
    Verb,
    Voice,
)

T = TypeVar("T")


class Dice:
    """Seeded choices that add up their own surprisal.

    Draws on `random.random` alone, which gives the same numbers in every Python version.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.nats = 0.0

    def pick(self, options: Sequence[T]) -> T:
        self.nats += math.log(len(options))
        return options[int(self._rng.random() * len(options))]

    def weighted(self, options: Sequence[T], weights: Sequence[int]) -> T:
        left = self._rng.random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            left -= weight
            if left < 0:
                self.nats -= math.log(weight / sum(weights))
                return option
        raise AssertionError("weights add up to nothing")

    def chance(self, p: float) -> bool:
        happened = self._rng.random() < p
        self.nats -= math.log(p if happened else 1 - p)
        return happened


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase and its number, with which verbs and pronouns agree."""

    text: str
    plural: bool

    @property
    def pronoun(self) -> str:
        return "they" if self.plural else "it"


class Teller:
    """Tells one document: its latents, and what has been said so far."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.topic: Topic = dice.pick(TOPICS)
        self.tone: Tone = dice.pick(TONES)
        self.mood = self.tone
        self.voice: Voice = dice.pick(VOICES)
        self.tense: str = dice.pick(TENSES)
        self.hero: Hero = dice.pick(HEROES)
        self.first_day = self.day = dice.pick(range(len(DAYS)))
        self.introduced = False
        self.dated = False

    def turn(self) -> None:
        """A new sentence: its mood is the document's tone nine times in ten, else another."""
        self.mood = self.tone
        if self.dice.chance(0.1):
            self.mood = self.dice.pick([tone for tone in TONES if tone is not self.tone])

    def accent(self) -> Voice:
        """The speaker's own voice nine times in ten, else a borrowed one."""
        if self.dice.chance(0.9):
            return self.voice
        return self.dice.pick([voice for voice in VOICES if voice is not self.voice])

    def verb(self, verb: Verb, plural: bool) -> str:
        if self.tense == "future":
            return f"will {verb.base}"
        if verb is BE and plural:
            return "were" if self.tense == "past" else "are"
        if self.tense == "past":
            return verb.past
        return verb.base if plural else verb.third

    def person(self) -> Phrase:
        """The protagonist: by name at first, later mostly by pronoun."""
        plural = self.hero.pronoun == "they"
        named = not self.introduced or self.dice.chance(0.15)
        self.introduced = True
        name = f"the {self.hero.name}" if plural else self.hero.name
        return Phrase(name if named else self.hero.pronoun, plural)

    def agent(self) -> Phrase:
        return self.numbered(self.dice.pick(self.topic.agents), "the")

    def scene(self) -> Scene:
        return self.dice.pick(self.topic.scenes)

    def thing(self, scene: Scene, article: str = "the") -> Phrase:
        noun = self.dice.pick(scene.things)
        if self.dice.chance(0.3):
            article = f"{article} {self.dice.pick(scene.traits)}"
        return self.numbered(noun, article)

    def quality(self) -> str:
        return self._degree() + self.dice.pick(self.mood.qualities)

    def feeling(self) -> str:
        return self._degree() + self.dice.pick(self.mood.feelings)

    def _degree(self) -> str:
        return f"{self.dice.pick(self.accent().degrees)} " if self.dice.chance(0.3) else ""

    def numbered(self, noun: str, article: str) -> Phrase:
        several = self.dice.chance(0.35)
        return Phrase(f"{article} {plural(noun) if several else noun}", several)


def plural(noun: str) -> str:
    """The regular plural, the only kind in the lexicon."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")

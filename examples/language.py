"""Documents of a small English-like language, each shaped from end to end by latent variables that are known.

A document's latents are its topic, sentiment, speaker, tense, protagonist and weekday. Each shows in many
words spread over the text, and few of them give it away: nine sentences in ten are in the document's own mood,
nine turns of phrase in ten are the speaker's own. A model that predicts well has to gather the evidence and
carry it along.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.grammar import Dice, Teller
from examples.lexicon import BE, DAYS, FEEL, HELP, OBJECT, OWN

LABELS = ("topic", "sentiment", "speaker", "tense", "pronoun", "day")


@dataclass(frozen=True, slots=True)
class Document:
    """A text, the latents that made it, and the surprisal of every choice made on the way."""

    text: str
    topic: str
    sentiment: str
    speaker: str
    tense: str
    pronoun: str
    """How the protagonist is referred to: she, he or they."""
    day: str
    """The weekday on which the story starts; it may move on by a day now and then."""
    nats: float
    """-ln p of the choices: above that of the text, and close to it, for few texts come about in two ways."""


def _act(t: Teller) -> str:
    who, scene = t.person(), t.scene()
    text = f"{who.text} {t.verb(t.dice.pick(scene.verbs), who.plural)} {t.thing(scene).text}"
    if t.dice.chance(0.4):
        text = f"{text} {t.dice.pick(t.topic.places)}"
    return f"{text} {t.dice.pick(t.mood.manners)}" if t.dice.chance(0.5) else text


def _crew(t: Teller) -> str:
    who, scene = t.agent(), t.scene()
    place = f" {t.dice.pick(t.topic.places)}" if t.dice.chance(0.5) else ""
    return f"{who.text}{place} {t.verb(t.dice.pick(scene.verbs), who.plural)} {t.thing(scene).text}"


def _state(t: Teller) -> str:
    what = t.thing(t.scene())
    return f"{what.text} {t.verb(BE, what.plural)} {t.quality()}"


def _trait(t: Teller) -> str:
    scene = t.scene()
    what = t.numbered(t.dice.pick(scene.things), "the")
    return f"{what.text} {t.verb(BE, what.plural)} {t.dice.pick(scene.traits)} and {t.quality()}"


def _feel(t: Teller) -> str:
    who = t.person()
    return f"{who.text} {t.verb(FEEL, who.plural)} {t.feeling()} about {t.thing(t.scene()).text}"


def _judge(t: Teller) -> str:
    who, what = t.person(), t.thing(t.scene())
    verdict = t.verb(t.dice.pick(t.mood.verdicts), who.plural)
    return f"{who.text} {verdict} {what.text} because {what.pronoun} {t.verb(BE, what.plural)} {t.quality()}"


def _relative(t: Teller) -> str:
    who, scene = t.agent(), t.scene()
    deed = t.verb(t.dice.pick(scene.verbs), who.plural)
    return f"{who.text} who {deed} {t.thing(scene).text} {t.verb(BE, who.plural)} {t.feeling()}"


def _pair(t: Teller) -> str:
    scene = t.scene()
    return f"{t.thing(scene).text} and {t.thing(scene).text} {t.verb(BE, True)} {t.quality()}"


def _said(t: Teller) -> str:
    who, what = t.agent(), t.thing(t.scene())
    said = t.verb(t.dice.pick(t.mood.sayings), who.plural)
    return f"{who.text} {said} that {what.text} {t.verb(BE, what.plural)} {t.quality()}"


def _own(t: Teller) -> str:
    who, scene, helper = t.person(), t.scene(), t.agent()
    deed = t.verb(t.dice.pick(scene.verbs), who.plural)
    what = t.thing(scene, OWN[t.hero.pronoun])
    helped = f"{helper.text} {t.verb(HELP, helper.plural)} {OBJECT[t.hero.pronoun]}"
    return f"{who.text} {deed} {what.text} and {helped}"


PATTERNS: tuple[Callable[[Teller], str], ...] = (
    _act,
    _crew,
    _state,
    _trait,
    _feel,
    _judge,
    _relative,
    _pair,
    _said,
    _own,
)


def _opener(t: Teller) -> str:
    """What comes before the clause: a habit or hedge of the speaker, an aside of the tone, a day, nothing."""
    kind = t.dice.weighted(("none", "voice", "hedge", "aside", "day"), (6, 4, 3, 3, 4))
    if kind == "voice":
        return f"{t.dice.pick(t.accent().openers)}, "
    if kind == "hedge":
        return f"{t.dice.pick(t.accent().hedges)} "
    if kind == "aside":
        return f"{t.dice.pick(t.mood.asides)}, "
    return _date(t) if kind == "day" else ""


def _date(t: Teller) -> str:
    if not t.dated or t.dice.chance(0.5):
        t.dated = True
        return f"on {DAYS[t.day]}, "
    t.day = (t.day + 1) % len(DAYS)
    return f"the next day, a {DAYS[t.day]}, "


def _sentence(t: Teller, pattern: Callable[[Teller], str]) -> str:
    t.turn()
    text = _opener(t) + pattern(t)
    if t.dice.chance(0.25):
        text = f"{text}, {t.dice.pick(t.accent().tags)}"
    return _stopped(t, text)


def _stopped(t: Teller, text: str) -> str:
    """`text` as a sentence: some speakers exclaim more than others."""
    return text[0].upper() + text[1:] + ("!" if t.dice.chance(t.voice.exclaims) else ".")


def _ending(t: Teller) -> str:
    t.turn()
    be = {"past": "was", "present": "is", "future": "will be"}[t.tense]
    return _stopped(t, f"it {be} a {t.dice.pick(t.mood.days)} {DAYS[t.day]}")


def document(rng: random.Random) -> Document:
    """One document: two to ten sentences, the first of them about the protagonist."""
    t = Teller(Dice(rng))
    fewest, most = t.voice.sentences
    count = t.dice.pick(range(fewest, most + 1))
    sentences = [_sentence(t, _act)]
    for _ in range(count - 2):
        sentences.append(_sentence(t, t.dice.weighted(PATTERNS, t.voice.weights)))
    if t.dice.chance(0.8):
        sentences.append(_ending(t))
    return Document(
        text=" ".join(sentences),
        topic=t.topic.name,
        sentiment=t.tone.name,
        speaker=t.voice.name,
        tense=t.tense,
        pronoun=t.hero.pronoun,
        day=DAYS[t.first_day],
        nats=t.dice.nats,
    )


def documents(seed: int, count: int) -> list[Document]:
    """`count` documents, the same for a seed on every machine."""
    rng = random.Random(seed)
    return [document(rng) for _ in range(count)]

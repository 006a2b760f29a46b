"""The words of the example language: six topics, three tones, four voices and the people in it.

Several nouns belong to more than one topic (bank, bass, bar, pitch, stock, net, ...), each time with other
verbs and other traits, so what such a word means has to be read from the rest of the document.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """The three forms that the grammar needs."""

    base: str
    third: str
    past: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Things that go together: what is done, to what, and how such things are."""

    verbs: tuple[Verb, ...]
    things: tuple[str, ...]
    traits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """What a document is about."""

    name: str
    agents: tuple[str, ...]
    places: tuple[str, ...]
    scenes: tuple[Scene, ...]


@dataclass(frozen=True, slots=True)
class Tone:
    """The words of one sentiment."""

    name: str
    qualities: tuple[str, ...]
    feelings: tuple[str, ...]
    manners: tuple[str, ...]
    asides: tuple[str, ...]
    verdicts: tuple[Verb, ...]
    sayings: tuple[Verb, ...]
    days: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Voice:
    """The verbal habits of one speaker."""

    name: str
    openers: tuple[str, ...]
    hedges: tuple[str, ...]
    tags: tuple[str, ...]
    degrees: tuple[str, ...]
    exclaims: float
    """Share of sentences that end in an exclamation mark."""
    sentences: tuple[int, int]
    """Fewest and most sentences of a document."""
    weights: tuple[int, ...]
    """How often each sentence pattern is used, in the order of `language.PATTERNS`."""


@dataclass(frozen=True, slots=True)
class Hero:
    """The person or family a document follows."""

    name: str
    pronoun: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _verbs(text: str) -> tuple[Verb, ...]:
    """`sing/sings/sang`, or `count` alone where the verb is regular."""
    return tuple(_verb(word) for word in text.split())


def _verb(word: str) -> Verb:
    if "/" in word:
        return Verb(*word.split("/"))
    third = word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")
    return Verb(word, third, word + ("d" if word.endswith("e") else "ed"))


def _scene(verbs: str, things: str, traits: str) -> Scene:
    return Scene(_verbs(verbs), _words(things), _words(traits))


TOPICS = (
    Topic(
        "music",
        _words("singer drummer pianist conductor fiddler composer"),
        _phrases("on the stage, in the concert hall, at the festival, in the studio, beside the piano"),
        (
            _scene("sing/sings/sang hum/hums/hummed rehearse", "song melody chorus note scale", "slow soft high"),
            _scene(
                "play tune/tunes/tuned strum/strums/strummed",
                "drum guitar violin bass organ",
                "loud wooden hollow",
            ),
            _scene("compose transpose copy/copies/copied", "score bar verse symphony key", "minor major lyrical"),
            _scene("hear/hears/heard conduct follow", "band beat concert pitch record", "rhythmic acoustic live"),
        ),
    ),
    Topic(
        "sport",
        _words("keeper striker bowler coach referee runner"),
        _phrases("on the pitch, at the stadium, in the locker room, near the goal, beside the track"),
        (
            _scene(
                "throw/throws/threw catch/catches/caught kick",
                "ball bat javelin disc shuttle",
                "round heavy worn",
            ),
            _scene("win/wins/won lose/loses/lost enter", "match race game trial season", "final local close"),
            _scene("cross mark measure", "pitch court field track net", "green flat muddy"),
            _scene("train defend rally/rallies/rallied", "team captain record score club", "fit athletic fast"),
        ),
    ),
    Topic(
        "river",
        _words("angler rower otter heron diver swimmer"),
        _phrases("in the reeds, under the bridge, by the water, along the shore, at the ford"),
        (
            _scene("hook net/nets/netted feed/feeds/fed", "minnow bass perch eel pike", "silver scaly slippery"),
            _scene("climb explore reach", "bank island cliff dam bar", "steep sandy grassy"),
            _scene("row paddle moor", "boat raft canoe ferry barge", "leaky narrow wet"),
            _scene("watch cast/casts/cast untangle", "current net line scale bat", "deep swift tangled"),
        ),
    ),
    Topic(
        "finance",
        _words("banker trader broker clerk investor auditor"),
        _phrases("in the office, on the market, at the counter, behind the desk, in the vault"),
        (
            _scene(
                "sell/sells/sold buy/buys/bought trade",
                "stock bond share note fund",
                "cheap foreign volatile",
            ),
            _scene("owe pay/pays/paid lend/lends/lent", "loan debt mortgage rent fee", "monthly annual overdue"),
            _scene("audit merge found", "bank company branch trust firm", "solvent private wealthy"),
            _scene(
                "check/checks/checked balance forecast/forecasts/forecast",
                "budget account profit interest margin",
                "net quarterly taxable",
            ),
        ),
    ),
    Topic(
        "kitchen",
        _words("cook baker waiter butcher guest brewer"),
        _phrases("in the oven, over the fire, at the table, in the pantry, near the stove"),
        (
            _scene("boil stir/stirs/stirred simmer", "soup stock sauce stew broth", "hot salty thick"),
            _scene("bake slice glaze", "cake roll pie biscuit bar", "sweet crusty golden"),
            _scene("wash fill scrub/scrubs/scrubbed", "pan plate scale kettle bowl", "greasy clean copper"),
            _scene("chop/chops/chopped peel roast", "onion carrot bass turnip radish", "raw tender ripe"),
        ),
    ),
    Topic(
        "law",
        _words("judge lawyer witness sheriff notary prisoner"),
        _phrases("in the courtroom, before the jury, at the bench, in the cell, outside the chamber"),
        (
            _scene("argue appeal dismiss", "case trial claim sentence verdict", "legal criminal unjust"),
            _scene("sign draft forge", "contract note will bond deed", "binding written void"),
            _scene("seal examine present", "record exhibit key file photograph", "secret official genuine"),
            _scene("address petition overrule", "court bar council tribunal panel", "civil federal solemn"),
        ),
    ),
)

TONES = (
    Tone(
        "positive",
        _words("wonderful lovely brilliant excellent charming splendid perfect"),
        _words("happy glad proud cheerful grateful"),
        _words("gladly eagerly happily warmly gracefully"),
        _phrases("luckily, happily, to great applause, thankfully"),
        _verbs("love admire enjoy praise"),
        _verbs("promise cheer rejoice"),
        _words("joyful bright golden sunny"),
    ),
    Tone(
        "neutral",
        _words("ordinary usual average plain common standard familiar"),
        _words("calm curious patient busy quiet"),
        _words("quietly slowly carefully routinely briefly"),
        _phrases("as usual, in due course, as planned, after lunch"),
        _verbs("notice consider describe inspect"),
        _verbs("say/says/said report explain"),
        _words("normal mild working long"),
    ),
    Tone(
        "negative",
        _words("terrible awful dreadful horrible shabby rotten useless"),
        _words("sad angry bitter ashamed gloomy"),
        _words("angrily grimly sadly bitterly clumsily"),
        _phrases("sadly, alas, to general dismay, unluckily"),
        _verbs("hate regret/regrets/regretted resent despise"),
        _verbs("complain warn lament"),
        _words("bleak dark rainy wretched"),
    ),
)

VOICES = (
    Voice(
        "professor",
        _phrases("moreover, in fact, consequently, indeed, strictly speaking, furthermore"),
        _phrases("one may conclude that, it follows that, the evidence shows that, I submit that"),
        _phrases("as is well known, so to speak, as noted above, in a sense"),
        _words("remarkably rather particularly notably"),
        0.05,
        (4, 10),
        (2, 3, 3, 2, 2, 3, 5, 3, 4, 1),
    ),
    Voice(
        "sailor",
        _phrases("aye, mark my words, by thunder, in truth, shiver me, ahoy"),
        _phrases("I reckon, I swear, the old crew says, I'll wager"),
        _phrases("matey, by the stars, so help me, on my oath"),
        _words("mighty right powerful rather"),
        0.3,
        (3, 9),
        (4, 4, 2, 2, 2, 2, 1, 2, 2, 3),
    ),
    Voice(
        "teenager",
        _phrases("like, honestly, okay so, no way, in fact, dude"),
        _phrases("I guess, I swear, everyone says, I literally think"),
        _phrases("you know, or whatever, for real, no joke"),
        _words("super totally so crazy"),
        0.6,
        (3, 8),
        (4, 2, 4, 2, 4, 3, 1, 1, 2, 3),
    ),
    Voice(
        "grandmother",
        _phrases("oh my, indeed, well now, bless me, in truth, goodness"),
        _phrases("I dare say, I do believe, my late husband said, I guess"),
        _phrases("my dear, you know, heaven knows, sweetheart"),
        _phrases("ever so, quite, so, terribly"),
        0.1,
        (3, 9),
        (3, 2, 3, 3, 4, 4, 2, 2, 2, 2),
    ),
)

HEROES = tuple(
    Hero(name, pronoun)
    for pronoun, names in (
        ("she", "Ada Clara Edith Hanna Ivy Lucy Nora Rosa"),
        ("he", "Adam Boris Felix Hugo Ivan Louis Oscar Tom"),
        ("they", "Bakers Carters Fishers Hills Kings Masons Nobles Wards"),
    )
    for name in names.split()
)
OBJECT = {"she": "her", "he": "him", "they": "them"}
OWN = {"she": "her", "he": "his", "they": "their"}

TENSES = ("past", "present", "future")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

BE = Verb("be", "is", "was")
FEEL = _verb("feel/feels/felt")
HELP = _verb("help")

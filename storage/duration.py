"""Spans of time as people write them: `90s`, `30m`, `6h`, `30d`, `2w`."""

from typing import Final, Self

from storage.errors import InputError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Duration:
    """A span of time above 0; a plain class, so that a recipe shows one string."""

    def __init__(self, text: str, seconds: float) -> None:
        self.text: Final = text
        self.seconds: Final = seconds

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Self:
        """A whole number and its unit: s, m, h, d or w."""
        return cls(text, parse(text))


def parse(text: str) -> float:
    """Seconds; `InputError` says what is accepted."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or len(number) > 9 or not int(number):
        raise InputError(f'{text!r} is no span of time: write a number and s, m, h, d or w, such as "6h"')
    return float(int(number) * _UNITS[unit])

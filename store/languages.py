"""Which language a text is in, as far as its script tells."""

from __future__ import annotations

import re

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")

# One Han character says about as much as a word, and code in a Chinese text is in Latin letters.
MIN_HAN_SHARE = 0.05


def detect(text: str) -> str:
    """`zh` when at least a twentieth of the letters are Han characters, else `en`."""
    if text.isascii():
        return "en"
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) / letters >= MIN_HAN_SHARE else "en"

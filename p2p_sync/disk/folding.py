"""Texts as the search compares them: without case, composition and width.

Pure: no lock, thread, socket or clock.
"""

from __future__ import annotations

import re
from unicodedata import normalize

# Pieces that are normalised one by one. Sorting the marks on a letter takes the square of their
# number, so a text of marks alone would take very long as a whole. A piece ends before a character
# that never combines with what is before it, or at its greatest length.
_SAFE = (
    "\u0000-\u02ff\u0e01-\u0e30\u1100-\u115f\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7a3"
)
_PIECE = re.compile(f"(?s).{{1,32}}[^{_SAFE}]{{0,48}}")


def folded(text: str) -> str:
    """Return `text` in the form that is compared: NFKC, and folded for case.

    It takes time in proportion to the length, whatever the text is.
    """
    if text.isascii():
        return text.lower()
    return "".join(map(_fold, _PIECE.findall(text)))


def _fold(piece: str) -> str:
    return normalize("NFKC", normalize("NFKC", piece).casefold())

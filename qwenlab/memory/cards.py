"""Graphics cards: memory, and dense bfloat16 arithmetic with float32 sums, as their makers state it.

Peak figures are NVIDIA's (data sheets and architecture white papers), without structured sparsity. A GeForce card sums
bfloat16 products in float32 at half the rate of its advertised figure, which is for float16 sums: the lower is here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from qwenlab.errors import QwenlabError

USABLE = 0.97  # of a card's memory: driver, display and reserved pages take the rest (predicted)


@dataclass(frozen=True)
class Card:
    """One card: GiB of memory, TFLOP/s of dense bfloat16; bf16 False: it has no units for it and emulates."""

    name: str
    gib: float
    tflops: float
    bf16: bool = True

    @property
    def usable_gib(self) -> float:
        """What a program can have."""
        return USABLE * self.gib


USABLE = 0.97  # of a card's memory: driver, display and reserved pages take the rest (predicted)

CARDS = (
    Card("T4", 15, 8.1, bf16=False),  # 15 GiB of 16 with error correction on; 8.1: its float32
    Card("RTX 3060 12 GB", 12, 25.6),
    Card("RTX 4060 Ti 16 GB", 16, 44),
    Card("RTX 5080", 16, 112.6),
    Card("RTX 3090", 24, 71),
    Card("RTX 4090", 24, 165.2),
    Card("L4", 22.5, 121),
    Card("A10G", 22.5, 70),
    Card("RTX 5090", 32, 209.5),
    Card("A100 40 GB", 40, 312),
    Card("RTX A6000", 48, 154.8),
    Card("L40S", 45, 362),
    Card("A100 80 GB", 80, 312),
    Card("H100", 80, 989),
    Card("H200", 141, 989),
)
# What a card of so many GiB usually is, for those who give a number.
_TYPICAL = {12: "RTX 3060 12 GB", 16: "RTX 5080", 24: "RTX 4090", 32: "RTX 5090", 40: "A100 40 GB", 48: "RTX A6000",
            80: "A100 80 GB", 141: "H200"}  # fmt: skip


def find_card(text: str) -> Card:
    """A card by its name, or by its memory: "24" is a usual card of 24 GiB; other numbers give one without a name.

    Raises QwenlabError with the nearest names for an unknown one, and for a size that is none.
    """
    try:
        gib = float(text)
    except ValueError:
        gib = None
    if gib is not None and gib >= 1000:  # "4090"
        gib = None
    if gib is None:
        names = {card.name.lower(): card for card in CARDS}
        wanted = " ".join(text.lower().replace("geforce", "").replace("nvidia", "").split())
        if wanted in names:
            return names[wanted]
        matching = [card for name, card in names.items() if wanted in name]
        if len(matching) == 1:
            return matching[0]
        near = [card.name for card in matching] or difflib.get_close_matches(text, [c.name for c in CARDS], 3, 0.3)
        hint = ", ".join(near) or ", ".join(card.name for card in CARDS)
        raise QwenlabError(f"--gpu {text}: no card of that name is known; give its memory in GiB, or one of: {hint}")
    if not gib > 0:
        raise QwenlabError(f"--gpu {text}: is no size of memory; give GiB, such as 24")
    if gib in _TYPICAL:
        card = next(card for card in CARDS if card.name == _TYPICAL[gib])
        return Card(card.name, gib, card.tflops)
    below = [card for card in CARDS if card.bf16 and card.gib <= gib] or [CARDS[1]]
    return Card(f"a card of {gib:g} GiB", gib, max(below, key=lambda card: card.gib).tflops)

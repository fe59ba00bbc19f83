"""What refining does, and what the article's own calls do: `python -m benchmarks.editing.refining`.

Refining is image to image at a low strength with the same caption. It starts from renderings of the character of
`data_sample`, most with open hands: they are as well-formed as a repair could make them. The LoRA of the character is
one of those that benchmarks of hands keep. "VAE alone" is what the same pictures lose without any drawing. Edges are
the mean step between neighbouring pixels, over that of the picture before.

The article refines by an instruction ("better texture of skin, layers of light") and edits by one ("a watch on the left
hand"). The first is appended to the caption; the second is drawn in the square of the left hand alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.editing.common import Row, column, make_parser, record, record_path, rows_of, write_table
from benchmarks.hands.repair import STORED, test_scenes
from benchmarks.rank.dynamic import detail
from qwenlab.data.keypoints import Keypoints
from qwenlab.editing import img2img, joints_mask, redraw
from qwenlab.editing.latents import from_latents, to_latents
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.lab import world
from qwenlab.lab.editing.scores import psnr
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.statistics import difference, mean, ratio_table, share
from qwenlab.lora.io import load_lora
from qwenlab.model.generation import native_size
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

LORA = STORED / "plain-0.safetensors"
WEIGHTS = (MICRO_WEIGHTS, *JUDGE, LORA)
GUIDANCE, SEED = 2.5, 63_000
TEXTURE, WATCH = ", 提高皮肤质感和光影层次", ", 左手戴手表"  # the article's words
STRENGTHS = (0.2, 0.35)
BEFORE, VAE = "before", "VAE alone"
WAYS = (
    BEFORE, VAE, *(f"refined {s:g}" for s in STRENGTHS), "refined 0.35, the article's words", "left hand drawn again",
)  # fmt: skip


def changed(pipeline: Any, way: str, picture: world.Picture, caption: str, seed: int, steps: int) -> np.ndarray:
    """(H, W, 3) uint8: what a way makes of a rendering."""
    image = Image.fromarray(picture.image)
    drawing = {"seed": seed, "steps": steps, "guidance": GUIDANCE}
    if way == BEFORE:
        return picture.image
    if way == VAE:
        return np.asarray(from_latents(pipeline, to_latents(pipeline, image)))
    if way == "left hand drawn again":
        return np.asarray(redraw(pipeline, image, left_hand(picture), caption + WATCH, strength=0.8, **drawing))
    strength = float(way.split()[1].rstrip(","))
    words = TEXTURE if way.endswith("words") else ""
    return np.asarray(img2img(pipeline, image, caption + words, strength=strength, **drawing))


def left_hand(picture: world.Picture) -> Image.Image:
    """The mask of the character's own left hand, from the rendering's keypoints."""
    return joints_mask(Keypoints(picture.image.shape[1::-1], picture.body, picture.hands, picture.feet), "left hand")


def measure(pipeline: Any, judge: Judge, way: str, found: list[world.Scene], steps: int) -> list[Row]:
    """What the judge reads of each picture, and how it differs from the one before."""
    pictures = [world.render(scene, native_size(pipeline)) for scene in found]
    captions = [world.caption(scene) for scene in found]
    drawn = [
        changed(pipeline, way, picture, caption, SEED + number, steps)
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
    ]
    rows, kept = [], judge.read([picture.image for picture in pictures])
    for picture, image, reading, old in zip(pictures, drawn, judge.read(drawn), kept, strict=True):
        same = [reading.attributes.get(name) == value for name, value in old.attributes.items()]
        row: Row = {
            "right": sum(hand.reading == "5" for hand in reading.hands), "hands": len(reading.hands),
            "feet": int(reading.feet == "2") if old.feet == "2" else None, "attributes": float(np.mean(same)),
            "edges": detail([Image.fromarray(image)]) / detail([Image.fromarray(picture.image)]),
            "psnr": psnr(image, picture.image),
        }  # fmt: skip
        if way == "left hand drawn again":
            touched = grow_to_tokens(np.asarray(left_hand(picture)) > 0)
            change = np.abs(image.astype(int) - picture.image).max(-1)
            row |= {"left": float(change[touched].mean()), "outside": int(change[~touched].max(initial=0))}
        rows.append(row)
    return rows


def summary(rows: list[Row], before: list[Row]) -> dict[str, Any]:
    """Shares and means, and differences to the pictures before; hands are counted against those read before."""
    there = column(before, "hands")
    hands = [ratio_table(np.minimum(column(part, "right"), there), there) for part in (rows, before)]
    feet = [row["feet"] for row in rows if row["feet"] is not None]
    result = {
        "right hands": mean(hands[0], span=1), "hands read": int(column(rows, "hands").sum()),
        "right feet": share(np.array(feet)), "attributes read as before": mean(column(rows, "attributes"), span=1),
        "edges": float(column(rows, "edges").mean()), "psnr": float(column(rows, "psnr").mean()),
    }  # fmt: skip
    if rows is not before:
        result["right hands, minus before"] = difference(*hands, span=1)
    if "outside" in rows[0]:
        result |= {
            "largest difference outside": int(column(rows, "outside").max()),
            "mean difference inside": float(column(rows, "left").mean()),
        }
    return result


def shows_left_hand(scene: world.Scene) -> bool:
    """Whether all joints of the left hand are seen."""
    return bool((world.render(scene).hands[1, :, 2] > 0).all())


def main() -> None:
    parser = make_parser(__doc__, "refining", 64)
    options = parser.parse_args()
    paths = {way: record_path(options.records, "refining", way) for way in WAYS}
    config = {"count": options.count, "steps": options.steps, "guidance": GUIDANCE, "seed": SEED, "lora": LORA.name}
    if not options.table:
        pipeline, judge = load_pipeline("micro"), load_judge()
        load_lora(pipeline, LORA)
        found = [scene for scene in test_scenes(4 * options.count, SEED) if shows_left_hand(scene)][: options.count]
        for way, path in paths.items():
            record(path, partial(measure, pipeline, judge, way, found, options.steps), config | {"way": way}, WEIGHTS)
    rows = {way: rows_of(path) for way, path in paths.items()}
    write_table(options.out, {way: summary(found, rows[BEFORE]) for way, found in rows.items()}, config, WEIGHTS)


if __name__ == "__main__":
    main()

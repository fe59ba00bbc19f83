"""Are the judges honest? Hands and feet that models drew, labelled by eye.

Squares are shuffled and shown without way or reading. Not quite blind: what was drawn again has the white rim of its
close-ups, and the detector that cuts squares is the one that repairs. The pictures are those of `hand_repair`.

    python -m benchmarks.hands.labels sheets runs/labels    # numbered squares to look at, shuffled
    python -m benchmarks.hands.labels score                 # labels.json against the readings of both judges

There are two sets: `hand_labels` of several ways, none of which redraws feet (an earlier recipe is among them), and
`redrawn_labels` of the recipe and the plain LoRA, full-body prompts alone. Before the second was labelled both judges'
totals of the recipe's 256 pictures had been read, and sixty of its pairs of feet had been seen with the marks of
`FormNet`; no reading of a single square by a judge had.

A folder holds the pictures (WebP, a column of 100 in each file), `units.json` (which square of which picture a number
stands for), `origin.json` (the way that drew each picture, to be opened last) and `labels.json` ("wrong": numbers of
hands or feet that are not well-formed, "unclear": left out; all others are right). `score` also counts how many
drawings of bare feet the second judge calls right after the autoencoder; all of them are.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.data.regions import Region
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.hands.captions import shows_hands
from qwenlab.hands.finder import find_regions, load_finder
from qwenlab.hands.squares import cut
from qwenlab.lab import world
from qwenlab.lab.judge import load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.judge.second import WEIGHTS as SECOND
from qwenlab.lab.judge.second import SecondJudge, load_second_judge
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.results import stamp_result
from qwenlab.model.micro_weights import MICRO_WEIGHTS

DATA = REPOSITORY / "benchmarks" / "hands" / "data" / "hand_labels"
REDRAWN = DATA.with_name("redrawn_labels")
RESULT = REPOSITORY / "benchmarks/hands/labels.json"
SEED, A_FILE, CELL, COLUMNS, ROWS = 500, 100, 160, 10, 7


def collect(
    columns: dict[str, list[Image.Image]], scenes: list[world.Scene], count: int, data: Path, full_body: bool = False
) -> None:
    """Draw `count` pictures from those of several ways, shuffled, and write pictures, units and origin into `data`.

    full_body: only of prompts that ask for it, so that each shows feet.
    """
    rng = np.random.default_rng(SEED)
    names = sorted(columns)
    among = [k for k, s in enumerate(scenes) if not full_body or s.framing == "全身"]
    picks = [(names[k % len(names)], among[int(rng.integers(len(among)))]) for k in range(2 * count)]
    picks = list(dict.fromkeys(picks))[:count]
    picks = [picks[k] for k in rng.permutation(len(picks))]
    data.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(picks), A_FILE):
        part = [columns[name][index] for name, index in picks[start : start + A_FILE]]
        column = Image.new("RGB", (part[0].width, part[0].height * len(part)))
        for k, image in enumerate(part):
            column.paste(image, (0, k * image.height))
        column.save(data / f"pictures-{start // A_FILE}.webp", quality=90, method=6)
    finder, units = load_finder(), []
    for number, (image, (_, index)) in enumerate(zip(pictures(data), picks, strict=True)):
        scene = scenes[index]
        for region in find_regions(finder, [image])[0]:
            wanted = shows_hands(world.caption(scene)) if region.kind == "hand" else scene.framing == "全身"
            left, top, right, bottom = region.box()
            whole = min(left, top) > -4 and max(right, bottom) < image.width + 4
            if wanted and (whole or region.kind == "feet"):
                units.append({"picture": number, "region": asdict(region)})
    order = [k for kind in ("hand", "feet") for k in rng.permutation(len(units)).tolist()
             if units[k]["region"]["kind"] == kind]  # fmt: skip
    atomic_write_json(data / "units.json", [units[k] for k in order])
    atomic_write_json(data / "origin.json", [name for name, _ in picks])


def pictures(data: Path = DATA) -> list[Image.Image]:
    """The labelled pictures, in their order."""
    found = []
    for path in sorted(data.glob("pictures-*.webp")):
        with Image.open(path) as column:
            whole = column.convert("RGB")
        side = whole.width
        found += [whole.crop((0, k * side, side, (k + 1) * side)) for k in range(whole.height // side)]
    return found


def units(data: Path = DATA) -> list[tuple[int, Region]]:
    """The labelled squares: picture and region."""
    rows = json.loads((data / "units.json").read_text(encoding="utf-8"))
    return [(row["picture"], Region(**row["region"])) for row in rows]


def draw_sheets(out: Path, data: Path = DATA) -> int:
    """Write the squares, large and numbered, as PNG files; returns how many squares there are."""
    out.mkdir(parents=True, exist_ok=True)
    images, squares = pictures(data), units(data)
    for start in range(0, len(squares), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * CELL, ROWS * CELL), "white")
        draw = ImageDraw.Draw(sheet)
        for k, (number, region) in enumerate(squares[start : start + COLUMNS * ROWS]):
            x, y = k % COLUMNS * CELL, k // COLUMNS * CELL
            sheet.paste(cut(images[number], region, CELL - 4, 1.25), (x, y))
            draw.rectangle((x, y, x + 26, y + 12), fill="white")
            draw.text((x + 2, y), str(start + k), fill="black")
        sheet.save(out / f"sheet-{start // (COLUMNS * ROWS):02d}.png")
    return len(squares)


def score(data: Path = DATA) -> dict[str, Any]:
    """How the readings of both judges agree with the labels: confusion counts, agreement, disagreements."""
    images, squares = pictures(data), units(data)
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    wrong, unclear = set(labels["wrong"]), set(labels["unclear"])
    origin = json.loads((data / "origin.json").read_text(encoding="utf-8"))
    first, second = load_judge().read(images), load_second_judge().read(images)
    result: dict[str, Any] = {}
    for judge in ("first", "second"):
        for kind in ("hand", "feet"):
            counts = {"right": 0, "wrong": 0, "right_read_right": 0, "wrong_read_wrong": 0}
            disagreements, unread = [], 0
            right_of: dict[str, list[int]] = {}  # way -> right ones that are read so, right ones
            for number, (which, region) in enumerate(squares):
                if region.kind != kind or number in unclear:
                    continue
                if kind == "feet":
                    answer = (first if judge == "first" else second)[which].feet
                elif judge == "first":
                    answer = _nearest([(h.x, h.y, h.reading) for h in first[which].hands], region)
                else:
                    answer = _nearest([(r.x, r.y, found) for r, found in second[which].hands], region)
                if answer is None:
                    unread += 1
                    continue
                label = "wrong" if number in wrong else "right"
                reading = "right" if answer == ("5" if kind == "hand" else "2") else "wrong"
                counts[label] += 1
                counts[f"{label}_read_{label}"] += label == reading
                if label == "right":
                    pair = right_of.setdefault(origin[which], [0, 0])
                    pair[0] += reading == "right"
                    pair[1] += 1
                if label != reading:
                    disagreements.append({"number": number, "label": label, "read": answer, "way": origin[which]})
            total = counts["right"] + counts["wrong"]
            agreed = counts["right_read_right"] + counts["wrong_read_wrong"]
            result[f"{judge} judge, {kind}"] = counts | {
                "agreement": agreed / total, "unread": unread, "right_of": right_of, "disagreements": disagreements,
            }  # fmt: skip
    return result


def feet_by_eye(data: Path) -> dict[str, dict[str, int]]:
    """How many pairs of feet of each way the labels call right, wrong and unclear."""
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    origin = json.loads((data / "origin.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, int]] = {}
    for number, (which, region) in enumerate(units(data)):
        if region.kind == "feet":
            label = next((name for name in ("wrong", "unclear") if number in labels[name]), "right")
            row = found.setdefault(origin[which], {"right": 0, "wrong": 0, "unclear": 0})
            row[label] += 1
    return found


def bare_feet_drawn_right(judge: SecondJudge, count: int = 200) -> dict[str, int]:
    """How many of `count` right drawings of bare feet a judge calls right after the autoencoder."""
    rng = np.random.default_rng(SEED + 1)
    scenes = [world.sample_character_scene(rng, feet="光脚", framing="全身") for _ in range(count)]
    drawn = np.stack([world.render(scene, 128).image for scene in scenes])
    images = [Image.fromarray(image) for image in round_trip(drawn, load_vae(MICRO_WEIGHTS))]
    return {"drawn_right": count, "read_right": sum(reading.feet == "2" for reading in judge.read(images))}


def _nearest(found: list[tuple[float, float, str]], region: Region) -> str | None:
    """The reading of the hand nearest to a region, if one lies inside it."""
    near = [(np.hypot(x - region.x, y - region.y), answer) for x, y, answer in found]
    near = [pair for pair in near if pair[0] < region.side / 2]
    return min(near)[1] if near else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sheets = commands.add_parser("sheets")
    sheets.add_argument("out", type=Path)
    sheets.add_argument("--collect", nargs="+", metavar="WAY-SEED", help="take the pictures anew from the benchmark")
    sheets.add_argument("--count", type=int, default=500)
    sheets.add_argument("--redrawn", action="store_true", help="the second set, full-body prompts alone")
    commands.add_parser("score")
    options = parser.parse_args()
    if options.command == "sheets":
        data = REDRAWN if options.redrawn else DATA
        if options.collect:
            from benchmarks.hands.repair import Bench, config

            bench = Bench(REPOSITORY / "runs" / "hand_repair", 256, config())
            columns = {name: bench.pictures(*_split(name)) for name in options.collect}
            collect(columns, bench.scenes, options.count, data, options.redrawn)
        print(f"{draw_sheets(options.out, data)} squares in {options.out}")
        return
    result = score() | {f"{name}, redrawn": row for name, row in score(REDRAWN).items()}
    drawn = bare_feet_drawn_right(load_second_judge())
    by_eye = {data.name: feet_by_eye(data) for data in (DATA, REDRAWN)}
    stored = result | {"second judge, drawings of bare feet": drawn, "feet by eye": by_eye}
    config = {"labels": [DATA.name, REDRAWN.name]}
    atomic_write_json(RESULT, stamp_result(stored, weights=[*JUDGE, SECOND], config=config))
    print(f"second judge: {drawn['read_right']} of {drawn['drawn_right']} right drawings of bare feet called right")
    for name, row in result.items():
        print(f"{name}: {row['agreement']:.1%} of {row['right'] + row['wrong']} ({row['unread']} not read)")
        for label in ("right", "wrong"):
            print(f"  {label}: {row[f'{label}_read_{label}']} of {row[label]} read so")


def _split(name: str) -> tuple[str, int]:
    way, _, seed = name.rpartition("-")
    return way, int(seed)


if __name__ == "__main__":
    main()

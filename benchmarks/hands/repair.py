"""What repairs hands and feet: `python -m benchmarks.hands.repair`.

Every way is tried on the character of `data_sample`: with three seeds of training for the four ways of the article's
table and the recipe, with one for the others. Each draws the same prompts, of which most ask for open hands, from the
same noise; their pairs of action and background are in no training picture. The judge reads hands, feet, likeness and
attributes; a second judge of another kind reads hands and feet as well. The scores of the pose network, which trains
in some of the ways, and of the network of forms, which chooses in some, stand beside them. Differences to the plain
LoRA are paired by prompt and seed of training; their intervals come from resampling prompts.

The LoRAs of `plain` are stored (`STORED`). Others, and pictures, stay in --work, so that a broken benchmark goes on
where it stopped; what was read in each picture goes into `benchmarks/hands/records/`, one file a way and seed.
Those of `augmentation` and `both` come from LoRAs that saw close-ups of feet half as often, and a fifth smaller, than
`qwenlab.hands.close_ups` cuts them now. Those of the recipe with region weight were drawn with LoRAs of that way that
were trained on an H100. Two processes may share the work (`--ways plain` beside `--ways recipe`). Without --ways
everything that is missing is made, and the table written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.data.size import kept_pictures
from benchmarks.hands.results import RECORDS, read_pictures, spread, write_table
from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import Dataset, read_dataset
from qwenlab.data.regions import write_masks
from qwenlab.files import REPOSITORY, atomic_write_bytes, atomic_write_json, atomic_write_text
from qwenlab.hands import hand_options
from qwenlab.hands.captions import ARTICLE_DETAILS, article_augmentation, shows_bare_feet, shows_hands
from qwenlab.hands.finder import WEIGHTS as FINDER
from qwenlab.hands.finder import find_regions, load_finder
from qwenlab.hands.form_net import FormScore, load_form_net
from qwenlab.hands.pose_net import load_pose_net
from qwenlab.hands.repairing import draw_until_well_formed, repair
from qwenlab.lab import world
from qwenlab.lab.hands.latent_critic import CriticLoss, critic_examples, train_critic
from qwenlab.lab.hands.score import PoseScore
from qwenlab.lab.judge import load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.judge.second import WEIGHTS as SECOND
from qwenlab.lab.judge.second import load_second_judge
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.attributes import BACKGROUNDS, OPEN_HAND_ACTIONS
from qwenlab.lab.world.sample import is_reserved
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.show import encode_image
from qwenlab.training import TrainingSet, encode_dataset, held_out_loss, train_lora

STEPS, LATE_STEPS = 2400, 600  # of the LoRA, of the late phase
HAND_STEPS, FEET_STEPS = 300, 400  # of the LoRAs of close-ups: together a third of the time of STEPS
SAMPLER_STEPS, GUIDANCE, STRENGTH = 20, 2.5, 0.8
PROMPT_SEED, OPEN_HANDS = 71_000, 0.8
STORED = REPOSITORY / "benchmarks" / "hands" / "data" / "loras"


@dataclass(frozen=True)
class Way:
    """One way to draw hands: what it changes in training, on which LoRA it goes on, and how it draws."""

    training: dict[str, Any] | None = None  # None: draws with the LoRA of `after`, or with none
    after: str = ""
    data: Callable[[Dataset], Dataset] = lambda dataset: dataset
    critic: bool = False  # trains with the latent critic in place of the structure loss
    details: str = ""  # appended to the prompts
    negative: str = NEGATIVE_PROMPT
    tries: int = 1  # pictures drawn for each prompt until feet (or hands, as `choose` says) are well-formed
    choose: tuple[str, ...] = ("feet",)
    inpaint: dict[str, str] = field(default_factory=dict)  # kind of region -> the way whose LoRA draws it again
    inpaint_tries: int = 1
    seeds: tuple[int, ...] = (0,)


CLOSE_UPS = {"augment_hands": True}
LATE = {
    "max_train_steps": LATE_STEPS, "use_structural_loss": True, "learning_rate": 1e-3, "warmup_steps": 0,
}  # fmt: skip
# LoRAs of their own that know upright close-ups of one kind and nothing else; they draw without guidance.
ALONE = CLOSE_UPS | {"hand_share": 1.0, "rank": 64, "alpha": 64.0, "caption_dropout": 0.0}
SQUARES = {"hand": "hands", "feet": "bare feet"}  # kind of region -> the LoRA of its close-ups
SHOWN = {"hand": shows_hands, "feet": shows_bare_feet}  # whether a prompt asks for what such a LoRA knows
THREE = (0, 1, 2)
WAYS: dict[str, Way] = {
    "base": Way(),
    "plain": Way({}, seeds=THREE),
    "augmentation": Way(CLOSE_UPS, seeds=THREE),
    "structure": Way(LATE, after="plain", seeds=THREE),
    "both": Way(LATE | CLOSE_UPS, after="augmentation", seeds=THREE),
    # the sweep of the structure loss: its weight (0.3 above), and when it begins: that many steps before the end
    **{f"structure, weight {w:g}": Way(LATE | {"structural_weight": w}, after="plain") for w in (0.2, 0.4, 2.0)},
    "structure, last 200 steps": Way(LATE | {"max_train_steps": 200}, after="plain"),
    "hands": Way(ALONE | {"close_ups": ["hand"], "max_train_steps": HAND_STEPS}, seeds=THREE),
    "bare feet": Way(ALONE | {"close_ups": ["bare_feet"], "max_train_steps": FEET_STEPS}, seeds=THREE),
    "recipe": Way(after="plain", tries=4, inpaint=SQUARES, inpaint_tries=5, seeds=THREE),
    "inpainting": Way(after="plain", inpaint=SQUARES),
    "caption copies": Way({}, data=article_augmentation),
    "longer": Way(LATE | {"use_structural_loss": False}, after="plain"),
    "region weight": Way({"unmasked_weight": 0.3}, seeds=THREE),
    "recipe, region weight": Way(after="region weight", tries=4, inpaint=SQUARES, inpaint_tries=5, seeds=THREE),
    "lower sigmas": Way({"timestep_sampling": "uniform"}),
    "latent critic": Way(LATE, after="plain", critic=True),
    "prompt details": Way(after="plain", details=ARTICLE_DETAILS),
    "negative prompt": Way(after="plain", negative="连指手套, 长袖遮手, 手插口袋"),
    "up to 4 tries": Way(after="plain", tries=4, choose=("hand", "feet")),
    "inpainting, no close-ups": Way(after="plain", inpaint={"hand": "plain", "feet": "plain"}),
}


def config() -> TrainConfig:
    """Of the plain LoRA."""
    small = read_config(REPOSITORY / "configs" / "micro_lora.yaml")
    return replace(small, preview_every_n_steps=0, max_train_steps=STEPS)


def test_scenes(count: int, seed: int = PROMPT_SEED) -> list[world.Scene]:
    """Scenes of the character in pairs of action and background that `data_sample` does not hold."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in OPEN_HAND_ACTIONS for b in BACKGROUNDS if is_reserved(a, b)]
    picks = [pairs[k % len(pairs)] for k in range(count)]
    return [world.sample_character_scene(rng, open_hands=OPEN_HANDS, action=a, background=b) for a, b in picks]


@dataclass
class Bench:
    """The pipeline, the prompts, and the folder of what is finished."""

    work: Path
    count: int
    config: TrainConfig
    model: str = "micro"
    scenes: list[world.Scene] = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = load_pipeline(self.model)
        self.finder, self.form = load_finder(), FormScore(load_form_net())
        self.scenes = test_scenes(self.count)
        self.prompts = [world.caption(scene) for scene in self.scenes]
        self.sample = read_dataset(REPOSITORY / "data_sample")

    def lora(self, name: str, seed: int) -> Path | None:
        """The LoRA of a way, trained if it is missing, with a short record beside it; None for the base.

        Those of the slowest ways are stored in bfloat16 in `STORED`, and taken from there.
        """
        way = WAYS[name]
        if way.training is None:
            return self.lora(way.after, seed) if way.after else None
        stored = STORED / f"{name}-{seed}.safetensors"
        if stored.exists():
            return stored
        folder = self.work / f"{name}-{seed}".replace(" ", "-")
        path = folder / "lora.safetensors"
        if not path.exists():
            config, dataset = self.config_of(name, seed), way.data(self.sample)
            if config.unmasked_weight < 1:
                dataset = self.with_masks(dataset)
            options = hand_options(self.pipeline, config) | ({"extra": self.critic()} if way.critic else {})
            result = train_lora(self.pipeline, config, dataset=dataset, progress=False, **options)
            remove_lora(self.pipeline)
            mean = float(np.mean(result.losses[-100:]))
            record = {"steps": config.max_train_steps, "seconds": result.seconds, "training_loss": mean}
            atomic_write_json(path.with_suffix(".json"), record)
            print(f"{name}, seed {seed}: trained in {result.seconds:.0f} s", flush=True)
        return path

    def critic(self) -> Callable[[int], CriticLoss]:
        """The latent critic, trained anew, as a loss of every step."""
        loss = CriticLoss(train_critic(critic_examples(self.pipeline, 3000), say=False))
        return lambda step: loss

    def config_of(self, name: str, seed: int) -> TrainConfig:
        """How the LoRA of a way that trains is trained."""
        way = WAYS[name]
        changes = dict(way.training or {})
        if way.after:
            changes["init_lora"] = str(self.lora(way.after, seed))
        folder = self.work / f"{name}-{seed}".replace(" ", "-")
        return replace(self.config, seed=seed, output_dir=str(folder), cache_dir=str(self.work / "cache"), **changes)

    def with_masks(self, dataset: Dataset) -> Dataset:
        """A copy of the data set that has masks of hands and feet."""
        import shutil

        folder = self.work / "masked"
        if not (folder / "masks").is_dir():
            shutil.copytree(dataset.folder, folder, dirs_exist_ok=True)
            write_masks(read_dataset(folder))
        return read_dataset(folder)

    def pictures(self, name: str, seed: int) -> list[Image.Image]:
        """The pictures of a way, drawn if they are missing; one PNG of all, a column."""
        path = self.work / f"{name}-{seed}.png".replace(" ", "-")
        if path.exists():
            with Image.open(path) as column:
                side = column.width
                return [column.crop((0, k * side, side, (k + 1) * side)) for k in range(self.count)]
        way = WAYS[name]
        lora = self.lora(name, seed)
        inpaint = {kind: self.lora(needed, seed) for kind, needed in way.inpaint.items()}  # trained now, if at all
        started = time.perf_counter()
        if lora:
            load_lora(self.pipeline, lora)
        images = draw_until_well_formed(
            self.pipeline, [prompt + way.details for prompt in self.prompts],
            [PROMPT_SEED + i for i in range(self.count)],
            lambda drawn: self.marks(drawn, way.choose), tries=way.tries, steps=SAMPLER_STEPS, guidance=GUIDANCE,
            negative_prompt=way.negative,
        )  # fmt: skip
        for kind, of_squares in inpaint.items():
            remove_lora(self.pipeline)
            load_lora(self.pipeline, of_squares)
            wanted = [
                [region for region in found if region.kind == kind and SHOWN[kind](prompt)]
                for found, prompt in zip(find_regions(self.finder, images), self.prompts, strict=True)
            ]
            images = repair(
                self.pipeline, images, self.prompts, range(self.count), wanted, strength=STRENGTH, steps=SAMPLER_STEPS,
                guidance=1.0, tries=way.inpaint_tries, score=self.form if way.inpaint_tries > 1 else None,
            )  # fmt: skip
        seconds = (time.perf_counter() - started) / self.count
        remove_lora(self.pipeline)
        column = Image.new("RGB", (images[0].width, images[0].height * self.count))
        for k, image in enumerate(images):
            column.paste(image, (0, k * image.height))
        atomic_write_json(path.with_suffix(".json"), {"seconds_a_picture": seconds})
        atomic_write_bytes(path, encode_image(column, ".png"))
        print(f"{name}, seed {seed}: drawn, {seconds:.2f} s a picture", flush=True)
        return images

    def marks(self, images: list[Image.Image], kinds: tuple[str, ...]) -> list[float]:
        """How well-formed what is found of `kinds` is: the mean in each picture, 1 where there is nothing."""
        found = self.form.of_pictures(self.finder, images, kinds)
        return [float(np.mean([mark for _, mark in here])) if here else 1.0 for here in found]

    def record(self, name: str, seed: int) -> dict[str, Any]:
        """All that is measured of a way with one seed of training: from `RECORDS`, or anew."""
        path = record_path(name, seed)
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        images = self.pictures(name, seed)
        record: dict[str, Any] = json.loads((self.work / path.name).read_text())  # seconds a picture
        record["steps"] = self.steps(name)
        record["spread of hands"] = spread(images, find_regions(self.finder, images))
        if lora := self.lora(name, seed):
            load_lora(self.pipeline, lora)
            record["held-out loss"] = float(np.mean(list(held_out_loss(self.pipeline, self.held_out()).values())))
            record["training loss"] = json.loads(lora.with_suffix(".json").read_text())["training_loss"]
            remove_lora(self.pipeline)
        record["rows"] = read_pictures(
            images, self.scenes, load_judge(), load_second_judge(), PoseScore(load_pose_net()), self.form, self.finder
        )
        described = {
            "way": name, "seed": seed, "prompts": self.count, "sampler_steps": SAMPLER_STEPS, "guidance": GUIDANCE,
            "strength": STRENGTH, "prompt_seed": PROMPT_SEED, "open_hands": OPEN_HANDS,
        }  # fmt: skip
        command = f"python -m benchmarks.hands.repair --ways '{name}' --seeds {seed}"
        weights = [*JUDGE, SECOND, FINDER.parent, MICRO_WEIGHTS]
        stamped = stamp_result(record, weights=weights, config=described, command=command)
        atomic_write_text(path, json.dumps(stamped, ensure_ascii=False) + "\n")  # 256 rows: not one line a number
        return record

    def steps(self, name: str) -> dict[str, int]:
        """Steps of training of every LoRA that a way needs, those included that others go on from."""
        found: dict[str, int] = {}
        for needed in (name, *WAYS[name].inpaint.values()):
            while needed:
                if WAYS[needed].training is not None:
                    found[needed] = WAYS[needed].training.get("max_train_steps", self.config.max_train_steps)
                needed = WAYS[needed].after
        return found

    def held_out(self) -> TrainingSet:
        """64 renderings of other scenes in the test pairs, encoded."""
        scenes = test_scenes(64, PROMPT_SEED + 1)
        renderings = kept_pictures(self.work / "held_out", scenes, self.config.resolution)
        return encode_dataset(self.pipeline, renderings, self.config, self.work / "cache")


def record_path(name: str, seed: int) -> Path:
    """Where the record of a way with one seed of training lies."""
    return RECORDS / f"{name}-{seed}.json".replace(" ", "-")


def recorded(name: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds of a way of which there are records."""
    return tuple(seed for seed in seeds if record_path(name, seed).exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[], help="make these, and write no result")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(THREE))
    parser.add_argument("--count", type=int, default=256, help="prompts")
    parser.add_argument("--until", choices=("train", "draw", "record"), default="record")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "hand_repair")
    parser.add_argument("--table", action="store_true", help="write the table of what is recorded, make nothing")
    options = parser.parse_args()
    if options.table:
        made = {name: seeds for name, way in WAYS.items() if (seeds := recorded(name, way.seeds))}
        write_table(made, test_scenes(options.count))
        return
    bench = Bench(options.work, options.count, config())
    for name in options.ways or WAYS:
        for seed in sorted(set(WAYS[name].seeds) & set(options.seeds)):
            bench.lora(name, seed)
            if name not in SQUARES.values() and options.until != "train":
                bench.pictures(name, seed)
                if options.until == "record":
                    bench.record(name, seed)
    if not options.ways:
        write_table({name: way.seeds for name, way in WAYS.items() if name not in SQUARES.values()}, bench.scenes)


if __name__ == "__main__":
    main()

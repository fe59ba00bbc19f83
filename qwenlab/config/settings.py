"""The settings of a training run: one dataclass, in which an impossible value is an error."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import typing
import unicodedata
from dataclasses import dataclass, field

from qwenlab.config.control import check_control
from qwenlab.errors import QwenlabError

# Sections only group keys for the reader; every key has one name, whatever section it stands in. In `control` the
# beginning control_ is understood: kind is control_kind.
SECTIONS = ("model", "data", "training", "lora", "control", "preview")
# Written out here, so that a mistake in a file is answered without importing torch; tests compare them with
# the code.
CHOICES = {
    "base_precision": ("", "fp32", "bf16", "int8", "nf4"),
    "close_ups": ("hand", "feet", "bare_feet"),
    "control_kind": ("", "controlnet", "in_context"),
    "control_start": ("img_in", "zero"),
    "apply_to": ("attention-4", "attention-8", "mlp", "attention+mlp", "modulation"),
    "loss_weighting": ("none", "sigma_sqrt", "cosmap"),
    "lr_scheduler": ("cosine", "linear", "constant", "constant_with_warmup"),
    "mixed_precision": ("fp32", "bf16"),
    "optimizer": ("adamw", "adamw_8bit", "prodigy"),
    "resize_mode": ("letterbox", "buckets"),
    "timestep_sampling": ("uniform", "logit_normal", "shifted"),
}
POSITIVE = (
    "resolution", "batch_size_per_gpu", "gradient_accumulation_steps", "max_train_steps", "learning_rate",
    "max_grad_norm", "rank", "alpha", "caption_orders", "text_encoder_alpha", "control_blocks",
)  # fmt: skip
NOT_NEGATIVE = (
    "warmup_steps", "weight_decay", "save_every_n_steps", "preview_every_n_steps", "preview_steps", "seed",
    "validate_every_n_steps", "keep_checkpoints", "transformer_lr_ratio", "text_encoder_lr_ratio", "prior_weight",
    "text_encoder_rank", "modulation_timesteps", "structural_weight", "structural_from_step", "rank_warmup_steps",
    "guidance",
)  # fmt: skip
# Beyond these a slip of the keyboard is likelier than a wish, and the run would end in want of memory, if at all.
MOST = {
    "resolution": 4096, "rank": 4096, "text_encoder_rank": 4096, "batch_size_per_gpu": 4096,
    "gradient_accumulation_steps": 4096, "caption_orders": 10_000, "modulation_timesteps": 10_000,
    "max_train_steps": 100_000_000, "learning_rate": 10.0, "preview_steps": 1000, "guidance": 100.0,
}  # fmt: skip
SHARES = ("dropout", "caption_dropout", "validation_share", "ema_decay")
# Settings that do not change the weights.
WITHOUT_EFFECT = (
    "output_dir", "save_every_n_steps", "preview_prompts", "preview_references", "preview_controls",
    "preview_every_n_steps", "preview_steps", "cache_dir", "free_text_encoder", "validate_every_n_steps",
    "keep_checkpoints", "tensorboard", "use_vae",
)  # fmt: skip
# Settings that came later: they count in the hash when they are set, so that older files keep theirs.
LATER = (
    "resize_mode", "random_flip", "caption_orders", "validation_share", "attention_backend", "transformer_lr_ratio",
    "text_encoder_lr_ratio", "loss_weighting", "unmasked_weight", "ema_decay", "prior_dataset", "prior_weight",
    "init_lora", "text_encoder_rank", "text_encoder_alpha", "augment_hands", "hand_share", "close_ups",
    "use_structural_loss", "base_precision", "selective_checkpointing", "modulation_timesteps", "structural_weight",
    "structural_max_sigma", "structural_from_step", "openpose_dir", "rank_schedule", "rank_warmup_steps",
    "rank_by_energy", "dylora", "control_kind", "control_net", "control_blocks", "control_start",
)  # fmt: skip
# Names that other trainers, and the article, use -> what to write here.
ELSEWHERE = {
    "unet_lr_ratio": "transformer_lr_ratio: Qwen-Image has a transformer and no U-Net",
    "xformers_memory_efficient_attention": "attention_backend: xformers",
    "unet_lr": "learning_rate",
    "text_encoder_lr": "text_encoder_lr_ratio, a factor of learning_rate",
    "train_batch_size": "batch_size_per_gpu",
    "network_dim": "rank",
    "network_alpha": "alpha",
    "weighting_scheme": "timestep_sampling (which sigmas) or loss_weighting (how much each counts)",
}
# Values likewise, where the most similar name is not what is meant.
VALUES_ELSEWHERE = {
    ("lr_scheduler", "cosine_with_warmup"): "cosine: warmup_steps come before any schedule",
    ("apply_to", "attn"): "attention-8, the attention of both streams",
    ("apply_to", "ff"): "mlp",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a LoRA run does. Names are the usual ones; an `every_n` of 0 is off."""

    # model
    base: str = "micro"  # what load_pipeline takes: "micro", a folder, "Qwen/Qwen-Image"
    base_precision: str = ""  # fp32, bf16, int8 or nf4 (qwenlab.model.quantize); empty: what load_pipeline chooses
    resolution: int = 128  # side in pixels of a square picture; see resize_mode for others
    use_vae: bool = True  # the transformer knows latents only; there is nothing to switch off
    attention_backend: str = "native"  # or "xformers", ...: qwenlab.model.attention_backends tests it before it is used
    # data
    dataset: str = "data_sample"  # folder with images/ and captions.jsonl
    output_dir: str = "runs/lora"
    trigger: str = ""  # the caption tag that stands for the character; recorded in the file, not used
    caption_dropout: float = 0.1  # share of samples that see the negative prompt instead: keeps guidance working
    # "letterbox": every picture a square, the rest black; "buckets": each cut to the nearest shape of at most
    # resolution x resolution pixels (qwenlab.data.buckets), and no batch mixes shapes
    resize_mode: str = "letterbox"
    random_flip: bool = False  # mirror images too, left and right exchanged in their captions; not with writing in them
    caption_orders: int = 1  # orders of a caption's tags, the first tag in front; 1: as written
    validation_share: float = 0.0  # of the pictures, held out by groups of near duplicates; see validate_every_n_steps
    cache_dir: str = ""  # folder that several runs may share; empty: cache/ in output_dir
    free_text_encoder: bool = False  # give its memory back once captions and preview prompts are encoded
    # Pictures of the class (children, say) that the base drew: they keep the base from forgetting (DreamBooth)
    prior_dataset: str = ""  # folder like dataset; as many of its pictures go into each step
    prior_weight: float = 1.0  # of their loss
    unmasked_weight: float = 1.0  # weight in the loss of what masks/NAME.png leaves black; 1: no masks
    # Close-ups of hands and feet cut from the pictures (qwenlab.hands.close_ups); needs keypoints.jsonl in dataset
    augment_hands: bool = False
    hand_share: float = 0.5  # of the samples that are such close-ups; 1: nothing else
    close_ups: list[str] = field(default_factory=lambda: ["hand", "feet"])
    # training
    batch_size_per_gpu: int = 1
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 1000  # optimizer steps
    learning_rate: float = 1e-4
    transformer_lr_ratio: float = 1.0  # the transformer's rate is learning_rate times this
    text_encoder_lr_ratio: float = 1.0
    lr_scheduler: str = "cosine"
    warmup_steps: int = 0  # optimizer steps
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    timestep_sampling: str = "logit_normal"  # see qwenlab.model.flow.sample_sigmas
    loss_weighting: str = "none"  # of the sigmas: diffusers.training_utils.compute_loss_weighting_for_sd3
    # A loss on the structure of hands and feet in drawings (qwenlab.hands.structure); needs keypoints.jsonl in dataset
    use_structural_loss: bool = False
    structural_weight: float = 0.3
    structural_max_sigma: float = 0.36  # samples with more noise are left out
    structural_from_step: int = 0  # plain training before
    openpose_dir: str = ""  # folder with OpenPose's weights (qwenlab.hands.openpose); empty: the drawn world's network
    modulation_timesteps: int = 0  # from a grid of so many, so that a table replaces the modulation; 0: any
    ema_decay: float = 0.0  # of the average of the weights, which is then what is saved and drawn with; 0: none
    mixed_precision: str = "fp32"
    gradient_checkpointing: bool = False
    selective_checkpointing: bool = False  # with it: keep the attention of each block
    save_every_n_steps: int = 0  # a LoRA file each time, and the state from which --resume goes on
    keep_checkpoints: int = 0  # of these LoRA files the last ones; 0: all. The best by validation is kept besides
    validate_every_n_steps: int = 0  # held-out flow loss; with a validation_share also before and after training
    tensorboard: bool = False  # losses, learning rate and validation in output_dir/logs
    seed: int = 0
    # lora
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    apply_to: list[str] = field(default_factory=lambda: ["attention+mlp"])
    init_lora: str = ""  # LoRA file, of any trainer, from which training goes on
    # Another rank from a step on, such as {267: 12, 533: 8} (qwenlab.lora.rank); alpha / rank stays what it is
    rank_schedule: dict[int, int] = field(default_factory=dict)
    rank_warmup_steps: int = 20  # steps in which the learning rate rises again after a change
    rank_by_energy: bool = False  # a lower rank of the schedule is the mean over layers, shared out by energy
    dylora: bool = False  # each step trains a prefix of random length, so that every prefix of the LoRA works
    text_encoder_rank: int = 0  # of a second LoRA, on the text encoder; 0: the text encoder stays as it is
    text_encoder_alpha: float = 8.0
    # control: a picture of each row that says where things are, such as a skeleton (the column "control")
    # "controlnet": read by a net of its own, which alone is trained, no LoRA; "in_context": clean tokens beside the
    # noisy ones, as a reference is, which a LoRA learns to read
    control_kind: str = ""
    control_net: str = ""  # ControlNet from which training goes on: a folder, or a name on the Hub; empty: a new one
    control_blocks: int = 2  # of a new one, copies of the transformer's first
    control_start: str = "img_in"  # its projection of the control picture: a copy of the one for pictures, or "zero"
    # preview
    preview_prompts: list[str] = field(default_factory=list)
    preview_references: list[str] = field(default_factory=list)  # a picture file for each prompt; "": none
    preview_controls: list[str] = field(default_factory=list)  # a control picture's file for each prompt
    preview_every_n_steps: int = 0  # also before the first step, by the base
    preview_steps: int = 20  # steps of the sampler
    guidance: float = 4.0

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be greater than 0")
        for name in NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be 0 or more")
        for name, most in MOST.items():
            if not getattr(self, name) <= most:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be at most {most}")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be at least 0 and less than 1")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if item not in choices:
                    meant = VALUES_ELSEWHERE.get((name, item))
                    hint = f"; write {meant}" if meant else nearest(item, choices)
                    raise QwenlabError(f"{name}: {item!r} is not {_one_of(choices)}{hint}")
        if self.resolution % 16:
            raise QwenlabError(f"resolution: {self.resolution} is no multiple of 16 (8 for the VAE, 2 for the patches)")
        if self.preview_every_n_steps and not self.preview_prompts:
            raise QwenlabError("preview_every_n_steps: needs preview_prompts, a list of captions to draw")
        if self.preview_references and len(self.preview_references) != len(self.preview_prompts):
            raise QwenlabError(
                f"preview_references: {len(self.preview_references)} for {len(self.preview_prompts)} preview_prompts; "
                "give a picture for each prompt, '' for none"
            )
        if self.preview_every_n_steps and self.preview_steps < 2:
            raise QwenlabError(f"preview_steps: {self.preview_steps} must be 2 or more, one step draws a black picture")
        if self.validate_every_n_steps and not self.validation_share:
            raise QwenlabError("validate_every_n_steps: needs validation_share, the share of pictures to hold out")
        if not 0 <= self.unmasked_weight <= 1:
            raise QwenlabError(f"unmasked_weight: {self.unmasked_weight} must be at least 0 and at most 1")
        if not self.use_vae:
            raise QwenlabError("use_vae: false is impossible, the transformer reads latents of the VAE; leave it true")
        if not 0 < self.hand_share <= 1:
            raise QwenlabError(f"hand_share: {self.hand_share} must be more than 0 and at most 1")
        if not 0 < self.structural_max_sigma <= 1:
            raise QwenlabError(f"structural_max_sigma: {self.structural_max_sigma} must be more than 0 and at most 1")
        if self.selective_checkpointing and not self.gradient_checkpointing:
            raise QwenlabError("selective_checkpointing: is a kind of gradient_checkpointing; set that to true as well")
        if self.modulation_timesteps and "modulation" in self.apply_to:
            raise QwenlabError("modulation_timesteps: the table replaces layers that apply_to trains; leave one out")
        if self.text_encoder_rank and self.free_text_encoder:
            raise QwenlabError("text_encoder_rank: a freed text encoder cannot learn; set free_text_encoder: false")
        if self.text_encoder_rank and self.init_lora:
            raise QwenlabError("init_lora: goes on with a transformer's LoRA only; set text_encoder_rank: 0")
        for step, rank in self.rank_schedule.items():
            if not (1 < step <= self.max_train_steps and 1 <= rank <= MOST["rank"]):
                raise QwenlabError(
                    f"rank_schedule: {step}: {rank} must be a step from 2 to max_train_steps and a rank from 1 to "
                    f"{MOST['rank']}"
                )
        if self.rank_schedule and (self.dylora or self.ema_decay or self.dropout):
            raise QwenlabError("rank_schedule: goes with neither dylora nor ema_decay nor dropout; leave one out")
        if self.rank_by_energy and not self.rank_schedule:
            raise QwenlabError("rank_by_energy: shares out a lower rank of rank_schedule; set that as well")
        if self.dylora and self.text_encoder_rank:
            raise QwenlabError("dylora: trains the transformer's LoRA only; set text_encoder_rank: 0")
        check_control(self)
        if self.warmup_steps >= self.max_train_steps:
            raise QwenlabError(
                f"warmup_steps: {self.warmup_steps} must be less than max_train_steps ({self.max_train_steps})"
            )

    def hash(self) -> str:
        """Sixteen hex digits of every setting that can change the weights."""
        settings = {key: value for key, value in dataclasses.asdict(self).items() if key not in WITHOUT_EFFECT}
        defaults = dataclasses.asdict(TrainConfig())
        for key in LATER:
            if settings[key] == defaults[key]:
                del settings[key]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _one_of(choices: typing.Sequence[str]) -> str:
    return "one of " + ", ".join(choices)


def nearest(name: str, choices: typing.Sequence[str]) -> str:
    """ "; did you mean ...?" with the choice that is most like a name, "" when none is."""
    close = difflib.get_close_matches(unicodedata.normalize("NFKC", name), choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

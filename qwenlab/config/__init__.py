"""The training configuration: a dataclass, `settings`, read from YAML, `reading`, in which every slip is an error."""

from qwenlab.config.reading import config_from_mapping, read_config
from qwenlab.config.settings import CHOICES, SECTIONS, WITHOUT_EFFECT, TrainConfig

__all__ = ["CHOICES", "SECTIONS", "WITHOUT_EFFECT", "TrainConfig", "config_from_mapping", "read_config"]

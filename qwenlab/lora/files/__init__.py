"""LoRA files of every trainer: what they are, what diffusers and ComfyUI do with them, and the same in another layout.

    report = diagnose("style.safetensors")        # print(report), report.diffusers.outcome
    fix("style.safetensors", "style_diffusers.safetensors", "diffusers")

`layouts` takes keys apart, `reading` opens files safely, `readers` asks the loaders, `report` puts it into words,
`writing` rewrites.
"""

from qwenlab.lora.files.reading import LoraFile, read_lora
from qwenlab.lora.files.report import Report, diagnose
from qwenlab.lora.files.writing import FORMATS, check_target, fix

__all__ = ["FORMATS", "LoraFile", "Report", "check_target", "diagnose", "fix", "read_lora"]

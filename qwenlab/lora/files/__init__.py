"""LoRA files of every trainer: what they are, what diffusers and ComfyUI do with them, and the same in another layout.

    report = diagnose("style.safetensors")        # print(report), report.diffusers.outcome
    fix("style.safetensors", "style_diffusers.safetensors", "diffusers")

From the header to the answer: `header` opens files safely, `layouts` takes keys apart with the tables of
`architecture`, `reading`, `adapters` and `leftovers` account for every tensor, `fitting` and `identity` say which model
it is, `comfyui`, `stock_rules`, `readers` and `lokr_loader` what readers do, `report` puts it into words; `writing`,
`converting`, `differences` and `text_encoder` rewrite. torch and diffusers are imported only when a loader is executed.
"""

from qwenlab.lora.files.layouts import FORMATS
from qwenlab.lora.files.reading import LoraFile, read_lora
from qwenlab.lora.files.report import Report, diagnose
from qwenlab.lora.files.writing import Rewritten, check_target, fix

__all__ = ["FORMATS", "LoraFile", "Report", "Rewritten", "check_target", "diagnose", "fix", "read_lora"]

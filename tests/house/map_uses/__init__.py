"""How each file that docs/map.md lets you copy is used where the package is not.

USES: file -> code that runs beside the copy. It finds what PRELUDE and tests/tiny.py define.
"""

from tests.house.map_uses.lower import LOWER
from tests.house.map_uses.upper import UPPER

USES = LOWER | UPPER

PRELUDE = """
from pathlib import Path
from safetensors.torch import save_file
def tiny_inputs():
    return dict(hidden_states=torch.randn(1, 4, 64), encoder_hidden_states=torch.randn(1, 3, 32),
                timestep=torch.tensor([0.5]), img_shapes=[[(1, 2, 2)]], return_dict=False)
STEM = "lora_unet_transformer_blocks_0_attn_to_q"
def kohya_file():
    torch.manual_seed(0)
    save_file({STEM + ".lora_down.weight": torch.randn(2, 192), STEM + ".lora_up.weight": torch.randn(192, 2),
               STEM + ".alpha": torch.tensor(1.0)}, "kohya.safetensors")
    return Path("kohya.safetensors")
"""

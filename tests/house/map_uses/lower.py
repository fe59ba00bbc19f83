"""The ground, `model` and `lora`."""

LOWER = {
    "errors.py": """
from errors import QwenlabError, check_range
check_range("rank", 4, 1, 8)
try:
    check_range("rank", float("nan"), 1, 8)
except QwenlabError as error:
    assert str(error) == "rank nan: must be a number from 1 to 8"
else:
    raise AssertionError("NaN is no rank")
""",
    "files.py": """
from files import atomic_write_bytes, atomic_write_json, atomic_write_text, sha256_file
assert atomic_write_bytes("new/a", b"1").read_bytes() == b"1" and atomic_write_text("b", "二").read_text() == "二"
assert atomic_write_json("c.json", {"a": 1}).read_text() == '{\\n  "a": 1\\n}\\n'
assert sha256_file("new/a").startswith("6b86b273ff34fce1")
""",
    "config/settings.py": """
from settings import TrainConfig
assert TrainConfig(rank=4).hash() != TrainConfig().hash()
""",
    "config/reading.py": """
from reading import config_from_mapping, read_config
Path("a.yaml").write_text("lora:\\n  rank: 4\\n")
assert read_config("a.yaml") == config_from_mapping({"rank": 4}) and config_from_mapping({"rank": 4}).rank == 4
""",
    "sniffing.py": """
from sniffing import decode, file_kind
assert decode("1女孩, 红色连衣裙, 挥手".encode("gb18030")) == ("1女孩, 红色连衣裙, 挥手", "GB18030 (GBK)", ())
assert decode("1女孩".encode("utf-16")).encoding == "UTF-16" and decode(b"\\xe9t\\xe9").text is None
assert file_kind(b"PAR1") == "a Parquet table" and file_kind(b"lora:") == ""
""",
    "show.py": """
from matplotlib.figure import Figure
from PIL import Image
from show import animation, figure_table, grid, image_table, text_table
images = [Image.new("RGB", (20, 10), "red")] * 3
table = image_table(images, ["一", "二", "三"], alt="Three red pictures.", columns=3)
assert table.sheet.size == grid(images, ["1", "2", "3"], columns=3).size and "<li>二</li>" in table.to_html()
assert animation(images, alt="Nothing moves.").to_bytes().startswith(b"\\x89PNG")
assert figure_table(Figure(), alt="An empty figure.").sheet.width > 100
assert text_table([{"a": 1, "b": 0.5}]).splitlines() == ["a     b", "1  0.50"]
""",
    "model/flow.py": """
from flow import (derived_generator, inference_sigmas, interpolate, model_timestep, mu_for_tokens, predict_x0,
                  sample_sigmas, velocity)
x0, noise = torch.randn(2, 2, 3, 4)
sigma = sample_sigmas(2, derived_generator(0, "sigma"))
assert torch.equal(sigma, sample_sigmas(2, derived_generator(0, "sigma"))) and ((sigma > 0) & (sigma < 1)).all()
assert torch.allclose(predict_x0(interpolate(x0, noise, sigma), velocity(x0, noise), sigma), x0, atol=1e-5)
assert model_timestep(torch.tensor(0.3), torch.bfloat16).dtype == torch.bfloat16
config = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192}
sigmas = inference_sigmas(4, 256, config)
assert mu_for_tokens(256, config) == 0.5 and len(sigmas) == 5 and sigmas[0] == 1 and sigmas[-1] == 0
""",
    "model/limits.py": """
from errors import QwenlabError
from limits import check_drawing, check_prompt, check_size, parse_size
pipeline = tiny_pipeline()
check_size(parse_size("64x32")), check_prompt(pipeline, "the color")
check_drawing(steps=20, guidance=4.0, first_seed=0, last_seed=3)
for refused in (lambda: parse_size("100"), lambda: check_prompt(pipeline, "一二三四" * 999),
                lambda: check_drawing(steps=1, guidance=4.0, first_seed=0, last_seed=0)):
    try:
        refused()
    except QwenlabError:
        continue
    raise AssertionError("what the model cannot take passed")
""",
    "model/encoding.py": """
from PIL import Image
from encoding import encode_image, encode_text, image_tensor, pad_texts
pipeline = tiny_pipeline()
mean, std = encode_image(pipeline, image_tensor(Image.new("RGB", (32, 32))))
assert mean.shape == std.shape == (16, 4, 4) and (std > 0).all()
padded, mask = pad_texts([encode_text(pipeline, text) for text in ("1女孩", "1女孩, 挥手")])
assert mask.sum(1)[0] < mask.sum(1)[1] == padded.shape[1] and not padded[~mask].any()
""",
    "model/references.py": """
from PIL import Image
from encoding import encode_image, encode_text, image_tensor
from generation import generate
from references import beside_references, encode_instruction, generate_beside, pack_references
pipeline, red = tiny_pipeline(), Image.new("RGB", (32, 32), "red")
latents, _ = encode_image(pipeline, image_tensor(red))
tokens, shapes = pack_references([[latents, latents]] * 3)
assert tokens.shape == (3, 8, 64) and shapes == [(1, 2, 2)] * 2
beside = generate_beside(pipeline, [red], "1女孩", 5, steps=2)
with beside_references(pipeline.transformer, [latents]):
    assert generate(pipeline, "1女孩", 5, steps=2)[0].tobytes() == beside.tobytes()
assert callable(encode_instruction)
""",
    "model/controlnet.py": """
import tempfile
from controlnet import Controlled, load_controlnet, make_controlnet, save_controlnet, unused_blocks
transformer = tiny_pipeline().transformer
net = make_controlnet(transformer, 1)
assert unused_blocks(1, 2) == 0 and unused_blocks(4, 6) == 1
with tempfile.TemporaryDirectory() as folder:
    again = load_controlnet(save_controlnet(net, folder), transformer)
assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
inputs = dict(hidden_states=torch.randn(1, 4, 64), timestep=torch.tensor([0.5]), img_shapes=[[(1, 2, 2)]],
              encoder_hidden_states=torch.randn(1, 3, 32), return_dict=False)
answer = Controlled(transformer, net)(controlnet_cond=torch.randn(1, 4, 64), **inputs)[0]
assert torch.equal(answer, transformer(**inputs)[0])
""",
    "model/controlled.py": """
from PIL import Image
from diffusers import QwenImageControlNetModel
from controlled import generate_controlled
from generation import generate
pipeline = tiny_pipeline()
heads = dict(attention_head_dim=16, num_attention_heads=2)
net = QwenImageControlNetModel.from_transformer(pipeline.transformer, num_layers=1, **heads)
drawn = generate_controlled(pipeline, net, [Image.new("RGB", (32, 32), "red")], "1女孩", 5, steps=2)
assert drawn[0].tobytes() == generate(pipeline, "1女孩", 5, steps=2)[0].tobytes()
""",
    "model/generation.py": """
from generation import generate, native_size
pipeline = tiny_pipeline()
first, again = (generate(pipeline, ["1女孩", "1男孩"], 5, steps=2)[1] for _ in range(2))
assert first.size == (native_size(pipeline),) * 2 == (32, 32) and first.tobytes() == again.tobytes()
""",
    "model/mmdit.py": """
from mmdit import MMDiT, MMDiTConfig, pack, unpack
latents = torch.randn(1, 16, 4, 6)
model = MMDiT(MMDiTConfig(num_layers=1, num_attention_heads=2, attention_head_dim=16, joint_attention_dim=8,
                          axes_dims_rope=(4, 6, 6)))
out = model(pack(latents), torch.randn(1, 3, 8), torch.tensor([0.5]), (2, 3))
assert torch.equal(unpack(pack(latents), (2, 3)), latents) and out.shape == (1, 6, 64) and out.isfinite().all()
""",
    "model/vae2d.py": """
from vae2d import decode_still, fold_causal_vae, unfold_causal_vae
vae = tiny_pipeline().vae
z = torch.randn(1, 16, 4, 4)
with torch.no_grad():
    stock = vae.decode(z[:, :, None]).sample[:, :, 0]
    folded = decode_still(fold_causal_vae(vae), z)
    assert torch.allclose(folded.clamp(-1, 1), stock, atol=1e-4)
    assert torch.equal(unfold_causal_vae(vae).decode(z[:, :, None]).sample[:, :, 0], stock)
""",
    "model/quantize.py": """
from quantize import quantise, quantise_linear, weight_precision
model = torch.nn.Module()
model.transformer_blocks = torch.nn.ModuleList([torch.nn.Linear(64, 64)])
x, layer = torch.randn(2, 64), model.transformer_blocks[0]
exact = layer(x)
assert (quantise_linear(layer, "nf4", "cpu")(x) - exact).norm() < 0.2 * exact.norm()
assert weight_precision(model) == "fp32" and quantise(model, "int8") == 1 and weight_precision(model) == "int8"
assert (model.transformer_blocks[0](x) - exact).norm() < 0.02 * exact.norm()
""",
    "model/modulation.py": """
from modulation import ModulationTable, pipeline_timesteps, unbind
pipeline = tiny_pipeline()
transformer, steps = pipeline.transformer, pipeline_timesteps(pipeline, 3, (32, 32))
inputs = tiny_inputs() | {"timestep": steps[1:2]}
with torch.no_grad():
    before = transformer(**inputs)[0]
    table = ModulationTable.load(ModulationTable.of(transformer, steps).save("table.safetensors"))
    table.bind(transformer)
    assert torch.equal(transformer(**inputs)[0], before)
    unbind(transformer)
    assert torch.equal(transformer(**inputs)[0], before)
""",
    "model/attention_backends.py": """
from attention_backends import attention_backend, check_attention_backend, padding_leak
assert padding_leak("native", "cpu", torch.float32) < 1e-4
with attention_backend(tiny_pipeline().transformer, "native"):
    check_attention_backend("native", "cpu", torch.float32)
try:
    check_attention_backend("nativ", "cpu", torch.float32)
except Exception as error:
    assert "did you mean 'native'" in str(error), error
else:
    raise AssertionError("an unknown backend passed")
""",
    "model/attention_maps.py": """
from PIL import Image
from attention_maps import attention_maps, overlay
maps = attention_maps(tiny_pipeline(), "the color, the shape", torch.randn(16, 4, 4))
heat = maps.read_by("color")
assert heat.shape == (2, 2) and (heat > 0).all() and overlay(Image.new("RGB", (32, 32)), heat).size == (32, 32)
""",
    "lora/targets.py": """
from targets import target_modules
assert target_modules("attention-4") == ["to_q", "to_k", "to_v", "to_out.0"]
""",
    "lora/layers.py": """
from layers import LoRALinear, inject_lora, lora_state, merge_lora, unwrap_lora
from targets import target_modules
model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 8)})
x, base = torch.randn(2, 8), model["to_q"]
before = base(x)
factors = inject_lora(model, ["to_q"], rank=2, alpha=4)
assert isinstance(model["to_q"], LoRALinear) and torch.equal(model["to_q"](x), before)
factors["to_q.lora_B.weight"].data.normal_()
after = model["to_q"](x)
assert not torch.allclose(after, before) and lora_state(model)["to_q.lora_A.weight"].shape == (2, 8)
unwrap_lora(model)
assert torch.equal(model["to_q"](x), before)
inject_lora(model, ["to_q"], rank=2, alpha=4)["to_q.lora_B.weight"].data.copy_(factors["to_q.lora_B.weight"])
merge_lora(model)
assert model["to_q"] is base and torch.allclose(base(x), after, atol=1e-5)
""",
    "lora/files/layouts.py": """
from layouts import parse_key
key = parse_key("lora_unet_transformer_blocks_0_attn_to_out_0.lora_down.weight")
assert (key.role, key.layer, key.prefix) == ("A", "transformer_blocks.0.attn.to_out.0", "lora_unet_")
""",
    "lora/files/reading.py": """
from reading import open_tensors, read_factors, read_lora
lora = read_lora(kohya_file())
(layer,) = lora.layers.values()
assert (layer.rank, layer.scaling, lora.model.name) == (2, 0.5, "micro")
with open_tensors(lora.path) as file:
    assert [factor.shape for factor in read_factors(file, layer)] == [(2, 192), (192, 2)]
""",
    "lora/files/header.py": """
from header import TensorFile, open_safely
with open_safely(kohya_file(), "pt") as file:
    a = file.get_tensor(STEM + ".lora_down.weight")
assert (TensorFile(kohya_file()).array(STEM + ".lora_up.weight").shape, a.shape) == ((192, 2), (2, 192))
""",
    "lora/files/stock_rules.py": """
from reading import read_lora
from stock_rules import predict_diffusers
assert predict_diffusers(read_lora(kohya_file())).works
""",
    "lora/files/readers.py": """
from readers import ask_diffusers
from reading import read_lora
assert ask_diffusers(read_lora(kohya_file())).works
""",
    "lora/files/comfyui.py": """
from comfyui import ask_comfyui
from reading import read_lora
assert ask_comfyui(read_lora(kohya_file())).works
""",
    "lora/files/report.py": """
from report import diagnose
text = str(diagnose(kohya_file()))
assert "kohya" in text and "scaling 0.5" in text and "ComfyUI" in text, text
""",
    "lora/files/writing.py": """
from safetensors.torch import load_file
from writing import check_target, fix
check_target(kohya_file(), "out.safetensors", "diffusers")
old, new = load_file(kohya_file()), load_file(fix(kohya_file(), "out.safetensors").lora)
a, b = (new["transformer.transformer_blocks.0.attn.to_q.lora_" + side + ".weight"] for side in "AB")
assert torch.allclose(b @ a, 0.5 * old[STEM + ".lora_up.weight"] @ old[STEM + ".lora_down.weight"], atol=1e-5)
""",
    "lora/fusion/sources.py": """
from sources import Source, parse_source
source = parse_source("a.safetensors:0.5")
assert source == Source(Path("a.safetensors"), 0.5) and source.weight_of("transformer_blocks.0.attn.to_q") == 0.5
""",
    "lora/fusion/sampling.py": """
from sampling import composing, switching
class Pipe:
    def __init__(self):
        self.transformer, self.on = torch.nn.Module(), []
        self.transformer.forward = lambda timestep, return_dict: (torch.tensor(float(self.on == ["b"])),)
    def set_adapters(self, names, weights):
        self.on = names
pipe, seen = Pipe(), []
with switching(pipe, {"a": 1.0, "b": 1.0}):
    for time in (1.0, 0.5, 0.2):
        pipe.transformer(timestep=torch.tensor([time]), return_dict=False)
        seen += pipe.on
assert seen == ["a", "b", "a"] and pipe.on == ["a", "b"]
Pipe.__init__(pipe)
stock = pipe.transformer.forward
with composing(pipe, {"a": 1.0, "b": 1.0}):
    assert pipe.transformer.forward(timestep=None)[0] == 0.5
""",
    "lora/fusion/stream.py": """
from safetensors.torch import load_file
from stream import write_tensors
parts = {name: torch.randn(2, 3) for name in "ab"}
found = load_file(write_tensors("a.safetensors", parts, iter(parts.items()), {"format": "pt"}))
assert found.keys() == parts.keys() and all(torch.equal(found[name], parts[name]) for name in parts)
""",
    "lora/rank/factors.py": """
from factors import compress, energy_by_rank, grow, rank_for, spectrum, truncate
pair = torch.randn(4, 10), torch.randn(12, 4)
update = pair[1] @ pair[0]
(a, b), kept = compress(pair, 2)
assert torch.allclose(b @ a, truncate(update, 2), atol=1e-4) and abs(kept - energy_by_rank(update)[1]) < 1e-5
assert torch.allclose(spectrum(pair)[1].float(), torch.linalg.svdvals(update)[:4], atol=1e-4)
assert rank_for(pair, kept) == 2 and torch.equal(grow(pair, 6)[1] @ grow(pair, 6)[0], update)
""",
}

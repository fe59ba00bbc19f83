"""`data`, `captions` and the rooms above `lora`."""

UPPER = {
    "editing/instructing.py": """
from PIL import Image
from instructing import instruct
drawn = instruct(tiny_pipeline(), [Image.new("RGB", (32, 16), "red")], "1女孩", seed=5, steps=2)
assert drawn.size == (32, 16)
""",
    "editing/history.py": """
from PIL import Image
from history import History, SessionFolder, StoredFile, Turn
folder = SessionFolder("session")
folder.create(History({"name": "mine"}))
turn = Turn(1, None, "start", "1女孩", StoredFile("none", ""), (1, 1))
folder.add(folder.read(), turn, Image.new("RGB", (4, 2), "red"), None)
(found,) = SessionFolder("session").read().turns
assert found.size == (4, 2) and folder.picture(found).getpixel((3, 1)) == (255, 0, 0)
""",
    "data/images.py": """
from PIL import Image
from images import fit_image, image_size, open_image
Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save("a.png")
image = open_image("a.png")
assert image.getpixel((0, 0)) == (255, 255, 255) and image_size("a.png") == image.size == (8, 4)
assert fit_image(image, (8, 8)).getpixel((0, 0)) == (0, 0, 0)
""",
    "data/colour.py": """
from PIL import Image, ImageCms
from colour import png_colours, profile_of, to_srgb
image = Image.new("RGB", (2, 2), "red")
image.save("a.png")
assert png_colours("a.png") == ""
assert profile_of(image) is None
data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
for old, new in ((b"rXYZ", b"----"), (b"gXYZ", b"rXYZ"), (b"----", b"gXYZ")):  # red and green change places
    data = data.replace(old, new)
image.info["icc_profile"] = data
red, green, blue = to_srgb(image, profile_of(image)).getpixel((0, 0))
assert green > 250 and red < 5 and blue < 5
""",
    "data/check/duplicates.py": """
import numpy as np
from PIL import Image
from duplicates import near_duplicate_groups
for name, seed, size in (("a", 0, 64), ("b", 1, 64), ("c", 0, 96)):
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize((size, size)).save(name + ".png")
assert near_duplicate_groups(["a.png", "b.png", "c.png"]) == [0, 1, 0]
""",
    "data/reader/records.py": """
from PIL import Image
from records import read_folder
Image.new("RGB", (2, 2), "red").save("a.png")
Path("a.txt").write_text("1女孩, 挥手")
(record,) = read_folder(".").records
assert (record.path.name, record.text) == ("a.png", "1女孩, 挥手")
""",
    "data/buckets.py": """
from PIL import Image
from buckets import (assign_buckets, can_flip, fit_to_bucket, flip, lost_share, make_buckets, nearest_bucket,
                     shuffled_captions, split_by_group)
buckets = make_buckets(128)
bucket = nearest_bucket((300, 200), buckets)
assert bucket == (160, 96) and list(assign_buckets([(300, 200)], buckets)) == [bucket]
assert fit_to_bucket(Image.new("RGB", (300, 200)), bucket).size == bucket and 0 < lost_share((300, 200), bucket) < 0.2
assert split_by_group([0, 0, 1, 2], 0.25)[1] in ([2], [3]) and can_flip("左手") and not can_flip("招牌")
assert flip(Image.new("RGB", (2, 2)), "左手")[1] == "右手"
assert sorted(shuffled_captions("1女孩, 短发, 挥手", 2)) == ["1女孩, 挥手, 短发", "1女孩, 短发, 挥手"]
""",
    "data/keypoints.py": """
import numpy as np
from keypoints import Keypoints, read_keypoints, write_keypoints
joints = Keypoints((64, 48), np.ones((18, 3)), np.ones((2, 21, 3)), np.ones((2, 3, 3)))
write_keypoints(Path("."), {"a.png": joints})
found = read_keypoints(".")["a.png"]
assert found.size == (64, 48) and np.array_equal(found.hands, joints.hands)
""",
    "captions/template.py": """
from template import Character, build, parse
text = build([Character(1, "女孩", hair=("黑色短发",), action=("挥手",))], background="花园")
assert text == "1女孩, 黑色短发, 挥手, 背景:花园"
caption = parse(text)
assert caption.characters[0].hair == ("黑色短发",) and caption.background == ("花园",)
""",
    "captions/normal.py": """
from normal import normalise
text, findings = normalise("1女孩，長髮")
assert text == "1女孩,长发" and {f.rule for f in findings} == {"fullwidth-punctuation", "traditional-character"}
""",
    "captions/length.py": """
from length import check_length, count_tokens, estimate_tokens
tokenizer = tiny_pipeline().tokenizer
assert count_tokens("the color", tokenizer) == len(tokenizer("the color")["input_ids"])
assert estimate_tokens("1女孩, 长发") > 4 and check_length("长发") == []
assert check_length("长" * 3000)[0].rule == "too-long"
""",
    "captions/linter.py": """
from linter import fix, lint
assert [finding.rule for finding in lint("1女孩，長髮")] == ["fullwidth-punctuation", "traditional-character"]
assert fix("1女孩，長髮") == ("1女孩, 长发", 2) and lint("1女孩, 长发") == []
""",
    "captions/sets.py": """
from sets import fix_set, lint_set
captions = ["1女孩, 长发", "1女孩，长发"]
assert lint_set(captions).findings and not lint_set(captions[:1]).findings
assert fix_set(captions)[0] == ["1女孩, 长发"] * 2
""",
    "captions/vocabulary.py": """
from vocabulary import english
assert english("1女孩, 橙色狐耳卷发, 背景:花园") == "1 girl, orange curls with fox ears, background: garden"
""",
    "training/checkpoint.py": """
from checkpoint import load_checkpoint, save_checkpoint
def trained():
    weight = torch.nn.Parameter(torch.ones(3))
    return weight, torch.optim.AdamW([weight])
def step(weight, optimizer):
    weight.grad = weight.detach() + 1
    optimizer.step()
weight, optimizer = trained()
step(weight, optimizer)
save_checkpoint(Path("a.safetensors"), step=1, tensors={"w": {"x": weight}}, optimizer=optimizer, recipe={"rate": 1})
other, fresh = trained()
saved = load_checkpoint(Path("a.safetensors"), optimizer=fresh, recipe={"rate": 1})
other.data.copy_(saved.tensors["w"]["x"])
step(weight, optimizer), step(other, fresh)
assert saved.step == 1 and torch.equal(weight, other)
""",
    "training/overfitting.py": """
import numpy as np
from PIL import Image
from overfitting import copied_share, distances, diversity, frechet_distance, psnr
rng = np.random.default_rng(0)
a, b, c = ([Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)) for _ in range(4)] for _ in range(3))
assert copied_share(a, a, c) == 1 and copied_share(b, a, b) <= 0.25 and diversity([a]) > 0
assert np.allclose(distances(a, a).diagonal(), 0, atol=1e-6) and psnr(a[0], a[0]) == float("inf") > psnr(a[0], b[0])
features = rng.normal(size=(50, 3))
assert abs(frechet_distance(features, features)) < 1e-6 < 0.9 < frechet_distance(features, features + 1)
""",
    "training/observers.py": """
from observers import Observer
class Last(Observer):
    def on_step(self, step, loss, learning_rate):
        self.step = step
last = Last()
last.on_step(3, 0.5, 1e-4), last.on_validation(3, {0.5: 1.0}), last.on_end()
assert last.step == 3
""",
    "training/dashboard.py": """
from dashboard import Dashboard
dashboard = Dashboard()
dashboard.on_validation(0, {0.5: 2.0}), dashboard.on_step(1, 0.5, 1e-4), dashboard.on_validation(1, {0.5: 1.0})
assert dashboard.best_step == 1 and "after step 1" in dashboard.picture().alt
""",
    "training/fast.py": """
from fast import fast_forward
from layers import inject_lora
transformer = tiny_pipeline().transformer
factors = inject_lora(transformer, ["to_q", "img_mlp.net.2"], rank=2, alpha=2)
for factor in factors.values():
    factor.data.normal_(std=0.1)
inputs = tiny_inputs()
def loss_and_gradients():
    loss = transformer(**inputs)[0].square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(factors.values()))]
stock = loss_and_gradients()
with fast_forward(transformer):
    fast = loss_and_gradients()
assert all(torch.allclose(x, y, atol=1e-5, rtol=1e-3) for x, y in zip(stock, fast, strict=True))
""",
    "training/lean.py": """
from lean import lean_forward
transformer = tiny_pipeline().transformer.bfloat16().requires_grad_(False)
inputs = {name: x.bfloat16() if torch.is_tensor(x) else x for name, x in tiny_inputs().items()}
x = inputs["hidden_states"].requires_grad_()
def answer_and_slope():
    y = transformer(**inputs)[0]
    return y.detach(), torch.autograd.grad(y.float().sum(), x)[0]
plain = answer_and_slope()
with lean_forward(transformer):
    assert "forward" in vars(transformer.transformer_blocks[0].attn.norm_q)
    lean = answer_and_slope()
assert torch.equal(lean[0], plain[0]) and torch.allclose(lean[1], plain[1], rtol=0.1, atol=0.1)
""",
    "training/gradient_checkpointing.py": """
from gradient_checkpointing import enable_checkpointing
transformer, inputs = tiny_pipeline().transformer.train().requires_grad_(False), tiny_inputs()
x = inputs["hidden_states"].requires_grad_()
def slope():
    return torch.autograd.grad(transformer(**inputs)[0].square().sum(), x)[0]
plain = slope()
enable_checkpointing(transformer, selective=True)
assert transformer.is_gradient_checkpointing and torch.allclose(slope(), plain, atol=1e-5)
""",
    "memory/settings.py": """
from settings import ModelSize, StepSettings
assert ModelSize().width == 3072 and StepSettings(height=512, width=768).image_tokens == 32 * 48
""",
    "memory/formula.py": """
from formula import predict_step
from settings import StepSettings
small, large = (predict_step(StepSettings(rank=rank)).total / 1024**3 for rank in (16, 64))
assert 20 < small < large < 80
""",
    "memory/phases.py": """
from phases import encoding_gib
assert 15 < encoding_gib("bf16", 1024, 1024) < 22 and encoding_gib("nf4", 1024, 1024) < 10
""",
    "memory/live_bytes.py": """
from live_bytes import LiveBytes
watch = LiveBytes()
with watch, watch.phase("forward", "activations"):
    x = torch.ones(1000)
    y = x * 2
    del x
    z = y + 1
assert watch.record.peak == 8000 and watch.record.at_peak() == {"activations": 8000}
""",
    "memory/cards.py": """
from cards import find_card
assert find_card("4090").gib == find_card("24").gib == 24 and find_card("24").tflops > 100
""",
    "hands/diagnosis.py": """
from diagnosis import draw_in_two_legs, redraw_from
pipeline = tiny_pipeline()
two, sigma = draw_in_two_legs(pipeline, ["1女孩"], ["1女孩"], [3], 2, steps=4)
whole, _ = draw_in_two_legs(pipeline, ["1女孩"], ["1女孩"], [3], 4, steps=4)
assert 0 < sigma < 1 and two[0].tobytes() == whole[0].tobytes()
again, start = redraw_from(pipeline, whole, ["1女孩"], [3], 0.5, steps=4)
assert 0 < start < 1 and again[0].size == whole[0].size
""",
    "hands/openpose.py": """
from openpose import OpenPose, build, to_openpose
crops = torch.rand(1, 3, 64, 64, requires_grad=True)
assert to_openpose(crops * 2 - 1).min() >= -0.5 and to_openpose(crops * 2 - 1).max() < 0.5
maps = OpenPose(build("hand"))(crops)
assert maps[0].shape == (1, 22, 8, 8) and torch.autograd.grad(maps[0].sum(), crops)[0].isfinite().all()
""",
    "lab/results.py": """
from results import check_stamp, stamp_result
stamped = stamp_result({"loss": 0.5}, config={"seed": 0}, command="python -m a")
assert check_stamp(stamped, root=".") == []
stamped["made_with"]["config"]["seed"] = 1
assert "edited" in check_stamp(stamped, root=".")[0]
""",
    "lab/world/render.py": """
import numpy as np
from attributes import sample_scene
from render import render
picture = render(sample_scene(np.random.default_rng(0)), 64)
assert picture.image.shape == (64, 64, 3) and picture.image.std() > 10 and picture.hands.shape == (2, 21, 3)
""",
    "lab/networks.py": """
from networks import fit, vary
torch.manual_seed(0)
network, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 16)[:, None]
fit(network, lambda: (network(x) - 2 * x).square().mean(), 200, 0.1, say=False)
assert abs(network.weight.item() - 2) < 0.1 and not network.training
assert vary(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
""",
    "course/exercises/checking.py": """
from checking import Checks, array, call, exercise, number
@exercise(task="Halve 3.", stub="half = ...", hint="Divide.", solution="half = 1.5")
def e00_1(answer):
    number(answer, 1.5, mistakes={6: "that is twice"})
assert e00_1(1.5) and "that is twice" in repr(e00_1(6)) and "not answered" in repr(e00_1(...))
array(call(lambda x: x * 2, torch.ones(2)), [2, 2])
Path("lessons").mkdir()
Path("lessons/__init__.py").write_text("")
code = ("from checking import exercise", "@exercise(task='', stub='x = ...', hint='', solution='')",
        "def e01_1(answer): assert answer")
Path("lessons/e01.py").write_text(chr(10).join(code))
assert list(Checks("lessons")) == ["e01_1"] and Checks("lessons").e01_1(1) and not Checks("lessons").e01_1(0)
""",
    "course/claims.py": """
from claims import load_claims, to_markdown
Path("a.yaml").write_text(
    "- {id: C1, claim: It is fast., verdict: refuted, figure: 2 s, scope: [source],"
    " n: 1 run, evidence: [a.py], lesson: 04}"
)
(claim,) = load_claims("a.yaml")
assert claim.verdict == "refuted" and "| C1 | It is fast. |" in to_markdown([claim])
""",
    "pose/body.py": """
from body import Body, blend, face_points, forward_kinematics, mirror
bent = Body(torch.full((24, 3), 0.1))
assert forward_kinematics(bent.rotations[None]).shape == (1, 24, 3) and face_points(bent.rotations).shape == (5, 3)
assert torch.allclose(blend(Body(), bent, 0.5).rotations, torch.full((24, 3), 0.05), atol=1e-5)
assert torch.allclose(mirror(mirror(bent)).joints(), bent.joints())
""",
    "pose/motion.py": """
from motion import action, from_directions, grounded, walk
assert (walk(0.2).joints() - walk(1.2).joints()).norm() < 1e-4 < action("跳跃").joints().norm()
down = from_directions({"left_arm": (torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 1, 0]))})
assert down.joints()[20, 1] > 0.6 and grounded(down).root.norm() < 1e-4
""",
    "pose/limits.py": """
from limits import beyond_limits, limited
rotations = torch.full((24, 3), 1.5)
assert beyond_limits(rotations).max() > 10 and beyond_limits(limited(rotations)).max() == 0
""",
    "pose/camera.py": """
from camera import Camera
x, y, depth = Camera(yaw=90).project(torch.tensor([[0.0, 0.5, -0.1]]), 100)[0].tolist()
assert x > 55 and abs(y - 53.5) < 1e-3 and abs(depth) < 1e-6
""",
    "pose/openpose.py": """
from body import Body
from camera import Camera
from openpose import Pose2D, to_openpose
pose = to_openpose(Body(), Camera(), 64)
assert isinstance(pose, Pose2D) and pose.seen.all() and pose.resized(128).points[0, 0] == 2 * pose.points[0, 0]
""",
    "pose/json_files.py": """
import numpy as np
from json_files import read_pose, write_coco, write_openpose
from openpose import Pose2D
pose = Pose2D(np.stack([np.arange(18), np.arange(18), np.ones(18)], 1), (64, 64))
for write in (write_openpose, write_coco):
    assert np.allclose(read_pose(write("pose.json", pose)).points[2:], pose.points[2:])
""",
    "pose/condition.py": """
from body import Body
from camera import Camera
from condition import draw_condition
from openpose import to_openpose
pose = to_openpose(Body(), Camera(yaw=40), 64)
assert draw_condition(pose).tobytes() != draw_condition(pose, depth=True).tobytes()
""",
    "pose/mannequin.py": """
from body import Body
from mannequin import draw_mannequin, turntable, walk_cycle
assert draw_mannequin(Body(), size=48).size == (48, 48)
assert len(turntable(Body(), 3, 32).frames) == 3 == len(walk_cycle(3, size=32).frames)
""",
    "pose/studio.py": """
from studio import PoseStudio
studio = PoseStudio()
studio.yaw.value = 30
assert studio.camera.yaw == 30 and studio.pose.depth.shape == (18,) and "30 degrees" in studio.figure().alt
""",
    "editing/masks.py": """
import numpy as np
from PIL import Image
from masks import blend, feather, grow_to_tokens, read_mask, white_pixels
white = np.zeros((32, 48), bool)
white[3, 20] = True
Image.fromarray(white).save("mask.png")
region = grow_to_tokens(white_pixels(read_mask("mask.png", (48, 32)), (48, 32)))
assert region.sum() == 256 and region[:16, 16:32].all()
old, new = np.zeros((2, 32, 48, 3), np.uint8)
assert (blend(old, new + 200, feather(region)) > 0).all(-1).tolist() == region.tolist()
""",
    "editing/windows.py": """
import numpy as np
from windows import Window, whole_window, window_around
window = window_around((300, 20, 330, 40), (400, 300), 128)
assert isinstance(window, Window) and window.drawn == (128, 128) and whole_window((90, 40), 64).drawn == (96, 48)
pixels = np.zeros((300, 400, 3), np.uint8)
pixels[30, 310] = 255
assert np.array_equal(window.put(pixels, window.view(pixels)), pixels) and window.cut(pixels).max() == 255
""",
}

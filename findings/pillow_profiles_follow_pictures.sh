#!/usr/bin/env bash
# Pillow 13.0.0 keeps colour profiles where they do not belong. A colour picture that is turned grey keeps its profile
# for RGB, and the PNG that is written has colour type 0 (grey) with a profile for RGB, which the PNG specification rules
# out. And a picture converted by PIL.ImageCms.applyTransform gets a profile with the present time in it, so that the
# same picture written twice gives two different PNG files. Fails when either changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" pillow==13.0.0
cat > "$folder/program.py" <<'PYTHON'
import io
import time

from PIL import Image, ImageCms


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


colour = Image.new("RGB", (8, 8), (10, 200, 30))
colour.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
written = png(colour.convert("L"))
space = Image.open(io.BytesIO(written)).info["icc_profile"][16:20]
print(f"a grey PNG: colour type {written[25]}, its profile is for {space.decode()}")
assert written[25] == 0 and space == b"RGB "

files = []
for _ in range(2):
    profiles = [ImageCms.createProfile("sRGB") for _ in range(2)]
    transform = ImageCms.buildTransform(*profiles, "RGB", "RGB")
    converted = ImageCms.applyTransform(Image.new("RGB", (8, 8), (10, 200, 30)), transform)
    files.append((converted.tobytes(), png(converted)))
    time.sleep(1.2)
(first, one), (second, other) = files
print(f"converted twice: pixels equal: {first == second}, files equal: {one == other}")
assert first == second and one != other
dates = [Image.open(io.BytesIO(file)).info["icc_profile"][24:36].hex() for file in (one, other)]
print("date in the profile:", *dates)
assert dates[0] != dates[1]
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"

#!/usr/bin/env bash
# nbconvert 7.17.2: a cell's output that is an image/gif or image/webp (what IPython.display.Image makes of an animation)
# is left out of the HTML page; the text beside it stands there in its place, and nothing says so. JupyterLab shows both.
# An animated PNG passes.
# Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" nbconvert==7.17.2 pillow==13.0.0
cat > "$folder/program.py" <<'PYTHON'
import base64
import io

from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
for name in ("GIF", "WEBP", "PNG"):
    buffer = io.BytesIO()
    frames[0].save(buffer, name, save_all=True, append_images=frames[1:], duration=200)
    data = {f"image/{name.lower()}": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "two frames"}
    cell = new_code_cell("picture", outputs=[new_output("display_data", data=data)])
    page, _ = HTMLExporter().from_notebook_node(new_notebook(cells=[cell]))
    print(name, "picture" if "<img" in page else "no picture", "text" if "two frames" in page else "no text")
PYTHON
answer=$("$folder/venv/bin/python" "$folder/program.py" 2> "$folder/errors")
echo "$answer"
[[ "$answer" == $'GIF no picture text\nWEBP no picture text\nPNG picture no text' ]]
if grep -qi "gif\|webp\|mime" "$folder/errors"; then echo "it warns now" && exit 1; fi
echo "as described"

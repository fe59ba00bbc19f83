#!/usr/bin/env bash
# datasets 5.2.0, imagefolder: ONE picture called test-1.png among others makes the data set consist of that picture
# alone, without its caption. The word is looked for in the names of files and folders (test, testing, eval, val, valid,
# dev, ... with a separator behind it); as soon as one fits, files that fit no word belong to no split, metadata.jsonl
# among them, and no message says so. The same with a folder girl-test beside girl. Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 pillow==13.0.0 fsspec==2026.9.0
cat > "$folder/program.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()


def load(name, tables):
    """Write pictures with a metadata.jsonl for each folder, load them, and give back {split: [(file, caption)]}."""
    root = Path(sys.argv[1]) / name
    for folder, names in tables.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file in names:
            Image.new("RGB", (8, 8)).save(root / folder / file)
        rows = [json.dumps({"file_name": file, "text": f"caption of {file}"}) for file in names]
        (root / folder / "metadata.jsonl").write_text("\n".join(rows))
    loaded = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=f"{sys.argv[1]}/cache-{name}")
    found = {}
    for split, rows in loaded.items():
        rows = rows.cast_column("image", datasets.Image(decode=False))
        found[split] = sorted((Path(row["image"]["path"]).name, row.get("text")) for row in rows)
    print(f"{tables}: {found}")
    return found


pictures = ["a.png", "b.png", "pose-1.png"]
assert len(load("plain", {".": pictures})["train"]) == 3
assert load("one", {".": [*pictures, "test-1.png"]}) == {"test": [("test-1.png", None)]}
assert load("folder", {"girl": pictures, "girl-test": ["c.png"]}) == {"test": [("c.png", "caption of c.png")]}
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/program.py" "$folder"
echo "as described"

"""Time and memory of the data set check on 1,000 pictures of 1024 x 1024: `python -m benchmarks.data.check_speed`.

The pictures are those of `data_sample`, each shifted by other distances, as JPEG; every eighth as PNG. Both the time on
the clock and that of the processor are stored, since other work on the machine stretches only the first.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image, ImageChops

from qwenlab.data.check import check_dataset, to_html
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result


def make_folder(folder: Path, count: int) -> None:
    """`count` pictures with captions in `folder`."""
    samples = read_dataset(REPOSITORY / "data_sample").samples
    (folder / "images").mkdir()
    lines = []
    for number in range(count):
        sample = samples[number % len(samples)]
        name = f"{number:04d}.{'jpg' if number % 8 else 'png'}"
        shift = 60 * (number // len(samples))
        with Image.open(sample.path) as image:
            shifted = ImageChops.offset(image.convert("RGB"), shift, -shift // 2)
        shifted.save(folder / "images" / name, **({"quality": 82} if number % 8 else {"compress_level": 1}))
        lines.append(json.dumps({"file_name": name, "text": f"{sample.text}, {number}"}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of the check with thumbnails and page; resident memory in MiB up to the 100th picture, and at most."""
    process, memory = psutil.Process(), []

    def on_item(total: int) -> None:
        memory.append(process.memory_info().rss / 1024**2)

    wall, cpu = time.perf_counter(), time.process_time()
    report = check_dataset(folder, thumbnails=True, on_item=on_item)
    page = to_html(report)
    return {
        "pictures": report.files,
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - cpu, 1),
        "memory_after_100_mib": round(max(memory[:100])),
        "memory_at_most_mib": round(max(memory)),
        "page_mib": round(len(page) / 1024**2, 1),
        "load_before": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/data/check_speed.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), options.count)
        result = measure(Path(folder))
    print(json.dumps(result, indent=2))
    atomic_write_json(options.out, stamp_result(result, weights=[], config={"count": options.count}))


if __name__ == "__main__":
    main()

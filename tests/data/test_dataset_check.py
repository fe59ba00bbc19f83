"""The data set checker: a zoo of broken data sets, their repaired copies, hostile files, and the report."""

import hashlib
import json
import random
import re
import shutil
import tracemalloc
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.data.check import (
    RULES,
    Limits,
    check_dataset,
    near_duplicate_groups,
    repair_dataset,
    to_html,
    to_text,
)
from qwenlab.data.check.duplicates import group_numbers, near_pairs
from qwenlab.data.check.outliers import outlier_scores
from qwenlab.data.check.pictures import inspect_picture
from qwenlab.data.dataset import read_dataset
from qwenlab.data.images import open_image
from qwenlab.data.reader import lines, read_folder
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from tests.data.zoo import COUNT, ZOO, add, as_image_folder, encode, good_folder, new_picture

LIMITS = Limits(min_side=64)
runner = CliRunner()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return good_folder(tmp_path_factory.mktemp("good") / "data")


@pytest.fixture
def folder(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "in" / "data"))


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder, with a hash of small files; links and pipes by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size < 1024**2
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else str(path.lstat())
    return {name: re.sub(r"st_atime=\d+", "", value) for name, value in found.items()}


def assert_training_agrees(folder: Path, report) -> None:
    """Training reads the samples that the check counts, or refuses in one line what the check calls an error."""
    try:
        dataset = read_dataset(folder)
    except QwenlabError as error:
        assert not report.ok and "\n" not in str(error)
    else:
        assert [(sample.path, sample.text) for sample in dataset.samples] == [
            (record.path, record.text) for record in report.records
        ]


# The zoo


def test_a_good_folder_has_no_findings(folder):
    report = check_dataset(folder, LIMITS)
    assert report.findings == () and report.ok and report.files == COUNT == len(report.records)


@pytest.mark.parametrize("name", ZOO)
def test_broken_data_sets_are_found_named_and_mended(name, folder, tmp_path):
    animal = ZOO[name]
    animal.break_it(folder)
    before = contents(folder)
    report = check_dataset(folder, LIMITS)
    hits = [finding for finding in report.findings if finding.rule == animal.rule and animal.where in finding.where]
    assert hits, to_text(report)
    text = to_text(report)
    assert hits[0].where in text and RULES[animal.rule].why in text and RULES[animal.rule].remedy in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert_training_agrees(folder, report)

    out = tmp_path / "out"
    if animal.empty:
        with pytest.raises(QwenlabError, match="nothing would be left"):
            repair_dataset(report, out)
        assert not out.exists()
    else:
        repaired = repair_dataset(report, out)
        again = check_dataset(out, LIMITS)
        assert again.ok, to_text(again)
        assert (animal.rule in {finding.rule for finding in again.findings}) != animal.mended, to_text(again)
        assert len(read_dataset(out)) == repaired.samples >= COUNT - 1
        assert all(open_image(path).mode == Image.open(path).mode for path in (out / "images").rglob("*.*"))
    assert contents(folder) == before, "the original is only read"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_rule_is_shown_by_the_zoo():
    untested = set(RULES) - {animal.rule for animal in ZOO.values()}
    assert untested == {"endless-captions"}  # has a test of its own
    assert len(ZOO) >= 25


def test_the_sample_has_no_errors():
    report = check_dataset(REPOSITORY / "data_sample")
    assert report.ok and report.count("warning") == 0, to_text(report)
    assert report.coverage["action"] == dict.fromkeys(report.coverage["action"], 6)
    assert report.coverage["view"]["front"] + report.coverage["view"]["side"] == 60


# Repairing


def test_mended_captions_and_names(folder, tmp_path):
    for name in ("caption_in_gb18030", "right_name_is_taken"):
        ZOO[name].break_it(folder)
    new_picture(13).save(folder / "images" / "Bow.png")
    add(folder, "bow.jpg", "1女孩, 鞠躬")
    report = check_dataset(folder, LIMITS)
    repaired = repair_dataset(report, tmp_path / "out")
    samples = {sample.path.name: sample for sample in read_dataset(repaired.folder).samples}
    assert samples["new.png"].text == "1女孩, 黄色雨衣，挥手"
    assert Image.open(samples["img_1_2.png"].path).format == "PNG" and "img_1.png" in samples
    assert samples["Bow.png"].text == "1女孩, 鞠躬"
    assert any("renamed to img_1_2.png" in change for change in repaired.changes)


def test_transparency_is_put_on_white_and_pixels_are_turned(folder, tmp_path):
    clear = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    clear.paste(new_picture().resize((48, 64)), (0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "images" / "img_1.png").write_bytes(encode(clear, "PNG", exif=exif))
    repaired = repair_dataset(check_dataset(folder, LIMITS), tmp_path / "out")
    image = Image.open(repaired.folder / "images" / "img_1.png")
    assert image.size == (64, 96) and image.mode == "RGB" and image.getpixel((5, 90)) == (255, 255, 255)
    assert image.getexif().get(0x0112, 1) == 1


def test_an_image_folder_is_read_and_repaired_to_what_training_reads(folder, tmp_path):
    as_image_folder(folder)
    report = check_dataset(folder, LIMITS)
    assert report.findings == () and report.files == COUNT
    assert len(read_dataset(repair_dataset(report, tmp_path / "out").folder)) == COUNT


def test_the_copy_goes_into_a_new_folder_only(folder, tmp_path):
    report = check_dataset(folder, LIMITS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("here")
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, message in (
        (tmp_path / "full", "is not empty"),
        (tmp_path / "file", "is no folder"),
        (tmp_path / "link", "is no folder"),
        (folder, "is not empty"),
        (folder / "images" / "copy", "lies inside"),
    ):
        with pytest.raises(QwenlabError, match=message):
            repair_dataset(report, place)
    assert (tmp_path / "full" / "precious.txt").read_text() == "here"
    (tmp_path / "empty").mkdir()
    assert repair_dataset(report, tmp_path / "empty").samples == COUNT


def test_an_interrupted_repair_leaves_nothing(folder, tmp_path, monkeypatch):
    report = check_dataset(folder, LIMITS)
    copies = []

    def fails(source, target):
        copies.append(target)
        if len(copies) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("qwenlab.data.check.repair.shutil.copyfile", fails)
    with pytest.raises(KeyboardInterrupt):
        repair_dataset(report, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


# Hostile files


def test_a_line_of_2_gigabytes_costs_no_memory(folder):
    ZOO["line_of_2_gigabytes"].break_it(folder)
    path = folder / "captions.jsonl"
    tracemalloc.start()
    found, findings = lines.read_lines(path, path.name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == COUNT and [finding.rule for finding in findings] == ["long-line", "endless-captions"]
    assert peak < 8 * 1024**2


def test_lines_after_a_long_one_are_read_and_their_number_is_limited(folder, monkeypatch):
    path = folder / "captions.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b"\n" + path.read_bytes())
    reading = read_folder(folder)
    assert len(reading.records) == COUNT and reading.records[0].line == 2
    assert [finding.rule for finding in reading.findings] == ["long-line"]
    monkeypatch.setattr(lines, "MAX_LINES", 3)
    found, findings = lines.read_lines(path, path.name)
    assert len(found) == 2 and findings[-1].rule == "endless-captions"


def test_a_byte_order_mark_is_no_error(folder):
    path = folder / "captions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_dataset(folder, LIMITS).findings == ()


def mutated(data: bytes, generator: random.Random, head: int) -> bytes:
    """A few bytes changed, put in, or taken out, mostly near the front."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(min(head, len(data)) or 1)
        kind = generator.randrange(5)
        if kind == 0:
            data[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            data[place:place] = generator.randbytes(generator.randint(1, 8))
        elif kind == 2:
            del data[place : place + generator.randint(1, 12)]
        elif kind == 3:
            data[place : place + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b'"\\{['])
        else:
            del data[generator.randrange(len(data) or 1) :]
    return bytes(data)


def test_500_mutated_captions_files(tmp_path):
    (tmp_path / "images").mkdir()
    new_picture(size=64).save(tmp_path / "images" / "a.png")
    line = json.dumps({"file_name": "a.png", "text": "1女孩, 挥手"}, ensure_ascii=False).encode() + b"\n"
    generator = random.Random(0)
    refused = 0
    for _ in range(500):
        (tmp_path / "captions.jsonl").write_bytes(mutated(line * 2, generator, head=120))
        report = check_dataset(tmp_path, LIMITS)
        to_text(report).encode()
        try:
            read_dataset(tmp_path)
        except QwenlabError:
            refused += 1
            assert not report.ok, (tmp_path / "captions.jsonl").read_bytes()
    assert refused > 250


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of the odd TIFF tags
def test_500_mutated_pictures(tmp_path):
    small = new_picture(size=64)
    formats = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
    originals = [encode(small, kind) for kind in formats if kind.lower() != "avif" or "AVIF" in Image.SAVE]
    generator = random.Random(1)
    path = tmp_path / "a.png"
    usable = 0
    for number in range(500):
        path.write_bytes(mutated(originals[number % len(originals)], generator, head=200))
        picture, findings = inspect_picture(path, "a.png", LIMITS)
        assert (picture is None) == any(RULES[f.rule].level == "error" and f.rule != "blank" for f in findings)
        if picture is not None:
            usable += 1
            assert open_image(path).size == (picture.width, picture.height)
    assert 20 < usable < 480


# Comparing


def test_near_pairs_agree_with_counting_bits():
    generator = random.Random(2)
    base = generator.getrandbits(64)
    hashes = [(base, 0), (base ^ 0b1011, 1), (0, base ^ 1), (2**64 - 1, 2**63)]
    expected = []
    for i, j in combinations(range(4), 2):
        plain, turned = ((hashes[i][0] ^ other).bit_count() for other in hashes[j])
        if min(plain, turned) <= 4:
            expected.append((i, j, min(plain, turned), turned < plain))
    assert near_pairs(hashes, 4) == expected and len(expected) >= 2


def test_groups_are_chains():
    assert group_numbers(6, [(1, 2), (4, 5), (2, 4)]) == [0, 1, 1, 3, 1, 1]


def test_near_duplicates_of_files(folder):
    images = folder / "images"
    Image.open(images / "img_3.png").save(images / "copy.jpg", quality=70)
    names = ["img_1.png", "img_3.png", "img_2.png", "copy.jpg"]
    assert near_duplicate_groups([images / name for name in names]) == [0, 1, 2, 1]


def test_outlier_scores():
    generator = np.random.default_rng(0)
    features = generator.normal(0, 0.1, (40, 8)).astype(np.float32)
    features[7] += 3
    scores = outlier_scores(features)
    assert scores.argmax() == 7 and scores[7] > 20 and np.sort(scores)[-2] < 6
    features[8] = features[7] + 0.01
    assert set(np.flatnonzero(outlier_scores(features) > 6)) == {7, 8}, "two strays do not vouch for each other"
    assert not outlier_scores(features[:11]).any()
    assert np.isfinite(outlier_scores(np.zeros((20, 8), np.float32))).all()


# Reports


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_carries_everything_and_describes_its_pictures(folder):
    for name in ("mirrored", "name_with_half_a_character"):
        ZOO[name].break_it(folder)
    bad = folder / "images" / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"")
    text = to_html(check_dataset(folder, LIMITS, thumbnails=True))
    page = Page()
    page.feed(text)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) >= COUNT + 3
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") and attrs["alt"].strip() for attrs in images)
    assert any("1女孩" in attrs["alt"] and "128 x 128" in attrs["alt"] for attrs in images)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags} and "http:" not in text
    assert "&lt;img src=x" in text and text.encode() and '<html lang="en">' in text
    assert "data:image" not in to_html(check_dataset(folder, LIMITS))


def test_long_lists_are_cut_in_the_terminal(folder):
    for number in range(30):
        with open(folder / "captions.jsonl", "a") as file:
            file.write(f'{{"file_name": "none_{number}.png", "text": "1"}}\n')
    text = to_text(check_dataset(folder, LIMITS))
    assert "and 22 more; --html lists them" in text and "none_29" not in text


# The command


def test_command_on_a_good_and_a_broken_folder(folder, tmp_path):
    small = ["--min-side", "64"]
    good = runner.invoke(app, ["check-dataset", str(folder), *small])
    assert good.exit_code == 0 and "0 errors, 0 warnings" in good.output
    ZOO["cut_short_png"].break_it(folder)
    page, out = tmp_path / "page.html", tmp_path / "out"
    bad = runner.invoke(app, ["check-dataset", str(folder), *small, "--html", str(page)])
    assert bad.exit_code == 1 and "new.png" in bad.output and "--fix" in bad.output and page.is_file()
    fixed = runner.invoke(app, ["check-dataset", str(folder), *small, "--fix", str(out)])
    assert fixed.exit_code == 0 and f"{COUNT} samples, 1 change;" in fixed.output
    refused = runner.invoke(app, ["check-dataset", str(folder), *small, "--fix", str(out)])
    assert refused.exit_code == 2 and "is not empty" in refused.stderr
    as_image_folder(out)
    image_folder = runner.invoke(app, ["check-dataset", str(out), *small])
    assert image_folder.exit_code == 0 and "read as: metadata.jsonl, as the datasets library" in image_folder.output


@pytest.mark.parametrize("options", [["nowhere"], ["data_sample", "--html", "page.pdf"]])
def test_command_mistakes_are_one_line(options):
    result = runner.invoke(app, ["check-dataset", *options])
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1

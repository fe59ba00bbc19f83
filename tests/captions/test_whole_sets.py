"""The number of a character is a matter of the whole set: added to all captions or to none; and lint of data sets."""

import json
import random

import pytest
from typer.testing import CliRunner

from qwenlab.captions import fix, fix_file, fix_set, lint, lint_file, lint_set, parse, read_captions
from qwenlab.cli import app
from tests.data.folders import TEXTS, jsonl, pictures, table, text

ACTIONS = ["挥手", "站立", "跑步", "坐着", "跳跃", "看书", "叉腰", "走路"]
PLAIN = [f"女孩, 黑色短发, {action}, 背景:公园" for action in ACTIONS]
NUMBERED = [f"1{caption}" for caption in PLAIN]
runner = CliRunner()


def unnumbered(texts):
    return [caption for caption in texts if not parse(caption).subjects]


# One caption


@pytest.mark.parametrize("caption", ["女孩, 长发", "一个女孩, 长发", "长发, 红裙, 1女孩", "一只猫, 打盹"])
def test_a_single_caption_gets_no_number(caption):
    (finding,) = lint(caption)
    assert finding.rule == "missing-anchor" and finding.suggestion and not finding.safe and finding.set_edits
    assert fix(caption) == (caption, 0)


def test_a_prompt_in_a_file_of_its_own_gets_none_either(tmp_path):
    text(tmp_path / "prompt.txt", "女孩，长发")
    report = fix_file(tmp_path / "prompt.txt", tmp_path / "mended.txt")
    assert read_captions(tmp_path / "mended.txt")[0].text == "女孩, 长发" and report.mended == 1
    assert [finding.rule for _, finding in report.report.findings] == ["missing-anchor"]


# Sets


def test_all_captions_of_a_set_change_together():
    for texts in (PLAIN, PLAIN[:4] + NUMBERED[4:], NUMBERED[:7] + PLAIN[7:]):
        report = lint_set(texts)
        lacking = len(unnumbered(texts))
        assert report.numbered == lacking and all(finding.safe for _, finding in report.findings)
        assert f"{lacking} of 8 captions lack" in report.notes[0] and "every prompt" in report.notes[0]
        assert fix_set(texts) == (NUMBERED, lacking)


@pytest.mark.parametrize(
    "stubborn", ["穿裙子的女孩, 长发", "他在打球", "两个女孩, 跳舞", "三位老人, 下棋", "有人在跑步, 背景:操场"]
)
def test_where_one_cannot_change_none_does(stubborn):
    texts = [*PLAIN, stubborn]
    report = lint_set(texts)
    assert report.numbered == 0 and not any(f.safe for _, f in report.findings)
    assert "added to none of them, for caption 9 would stay without" in report.notes[0]
    assert fix_set(texts) == (texts, 0)
    assert fix_set([*NUMBERED, PLAIN[0], stubborn])[0][8] == PLAIN[0]


def test_other_rewrites_go_on_where_the_number_cannot():
    texts = [caption.replace(", ", "，") for caption in PLAIN] + ["他在打球"]
    fixed, mended = fix_set(texts)
    assert fixed == [*PLAIN, "他在打球"] and mended == len(PLAIN)


def test_pictures_of_nobody_need_no_number():
    texts = [*PLAIN, "雪山, 湖面倒影, 风格:摄影"]
    assert fix_set(texts)[0] == [*NUMBERED, "雪山, 湖面倒影, 风格:摄影"]


def test_no_set_becomes_mixed():
    rng = random.Random(5)
    pool = [
        *PLAIN,
        *NUMBERED,
        "穿裙子的女孩, 长发",
        "他在打球",
        "长发, 1女孩",
        "1个女孩, 长发",
        "女孩，，长髮",
        "雪山, 湖面",
    ]
    for _ in range(150):
        texts = rng.choices(pool, k=rng.randint(1, 8))
        fixed, _ = fix_set(texts)
        before, after = set(unnumbered(texts)), set(unnumbered(fixed))
        changed = [
            old for old, new in zip(texts, fixed, strict=True) if not parse(old).subjects and parse(new).subjects
        ]
        people = [caption for caption in after if lint(caption) and "雪山" not in caption]
        assert not changed or not people, (texts, fixed)
        assert len(after) <= len(before) and fix_set(fixed) == (fixed, 0)


def test_the_command_says_what_a_number_means(tmp_path):
    jsonl(tmp_path / "a.jsonl", {f"{n}.png": caption for n, caption in enumerate(PLAIN)}, end="\r")
    out = tmp_path / "b.jsonl"
    result = runner.invoke(app, ["lint-captions", str(tmp_path / "a.jsonl"), "--fix", str(out)])
    assert result.exit_code == 0 and "8 captions got the number in front, and so must every prompt" in result.stderr
    assert [caption.text for caption in read_captions(out)] == NUMBERED and out.read_bytes().count(b"\r") == 7
    text(tmp_path / "c.txt", "\n".join([*PLAIN, "他在打球"]))
    left = runner.invoke(app, ["lint-captions", str(tmp_path / "c.txt"), "--fix", str(tmp_path / "d.txt")])
    assert left.exit_code == 1 and "added to none of them" in left.stderr and "got the number" not in left.stderr
    assert (tmp_path / "d.txt").read_text(encoding="utf-8") == (tmp_path / "c.txt").read_text(encoding="utf-8")


# Data sets


def test_a_folder_is_linted_wherever_its_captions_stand(tmp_path):
    pictures(tmp_path / "files", "a.png", "b.png")
    text(tmp_path / "files/a.txt", "1女孩, 漂亮的手")
    text(tmp_path / "files/b.txt", TEXTS[0])
    lines = lint_file(tmp_path / "files").lines()
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/files/a.txt:6: vague-word: ")
    pictures(tmp_path / "table", "a.png")
    table(tmp_path / "table/metadata.csv", {"a.png": "1女孩, 漂亮的手"})
    assert lint_file(tmp_path / "table").lines()[0].startswith(f"{tmp_path}/table/metadata.csv, line 2:6: vague-word: ")
    pictures(tmp_path / "usual", "images/a.png")
    jsonl(tmp_path / "usual/captions.jsonl", {"a.png": "1女孩, 漂亮的手"})
    (line,) = lint_file(tmp_path / "usual").lines()
    assert line.startswith(f"{tmp_path}/usual/captions.jsonl:1:")
    result = runner.invoke(app, ["lint-captions", str(tmp_path / "files"), "--fix", str(tmp_path / "x")])
    assert result.exit_code == 2 and "check-dataset --fix" in result.stderr


def check(folder, *options):
    return runner.invoke(app, ["check-dataset", str(folder), "--min-side", "64", *options])


def test_check_dataset_sums_the_linter_up_in_one_line(tmp_path):
    pictures(tmp_path, "images/a.png", "images/b.png", "images/c.png")
    rows = {"a.png": "1女孩, 漂亮的手, 正常姿势", "b.png": "女孩, 黑色短发, 站立", "c.png": "1女孩, 黑色短发, 挥手"}
    jsonl(tmp_path / "captions.jsonl", rows)
    page = tmp_path.parent / "page.html"
    result = check(tmp_path, "--html", str(page))
    (line,) = [line for line in result.output.splitlines() if line.startswith("Captions: ")]
    assert line == (
        "Captions: 3 linter findings in 2 of 3 (vague-word 2, missing-anchor 1); "
        f"show them with: qwenlab lint-captions {tmp_path}"
    )
    assert "vague-word 2" in page.read_text(encoding="utf-8")
    shown = runner.invoke(app, line.partition("qwenlab ")[2].split())
    assert shown.exit_code == 1 and len(shown.stdout.splitlines()) == 3
    jsonl(tmp_path / "captions.jsonl", {name: TEXTS[n] for n, name in enumerate(rows)})
    assert "Captions: the linter finds nothing in 3" in check(tmp_path).output


def test_with_errors_the_command_is_for_later(tmp_path):
    pictures(tmp_path, "images/a.png")
    jsonl(tmp_path / "captions.jsonl", {"a.png": "漂亮的手"})
    with open(tmp_path / "captions.jsonl", "a") as file:
        file.write("\n{")
    result = check(tmp_path)
    assert result.exit_code == 1 and "once the errors above are mended, show them with: qwenlab lint" in result.output


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_captions_change_whatever_the_line_ends(tmp_path, end):
    path, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [
        json.dumps({"file_name": "a.png", "text": t}, ensure_ascii=False)
        for t in ("1女孩，站", "1女孩, 坐", "1女孩，跑")
    ]
    path.write_bytes(end.join(["", lines[0], lines[1] + "  ", "", lines[2], ""]).encode())
    fix_file(path, out)
    assert out.read_bytes() == path.read_bytes().replace("，".encode(), b", ")
    assert [caption.number for caption in read_captions(out)] == [2, 3, 5]

"""The caption editor, driven without a browser, and the table that stands for it where no widget runs."""

import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from qwenlab.captions import lint
from qwenlab.captions.editor import CaptionEditor, CaptionEdits, caption_table
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError

GOOD = "1女孩, 橙色狐耳卷发, 星星斗篷, 跳跃, 背景:雪地, 风格:剪纸画, 细节:全身正面, 连指手套, 光脚"
BAD = "女孩，很漂亮"
LINES = [
    {"seed": 1.5, "file_name": "a.png", "text": GOOD},
    {"file_name": "b.png", "text": BAD, "by": "我"},
    {"file_name": "c.png", "text": "1男孩, 挥手"},
]


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


def make_folder(folder, end="\n", mark=""):
    (folder / "images").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "green"), ("c.png", "blue")):
        Image.new("RGB", (40, 60), colour).save(folder / "images" / name)
    write(folder, LINES, end, mark)
    return folder


def write(folder, lines, end="\n", mark=""):
    text = mark + end.join(json.dumps(line, ensure_ascii=False) for line in lines) + end
    (folder / "captions.jsonl").write_bytes(text.encode())


def on_disk(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8-sig").splitlines()]


def status(editor):
    """What the editor says, without its tags."""
    return re.sub("<[^>]*>", "", editor.status.value)


def click(editor, name):
    editor.buttons[name].click()
    return status(editor)


# Editing


def test_pictures_come_in_the_order_of_the_file_and_around(folder):
    editor = CaptionEditor(folder)
    assert editor.text.value == GOOD and "1 of 3" in editor.title.value and 'alt="a.png: 1女孩' in editor.picture.value
    click(editor, "Next")
    assert editor.text.value == BAD and "2 of 3" in editor.title.value and 'alt="b.png' in editor.picture.value
    click(editor, "Previous")
    click(editor, "Previous")
    assert editor.text.value == "1男孩, 挥手" and "3 of 3" in editor.title.value


def test_the_linter_follows_every_key(folder):
    editor = CaptionEditor(folder)
    assert "no finding" in editor.findings.value
    editor.text.value = BAD
    rules = {finding.rule for finding in lint(BAD)}
    assert {"missing-anchor", "vague-word", "fullwidth-punctuation"} <= rules
    assert all(rule in editor.findings.value for rule in rules) and "no finding" not in editor.findings.value
    editor.text.value = GOOD
    assert "no finding" in editor.findings.value and "all saved" in editor.title.value


def test_edits_survive_turning_the_pages_and_are_saved_together(folder):
    editor = CaptionEditor(folder)
    editor.text.value = "1女孩, 站立"
    click(editor, "Next")
    click(editor, "Next")
    editor.text.value = "1男孩, 站立"
    assert "2 not saved" in editor.title.value and on_disk(folder) == LINES
    click(editor, "Next")
    assert editor.text.value == "1女孩, 站立"
    assert click(editor, "Save").startswith("2 saved") and "all saved" in editor.title.value
    assert [line["text"] for line in on_disk(folder)] == ["1女孩, 站立", BAD, "1男孩, 站立"]
    assert click(editor, "Save") == "nothing to save"


@pytest.mark.parametrize(("end", "mark"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff")])
def test_saving_changes_the_caption_and_no_other_byte(tmp_path, end, mark):
    folder = make_folder(tmp_path / "set", end, mark)
    before = (folder / "captions.jsonl").read_bytes()
    editor = CaptionEditor(folder)
    click(editor, "Next")
    editor.text.value = '1女孩, "左"手'
    click(editor, "Save")
    after = (folder / "captions.jsonl").read_bytes()
    assert after == before.replace(json.dumps(BAD, ensure_ascii=False).encode(), '"1女孩, \\"左\\"手"'.encode())
    assert sorted(os.listdir(folder)) == ["captions.jsonl", "images"]  # no temporary file


def test_a_late_key_reaches_the_picture_it_was_meant_for(folder):
    editor = CaptionEditor(folder)
    area = editor.text
    click(editor, "Next")
    area.value = "1女孩, 跳跃"  # pressed before the browser had shown the next picture
    assert editor.text.value == BAD
    click(editor, "Save")
    assert [line["text"] for line in on_disk(folder)] == ["1女孩, 跳跃", BAD, "1男孩, 挥手"]


def test_safe_fixes_and_revert(folder):
    editor = CaptionEditor(folder)
    assert click(editor, "Safe fixes") == "nothing that is safe to mend"
    click(editor, "Next")
    assert "mended" in click(editor, "Safe fixes") and "，" not in editor.text.value
    assert "1 not saved" in editor.title.value
    click(editor, "Revert")
    assert editor.text.value == BAD and "all saved" in editor.title.value and on_disk(folder) == LINES


def test_pictures_without_a_line_get_one_at_the_end(folder):
    Image.new("RGB", (40, 40)).save(folder / "images" / "0.png")
    (folder / "captions.jsonl").write_bytes((folder / "captions.jsonl").read_bytes().rstrip(b"\n"))
    editor = CaptionEditor(folder)
    click(editor, "Previous")
    assert "4 of 4" in editor.title.value and "no line yet" in editor.title.value and editor.text.value == ""
    editor.text.value = GOOD
    click(editor, "Save")
    assert on_disk(folder) == [*LINES, {"file_name": "0.png", "text": GOOD}]
    assert "line 4" in editor.title.value and editor.text.value == GOOD


def test_captions_from_nothing_in_both_layouts(folder):
    (folder / "captions.jsonl").unlink()
    editor = CaptionEditor(folder)
    editor.text.value = GOOD
    click(editor, "Save")
    assert on_disk(folder) == [{"file_name": "a.png", "text": GOOD}]
    assert [sample.text for sample in read_dataset(folder).samples] == [GOOD]

    images = folder / "images"  # a Hugging Face image folder: metadata.jsonl stands beside the pictures
    (images / "metadata.jsonl").write_text('{"file_name": "b.png", "text": ""}\n')
    editor = CaptionEditor(images)
    editor.text.value = "1女孩, 坐着"
    click(editor, "Save")
    assert json.loads((images / "metadata.jsonl").read_text()) == {"file_name": "b.png", "text": "1女孩, 坐着"}


# Nothing is lost


def test_a_file_that_changed_meanwhile_is_not_overwritten(folder):
    editor = CaptionEditor(folder)
    editor.text.value = "1女孩, 我的"
    theirs = [LINES[0], LINES[1] | {"text": "1女孩, 他们的"}, LINES[2]]
    write(folder, theirs)
    said = click(editor, "Save")
    assert "changed on disk" in said and "\n" not in said and on_disk(folder) == theirs
    assert editor.text.value == "1女孩, 我的" and "1 not saved" in editor.title.value

    assert click(editor, "Reload") == "read again"
    assert editor.text.value == "1女孩, 我的"
    click(editor, "Save")
    assert [line["text"] for line in on_disk(folder)] == ["1女孩, 我的", "1女孩, 他们的", "1男孩, 挥手"]


def test_reload_shows_new_captions_and_names_clashes(folder):
    editor = CaptionEditor(folder)
    click(editor, "Next")
    editor.text.value = "1女孩, 我的"
    click(editor, "Previous")
    write(folder, [LINES[0] | {"text": "1女孩, 新"}, LINES[1] | {"text": "1女孩, 他们的"}])
    said = click(editor, "Reload")
    assert "b.png" in said and "a.png" not in said
    assert editor.text.value == "1女孩, 新"
    click(editor, "Next")
    assert editor.text.value == "1女孩, 我的"
    click(editor, "Next")
    assert "no line yet" in editor.title.value and editor.text.value == ""  # c.png has lost its caption


def test_reload_refuses_to_drop_an_edit(folder):
    editor = CaptionEditor(folder)
    editor.text.value = "1女孩, 我的"
    (folder / "images" / "a.png").unlink()
    write(folder, LINES[1:])
    assert "a.png (line 1) is gone" in click(editor, "Reload")
    assert editor.text.value == "1女孩, 我的"
    click(editor, "Revert")
    assert click(editor, "Reload") == "read again" and editor.text.value == BAD


def test_a_deleted_or_broken_file_is_left_alone(folder):
    editor = CaptionEditor(folder)
    editor.text.value = "1女孩, 我的"
    (folder / "captions.jsonl").unlink()
    assert "changed on disk" in click(editor, "Save") and not (folder / "captions.jsonl").exists()
    (folder / "captions.jsonl").write_text("{\n")
    assert "not JSON" in click(editor, "Reload") and editor.text.value == "1女孩, 我的"


def test_a_failing_write_keeps_the_edits(folder, monkeypatch):
    editor = CaptionEditor(folder)
    editor.text.value = "1女孩, 我的"

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwenlab.captions.editor.edits.atomic_write_bytes", full)
    assert "No space left" in click(editor, "Save") and on_disk(folder) == LINES
    monkeypatch.undo()
    assert click(editor, "Save").startswith("1 saved")


@pytest.mark.parametrize(("text", "message"), [("  ", "empty caption"), ("1女孩, \ud83d", "half a character")])
def test_what_no_caption_can_be_is_not_saved(folder, text, message):
    editor = CaptionEditor(folder)
    editor.text.value = text
    assert message in click(editor, "Save") and "a.png (line 1)" in status(editor) and on_disk(folder) == LINES


def test_two_captions_of_one_picture_are_edited_apart(folder):
    write(folder, [*LINES, {"file_name": "a.png", "text": "1女孩, 第二"}])
    edits = CaptionEdits(folder)
    edits.edit(("a.png", 1), "1女孩, 新")
    edits.save()
    assert [line["text"] for line in on_disk(folder)] == [GOOD, BAD, "1男孩, 挥手", "1女孩, 新"]


# Strange folders


def test_pictures_that_cannot_be_shown_still_have_captions(folder, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "secret.png")
    (folder / "images" / "b.png").write_bytes(b"no picture")
    write(folder, [LINES[1], {"file_name": "../../secret.png", "text": GOOD}, {"text": "1女孩"}])
    editor = CaptionEditor(folder)
    assert "not a readable image" in editor.picture.value
    for _ in range(2):
        click(editor, "Next")
        assert "no such picture" in editor.picture.value and "<img" not in editor.picture.value
    editor.text.value = "1女孩, 站立"
    click(editor, "Save")
    assert [line["text"] for line in on_disk(folder)] == [BAD, GOOD, "1女孩, 站立"]


def test_refused_in_one_line(folder, tmp_path):
    with pytest.raises(QwenlabError, match="no such dataset folder"):
        CaptionEditor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(QwenlabError, match="neither captions nor pictures"):
        CaptionEditor(tmp_path / "empty")
    (folder / "captions.jsonl").rename(tmp_path / "elsewhere.jsonl")
    (folder / "captions.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(QwenlabError, match="a link to a file outside"):
        CaptionEditor(folder)


def test_nothing_from_a_file_becomes_html(folder):
    write(folder, [{"file_name": "<i>.png", "text": "1女孩, <script>漂亮"}])
    editor = CaptionEditor(folder)
    shown = editor.title.value + editor.picture.value + editor.findings.value + caption_table(folder).to_html()
    assert "<script>" not in shown and "<i>.png" not in shown
    assert "&lt;script&gt;漂亮" in re.sub("</?mark[^>]*>", "", shown)


# The table


def test_table_puts_findings_first_and_describes_every_picture(folder):
    table = caption_table(folder, limit=2)
    page = table.to_html()
    assert [entry.name for entry in table.entries] == ["b.png", "a.png"]
    assert "3 captions, 1 to mend; 2 shown" in page
    assert page.count("<img ") == 2 and 'alt="b.png: 女孩，很漂亮"' in page
    assert '<mark style="background: rgba(255, 170, 0, 0.35); color: inherit">' in page
    plain = str(table)
    assert BAD in plain and "missing-anchor" in plain and GOOD in plain


def test_marks_cover_exactly_the_findings(folder):
    text = "1女孩, 漂亮的手, 挥手"
    write(folder, [{"file_name": "a.png", "text": text}])
    page = caption_table(folder).to_html()
    (marked,) = re.findall("<mark[^>]*>(.*?)</mark>", page)
    (finding,) = lint(text)
    assert marked == text[finding.start : finding.end]


def test_importing_the_editor_loads_no_widgets():
    code = "import sys, qwenlab.captions.editor; print('ipywidgets' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"

"""What can be wrong with a data set: one `Rule` each, with the reason why it matters and the remedy.

error: training would refuse it, or would learn something false. warning: probably a mistake; look at it.
note: not wrong, but it bounds what the LoRA can learn.
"""

from dataclasses import dataclass
from pathlib import Path

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Rule:
    """One kind of finding. `mend` says what a repaired copy does about it; empty: only a person can decide."""

    level: str
    title: str
    why: str
    remedy: str
    mend: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing found. `where` is a file or a line of the captions, `detail` what is the matter with it there.

    pictures: names of the pictures concerned, for thumbnails. drops: those that a repaired copy leaves out.
    """

    rule: str
    where: str
    detail: str
    pictures: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        return RULES[self.rule].level

    def refusal(self, folder: Path) -> str:
        """The finding as one line with its remedy, for whoever cannot go on."""
        remedy = RULES[self.rule].remedy.rstrip(".")
        place = shown(str(folder / self.where), 1000)
        return f"{place}: {self.detail}; {remedy[0].lower()}{remedy[1:]}"


def shown(name: str, length: int = 80) -> str:
    """A name or text from a file, fit to print: control characters and half characters escaped, ends cut."""
    name = name if len(name) <= length else name[: length - 1] + "…"
    return name if name.isprintable() else repr(name)[1:-1]


def plural(count: int, word: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


_LEFT_OUT, _WRITTEN_ANEW = "left out", "written anew, as RGB with 8 bits"

#: Every rule, in the order of reports.
RULES: dict[str, Rule] = {
    # the folder and its captions
    "no-captions": Rule(
        "error", "No captions", "Without captions nothing can be trained.",
        'Write captions.jsonl, one line a picture: {"file_name": "a.png", "text": "1女孩, ..."}.',
    ),
    "no-images": Rule(
        "error", "No folder of pictures", "The captions name pictures, and there are none.", "Put the pictures there.",
    ),
    "no-samples": Rule(
        "error", "No picture with a caption", "Nothing is left to train on.",
        'Write one line a picture: {"file_name": "a.png", "text": "1女孩, ..."}.',
    ),
    "not-text": Rule(
        "error", "No text in the captions file", "Captions are text; this file holds something else.",
        'Write the captions as text, one line a picture: {"file_name": "a.png", "text": "1女孩, ..."}.',
    ),
    "bad-table": Rule(
        "error", "Table cannot be read", "Its captions are not known.",
        "Save it anew with the columns file_name and text.",
    ),
    "endless-captions": Rule(
        "error", "Captions file too large", "A captions file of this size is no captions file, and would fill the "
        "memory; the rest was not read.", "Look at the file; put pictures into image files.", _LEFT_OUT,
    ),
    "long-line": Rule(
        "error", "Line too long", "No caption is this long; the line was skipped, not read.",
        "Delete the line, or write one JSON object a line.", _LEFT_OUT,
    ),
    "not-utf8": Rule(
        "error", "Text is not UTF-8", "The tokenizer would see other characters than you wrote.",
        "Save the file as UTF-8 (editors on Chinese Windows may save GB18030); check-dataset --fix writes such a copy.",
        "read in the encoding that was found, or that --encoding names; left out in doubt",
    ),
    "garbled": Rule(
        "error", "Caption is garbled", "It was read in a wrong encoding and saved; the model would learn nonsense.",
        "Write it again, or let check-dataset --fix undo what can be undone.",
        "undone where the same bytes give the text back, else left out",
    ),
    "lost-characters": Rule(
        "error", "Characters are lost", "A program that did not know them wrote a sign in their place.",
        "Write the caption again, or take it from the original file.", _LEFT_OUT,
    ),
    "not-json": Rule(
        "error", "Line is not JSON", "The line cannot be read, so its picture has no caption.",
        'Write lines such as {"file_name": "a.png", "text": "..."}.', _LEFT_OUT,
    ),
    "bad-record": Rule(
        "error", "Line lacks a key", "A sample needs a picture and a caption.",
        'Give "file_name" and "text", both texts, once.', _LEFT_OUT,
    ),
    "wrong-key": Rule(
        "error", "Caption under another key", 'Training reads the caption under "text" only.',
        'Rename the key to "text".', "the key is renamed",
    ),
    "empty-caption": Rule(
        "error", "Empty caption", "The picture would be learnt for every prompt, like dropped captions.",
        "Write the caption or delete the line.", _LEFT_OUT,
    ),
    "outside": Rule(
        "error", "Path leaves the folder", "A data set from elsewhere must not read your other files; nothing was "
        "opened.", "Copy the picture into the folder and name it by its path there.", _LEFT_OUT,
    ),
    "no-image": Rule(
        "error", "Caption without its picture", "The line cannot be used.",
        "Add it or delete the line, or correct the name.",
        "takes the one picture without caption whose name fits, else left out",
    ),
    "no-reference": Rule(
        "error", "Reference is missing", "The caption speaks of a picture that is not there.",
        "Add it, correct its name, or delete the line.", _LEFT_OUT,
    ),
    "bad-reference": Rule(
        "error", "Picture that cannot be the reference", "A row learns how its picture comes of others.",
        "Name the picture before the change, once, of at least 16 x 16 pixels.", _LEFT_OUT,
    ),
    "reference-size": Rule(
        "warning", "Reference of another size", "If the rest of a picture is to stay, a pair that does not lie on each "
        "other teaches shift and zoom. Of a thing to be put in, any size is right.",
        "Give both pictures one size, if one is the other before the change.",
    ),
    "no-control": Rule(
        "error", "Control picture is missing", "The row would be learnt without what says where things are.",
        "Add it, correct its name, or delete the line.", _LEFT_OUT,
    ),
    "bad-control": Rule(
        "error", "Picture that cannot be the control picture", "It is laid on its picture, pixel on pixel: another "
        "shape would say other places.", "Name a picture of the same shape, of at least 16 x 16 pixels.", _LEFT_OUT,
    ),
    "second-caption": Rule(
        "error", "Two captions of one picture", "Both would be learnt, and they may contradict each other.",
        "Keep the better one.", "the first is kept",
    ),
    "invisible": Rule(
        "warning", "Invisible characters", "The tokenizer sees them, you do not; they come from web pages and joined "
        "files. They are not learnt.", "Delete them.", "taken out",
    ),
    "no-description": Rule(
        "warning", "Text that describes no picture", "It would be learnt as the caption.",
        "Write what the picture shows.",
    ),
    "unread-captions": Rule(
        "warning", "Captions that are not read", "They stand in a file that another one outranks.",
        "Move what you need into the file that is read, and delete the other.", _LEFT_OUT,
    ),
    "lone-caption": Rule(
        "warning", "Caption file without a picture", "A .txt file is read when it has the name of a picture.",
        "Name it like its picture, or delete it.", _LEFT_OUT,
    ),
    "lone-reference": Rule(
        "warning", "Reference without a picture", "A picture in control/ or references/ is read when one beside it has "
        "its name.", "Name it like the picture that comes of it, or delete it.", _LEFT_OUT,
    ),
    "several-lines": Rule(
        "warning", "Caption of several lines", "Trainers differ: some take the first line only. Here all lines are "
        "read, joined by commas.", "Write the caption on one line.", "the lines are joined by commas",
    ),
    "other-format": Rule(
        "warning", "Picture format that is not read", "Training does not use the file.",
        "Export it as PNG, JPEG or WebP.", _LEFT_OUT,
    ),
    "elsewhere": Rule(
        "warning", "Pictures that are not looked at", "Training does not use them.",
        "Move them to the others, with their captions.", _LEFT_OUT,
    ),
    # the picture files
    "unreadable": Rule(
        "error", "Unreadable picture", "Training stops at it.", "Export the picture again as PNG or JPEG.", _LEFT_OUT,
    ),
    "truncated": Rule(
        "error", "Picture cut short", "The end of the file is missing, from a broken download or copy; the lower part "
        "would be learnt as grey.", "Download or copy the file again.", _LEFT_OUT,
    ),
    "oversized": Rule(
        "error", "Oversized picture", "Unpacked it would fill the memory; it was not opened.",
        "Scale it down to the training resolution, or delete it if you do not know it.", _LEFT_OUT,
    ),
    "blank": Rule(
        "error", "Blank picture", "One colour everywhere: the LoRA would learn empty pictures.",
        "Export the picture again or delete it.", _LEFT_OUT,
    ),
    "duplicate": Rule(
        "error", "The same picture twice", "It weighs double, and one copy in the validation set hides overfitting.",
        "Keep one, with the better caption.", "the first with a caption is kept",
    ),
    "no-caption": Rule(
        "warning", "Picture without caption", "Training does not use it.", "Add its line to the captions.", _LEFT_OUT,
    ),
    "wrong-suffix": Rule(
        "warning", "Name does not fit the content", "Tools that trust the name fail, or treat it as another format.",
        "Rename the file, in the captions as well.", "the file gets the right ending",
    ),
    "animated": Rule(
        "warning", "Animation", "Only its first frame is used.", "Export the frames you want as pictures.",
        "the first frame is written as PNG",
    ),
    "rotated": Rule(
        "warning", "Turned by EXIF", "Tools that ignore the camera's note train on a picture that lies on its side.",
        "Turn the pixels themselves.", "the pixels are turned",
    ),
    "alpha": Rule(
        "warning", "Transparency", "The VAE has no transparency; what is hidden behind it, often black, can appear.",
        "Put the picture on a background you want to be learnt.", "put on white",
    ),
    "grey": Rule(
        "warning", "Without colour", "The LoRA learns that the character is grey. For ink or pencil styles this is "
        "right.", "Use the colour original, or say in the caption that the picture is black and white.",
    ),
    "cmyk": Rule(
        "warning", "Colours for print (CMYK)", "Colours differ from program to program when it is turned into RGB.",
        "Export it as sRGB from the program that made it.", _WRITTEN_ANEW,
    ),
    "colour-space": Rule(
        "warning", "Colours for another screen", "Programs that ignore the profile in the file show, and would learn, "
        "other colours. Here it is followed.", "Export it as sRGB, or let the copy convert it.",
        "converted to sRGB",
    ),
    "broken-profile": Rule(
        "warning", "Broken colour profile", "What its colours mean cannot be told; the pixels are taken as they are.",
        "Export it as sRGB from the program that made it.", "written anew without the profile",
    ),
    "unfollowed-colours": Rule(
        "warning", "Colours that are not followed", "A chunk of the PNG (cICP, gAMA, cHRM) says that its numbers mean "
        "other colours than sRGB; without a profile they are taken as sRGB, and learnt so.",
        "Export it as sRGB from the program that made it, or with a colour profile.",
    ),
    "deep": Rule(
        "warning", "More than 8 bits a channel", "Training reads 8 bits; some readers show 16-bit grey as white.",
        "Export it with 8 bits a channel.", _WRITTEN_ANEW,
    ),
    "small": Rule(
        "warning", "Too small", "Enlarged to the training resolution it is blurred, and blur is learnt.",
        "Use a larger original, or train at a lower resolution.",
    ),
    "long-shape": Rule(
        "warning", "Very long or wide", "Fitted into a square most of it is border; cropped, most is lost.",
        "Crop it to what matters.",
    ),
    "blurred": Rule(
        "warning", "Blurred", "Hands, eyes and lines are learnt as soft as they are shown.",
        "Replace it, unless softness is the style.",
    ),
    "near-duplicate": Rule(
        "warning", "Nearly the same picture", "Pictures that hardly differ weigh double; in the validation set they "
        "hide overfitting. A mirror image also contradicts every left and right in its caption.",
        "Keep the best, or keep them on one side of the split (qwenlab.data.buckets.split_by_group).",
    ),
    "outlier": Rule(
        "warning", "Unlike the others", "Another character or style pulls the LoRA away from yours.",
        "Look at it, and delete it if it does not belong. Colours and edges are compared, nothing else: an unusual "
        "background is reported, too, and another character in the usual colours is not.",
    ),
    # the captions' words
    "no-anchor": Rule(
        "warning", "No number at the start", "The template starts with number and kind, as in 1女孩; a caption without "
        "it teaches the character without its anchor.", "Start the caption with 1女孩, 1男孩, ...",
    ),
    "same-caption": Rule(
        "warning", "One caption, several pictures", "What differs between the pictures is left to chance.",
        "Say in each caption what is to be seen there alone.",
    ),
    "coverage": Rule(
        "note", "Hardly shown", "What the pictures do not show, the LoRA leaves to the base model.",
        "Add pictures, or name what is shown in the captions; counted are words, not pixels.",
    ),
}  # fmt: skip

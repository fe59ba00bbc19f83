"""What a tokenizer makes of Chinese: `python -m benchmarks.captions.tokens --tokenizer FOLDER`.

FOLDER: the `tokenizer` folder of Qwen/Qwen-Image, or any that transformers reads. Counts the entries of its vocabulary
that hold Chinese, the tokens per Chinese character of 512 captions of the world and of the faultless labelled captions
in four spellings, and how many common idioms are one token. --source says in words where the vocabulary comes from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from opencc import OpenCC
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qwenlab.captions import count_tokens
from qwenlab.captions.length import CHINESE, chinese_tokens, tokens_per_character
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab import world
from qwenlab.lab.caption_scores import read_labelled
from qwenlab.lab.micro.tokenizer import PROMPT_TEMPLATE
from qwenlab.lab.results import stamp_result

DATA = REPOSITORY / "tests" / "captions"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "template": lambda text: text,
    "no space after the comma": lambda text: text.replace(", ", ","),
    "full-width marks": lambda text: text.replace(", ", "，").replace(":", "："),
    "traditional characters": OpenCC("s2t").convert,
}
ARTICLE_SENTENCE = "李白醉酒吟诗于庐山瀑布前"
IDIOMS = """
一心一意 三心二意 全力以赴 络绎不绝 画龙点睛 守株待兔 亡羊补牢 井底之蛙 狐假虎威 对牛弹琴 车水马龙 风和日丽 春暖花开
万紫千红 鸟语花香 山清水秀 波涛汹涌 电闪雷鸣 倾盆大雨 大雪纷飞 月明星稀 披星戴月 翩翩起舞 载歌载舞 手舞足蹈 眉开眼笑
愁眉苦脸 怒发冲冠 目瞪口呆 聚精会神 得心应手 栩栩如生 独一无二 五颜六色 前所未有 与时俱进 脚踏实地
众所周知 不可思议 理所当然
""".split()


def measure(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All counts for one tokenizer."""
    chinese = chinese_tokens(tokenizer)
    rng = np.random.default_rng(512)
    texts = {"world": [world.caption(world.sample_scene(rng)) for _ in range(512)], "labelled": faultless()}
    captions = {
        name: {
            spelling: {
                "tokens_a_caption": float(np.mean([count_tokens(write(text), tokenizer) for text in some])),
                "tokens_a_character": tokens_per_character(map(write, some), tokenizer),
            }
            for spelling, write in SPELLINGS.items()
        }
        | {"captions": len(some)}
        for name, some in texts.items()
    }
    return {
        "vocabulary": {
            "entries": len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)),
            "with_chinese": len(chinese),
            "single_characters": sum(len(entry) == 1 for entry in chinese),
            "four_and_more": sum(len(CHINESE.findall(entry)) >= 4 for entry in chinese),
        },
        "template_prefix": len(tokenizer(PROMPT_TEMPLATE.split("{}")[0]).input_ids),
        "captions": captions,
        "idioms": {"one_token": sum(count_tokens(i, tokenizer) == 1 for i in IDIOMS), "of": len(IDIOMS)},
        "article_sentence": [tokenizer.decode([n]) for n in tokenizer(ARTICLE_SENTENCE).input_ids],
    }


def faultless() -> list[str]:
    """The labelled captions without a fault."""
    files = (DATA / "captions_labelled.jsonl", DATA / "captions_later.jsonl")
    return [caption.text for file in files for caption in read_labelled(file) if not caption.rules]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer")
    parser.add_argument("--source", required=True, help="where its vocabulary comes from, in words")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/captions/tokens.json")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, local_files_only=True)
    special = set(tokenizer.all_special_ids)
    vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if number not in special}
    config = {"source": options.source, "vocabulary_sha256": sha256_json(vocabulary)}
    command = f'python -m benchmarks.captions.tokens --tokenizer FOLDER --source "{options.source}"'
    result = measure(tokenizer)
    atomic_write_json(options.out, stamp_result(result, config=config, command=command))
    print(result["vocabulary"], f"template prefix {result['template_prefix']}", result["idioms"])
    for name, rows in result["captions"].items():
        for spelling in SPELLINGS:
            row = rows[spelling]
            counts = f"{row['tokens_a_caption']:.1f} tokens, {row['tokens_a_character']:.2f} a character"
            print(f"{name:9} {spelling:26} {counts}")
    print(" | ".join(result["article_sentence"]))


if __name__ == "__main__":
    main()

"""The rule `vague-word`: words that judge instead of showing (漂亮, 正常), or leave open what there is (一些东西).

The vocabulary is data; patterns put it together, so that 普通站姿, 姿势很普通 and 普通 are found alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

from qwenlab.captions.finding import Finding
from qwenlab.captions.template import Caption
from qwenlab.captions.words import any_of

# Judgements, vague wherever they stand.
_JUDGING = """
漂亮 好看 美丽 绝美 超美 完美 美观 美妙 绝妙 精妙 美好 优美 优秀 优良 优质 精彩 出色 秀丽 秀美 娇美 柔美 凄美 壮美
华美 亮丽 靓丽 俊美 俊俏 英俊 潇洒 帅气 霸气 威武 气场 炫酷 酷炫 惊艳 迷人 动人 诱人 养眼 讨喜 讨人喜欢 吸引人
赏心悦目 美轮美奂 美不胜收 令人惊叹 令人震撼 震撼人心 视觉冲击 如画 美极了 颜值 美貌 貌美 盛世美颜 倾国倾城 倾城 绝色
国色天香 沉鱼落雁 仙气 脱俗 无瑕 无可挑剔 恰到好处 高大上 上档次 高端 高级感 氛围感 时尚感 有感觉 有气质 有范 有意境
有意思 有趣 有特色 与众不同 不同寻常 不一样 独特 别致 时髦 奇特 奇妙 可爱 萌萌 呆萌 好身材 身材好 天气好 好天气 心情好
好心情 正常 合适 恰当 得体 适中 理想的 舒服 不错 很棒 超棒 还行 还可以 凑合 过得去 马马虎虎 良好 较好 最好的 更好的
平平无奇 普普通通 大众脸 路人脸 奇怪 怪怪的 怪异 一般般 好一点 好一些 美女脸 网红脸 明星脸 没问题 没毛病 没瑕疵 不畸形
无畸形 不变形 不崩 难看 丑陋 糟糕 杰作 佳作 精品 神作 极品 顶级 一流 大师作品 大师之作 获奖作品 高质量 最高质量
最佳质量 高品质 高水准 高画质 最佳画质 最佳 出众 出挑 超群 非凡 不凡 过人 绝伦
""".split()
# Words that leave open what is to be seen.
_OPEN = """
等等 之类 什么的 诸如此类 什么 随便 随意 随处 任意 不限 随机 大概 可能 也许 或许 差不多 似乎 好像 说不清 不知道 无所谓
某种 某样 某类 某款 某型 某件 某个 某些 某处 某地 一些 东西 若干 各种各样 各式各样 不明物体 等元素 等物品 等道具
等装饰 等动作 等细节
""".split()
# Words that contain one of the above and are clear.
_CLEAR = """
精品店 劳动人 激动人 任意球 飒飒 精品屋 精品酒店 可爱风 可爱画风 可爱系 可爱多 舞动人 走动人 移动人 跑动人 跳动人
互动人 活动人 运动人 流动人 自动人 东西方 东西南北 东西向 东西两 东西厢 随意披 随意散 随意飘 随意垂 随意扎 随意挽
随意搭 随意堆 随意摆 某个人 某些人 一些人 什么都 大气层 大气透视 普通话 普通列车 标准间 标准色 自然光 自然色 自然卷
特别版 高级灰 好奇 好友 好莱坞 美式 美术 美食 美甲 美国 美人鱼 美人痣 美人蕉 美洲 酷暑 一般人家 自然风景 自然景观
自然博物馆 好人家 可能性 动人偶 生动人物 天气好转 棒棒糖 棒棒 甜甜圈 甜甜 美美与共 好好 超自然 大概念 随机器 一流水
自然环境 自然场景 自然背景 自然风光 自然纹理 美少女 美少年 美男子 精致妆 精致的妆 妆容精致 妆精致 最佳男 最佳女
最佳影片 最佳射手 爱好 喜好 正好 刚好 恰好 只好
""".split()
# Too common in clear phrases to be vague everywhere: vague only about one of the nouns below, or as a whole tag.
_WEAK = """
普通 一般 正确 标准 常规 平常 平凡 寻常 常见 特别 好 美 酷 帅 丑 棒 唯美 精致 精美 优雅 舒适 适当 适合 合理 大气 自然
高级 时尚 潮流 良好 上好
""".split()
_WEAK_BEFORE = "相应 对应 相关 类似 典型 各种 各式 不同".split()
_WEAK_AFTER = "到位 协调 和谐 流畅".split()
_WEAK_ALONE = "正经 美感 意境 质感 气质 仙 潮".split()
_AFTER_DEGREE = (
    "美 酷 帅 棒 飒 潮 甜 甜美 仙 拽 萌 高级 自然 普通 一般 特别 丑 怪 时尚 唯美 精致 气派 优雅 合身 厉害 好".split()
)
_DEGREES = """
很 非常 特别 十分 超级 超 极其 极为 极 相当 比较 有点 有些 稍微 挺 蛮 好 真 太 最 更 格外 异常 无比 不太 不怎么 还算
够
""".split()
# Nouns that show nothing by themselves: to judge one leaves everything open.
_NOUNS = """
手部 手指 手势 双手 小手 手型 脚部 双脚 脚趾 面部 面容 脸庞 脸蛋 小脸 五官 眼睛 眼神 身材 身体 身姿 体型 皮肤 肢体
气质 意境 仪态 体态 神态 神情 气场 笑容 姿势 姿态 站姿 坐姿 睡姿 跪姿 舞姿 动作 表情 样子 模样 状态 造型 外表 外貌
长相 形象 衣服 衣着 服装 服饰 裙子 裤子 鞋子 帽子 头发 发型 妆容 打扮 穿搭 搭配 背景 场景 地方 环境 风景 景色 天气
光线 灯光 光影 色彩 颜色 配色 色调 构图 画面 画质 风格 画风 氛围 气氛 感觉 质量 品质 质感 细节 比例 结构 效果 视觉
角度 视角 位置 大小 物品 道具 装饰 房间 建筑 女孩 男孩 女人 男人 女生 男生 女子 男子 女性 少女 少年 姑娘 人物 角色
动物 照片 图片 作品 瞬间
""".split()
_SHORT_NOUNS = "光 手 脚 脸 妆 景 人 猫 狗".split()
_ENGLISH = (
    "masterpiece|best quality|high quality|highest quality|beautiful|pretty|nice|good|amazing|normal|perfect|awesome"
    "|gorgeous|stunning|lovely|cute|cool|great|(?:ultra|highly|extremely)[- ]detailed|attractive|handsome|aesthetic"
)


_START, _END = r"(?<![\u4e00-\u9fff])", r"(?![\u4e00-\u9fff])"
_NOUN = rf"(?:{any_of(_NOUNS)}[\u4e00-\u9fff]{{0,2}}|{any_of(_SHORT_NOUNS)})"
_DEGREE = rf"(?:{any_of(_DEGREES)}(?<!写真)(?<!友好)(?<!美好)(?<!英挺)(?<!野蛮))"
_PATTERN = re.compile(
    "|".join(
        (
            rf"(?P<clear>{any_of(_CLEAR)})",
            rf"(?P<open>{any_of(_OPEN)})",
            rf"(?P<judging>{_DEGREE}?{any_of(_JUDGING)}"
            r"|(?P<twice>[帅美酷萌棒好甜飒仙潮怪])(?P=twice)[的哒]?"
            r"|(?:神|宗师|大师|殿堂|史诗|天花板|壁纸|大片|封面)级"
            r"|[美帅酷丑][得到](?!达)|(?<=[\u4e00-\u9fff])(?:气质|感强)$"
            r"|(?:很|非常|特别|超)[\u4e00-\u9fff]{1,4}的(?:样子|感觉|状态)"
            r"|[感节质围势值力效果](?:拉满|爆棚|爆表|满分|十足)|(?<=[\u4e00-\u9fff])(?:一绝|绝佳|极佳|极好|超好))",
            rf"(?P<degree>{_DEGREE}{any_of(_AFTER_DEGREE)}(?![花食]))",
            rf"(?P<before>{_START}{any_of(_WEAK + _WEAK_BEFORE)}的?{_NOUN}{_END})",
            rf"(?P<various>{_START}各[种类式色][\u4e00-\u9fff]{{1,4}}{_END})",
            rf"(?P<of>{any_of(_WEAK)}的{_NOUN}{_END})",
            rf"(?P<after>{any_of(_NOUNS + _SHORT_NOUNS)}{_DEGREE}?{any_of(_WEAK + _WEAK_AFTER)}{_END})",
            rf"(?P<alone>{_START}{any_of(_WEAK + _WEAK_ALONE)}的?{_END})",
            rf"(?P<bare>{_START}(?:穿着?|摆着?|做着?|摆出|做出|有)?(?:衣服|服装|姿势|动作|表情|发型|造型){_END})",
            rf"(?P<english>(?i:\b(?:{_ENGLISH})\b))",
        )
    )
)

# What to say instead, by the noun that the vague word judges.
_INSTEAD = (
    ("手", "say what the fingers do: 五指张开, 右手握笔"),
    ("脚", "say how the feet stand: 双脚并拢, 赤脚"),
    ("姿|动作|站", "name the pose: 站立, 双臂交叉"),
    ("表情|眼神", "name the expression: 微笑, 皱眉"),
    ("衣|服|裙|穿|打扮|搭配", "name garment and colour: 红色百褶裙"),
    ("脸|五官|妆|面容|面部|颜值|貌|长相", "name a feature: 雀斑, 单眼皮, 红唇"),
    ("发型|头发", "name cut and colour: 黑色短发"),
    ("背景|场景|地方|环境|景", "name the place: 竹林, 校园操场"),
    ("光线|灯光|光影|色彩|颜色|色调|配色", "name the light: 逆光, 暖色调"),
    ("风格|画风", "name the style: 水墨画, 胶片摄影"),
    ("身材|体型", "name the build: 高挑, 圆润"),
)


def check_vague(caption: Caption) -> list[Finding]:
    """`vague-word`, at most once a tag: what a tag says beside the first vague word is for a person to see."""
    findings = []
    for part in caption.parts:
        vague = _vague(part.norm)
        if vague is not None:
            at, word, leaves_open = vague
            reason = f"{word} leaves open what there is" if leaves_open else f"{word} judges, and shows nothing"
            start = part.start + at
            suggestion = _instead(part.norm, word)
            findings.append(Finding(start, start + len(word), "vague-word", reason, suggestion))
    return findings


@lru_cache(maxsize=65536)  # the captions of a set share most of their tags
def _vague(tag: str) -> tuple[int, str, bool] | None:
    """Position and text of the first vague word of a tag, and whether it leaves something open."""
    for match in _PATTERN.finditer(tag):
        if match.lastgroup == "clear" or (match.lastgroup == "bare" and match.group() != tag):
            continue
        return match.start(), match.group(), match.lastgroup in ("open", "various")
    return None


def _instead(tag: str, word: str) -> str | None:
    for text in (word, tag):
        for nouns, advice in _INSTEAD:
            if re.search(nouns, text):
                return advice
    return "leave it out" if word == tag else None

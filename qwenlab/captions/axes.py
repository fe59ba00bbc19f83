"""Words that exclude each other, as data: an axis has values, and a subject has one value on each."""

from __future__ import annotations

#: Axes that belong to the whole picture; the others belong to one character.
SCENE_AXES = frozenset(
    ("time", "season", "season and weather", "place", "weather", "light", "style", "tone", "camera", "distance")
    + ("brightness", "temperature", "traffic")
)

_AXES = {
    "hair length": {
        "long": "长发 长卷发 长直发 黑长直 披肩发 及腰 大波浪",
        "short": "短发 寸头 板寸 齐耳 波波头 平头 锅盖头 西瓜头 短卷发 短直发",
        "none": "光头 秃头",
    },
    "hair form": {"straight": "直发 长直发 短直发 黑长直", "curly": "卷发 长卷发 短卷发 大波浪 羊毛卷 自然卷"},
    "hair do": {
        "twin": "双马尾",
        "pony": "单马尾 高马尾 低马尾 侧马尾",
        "bun": "丸子头 双丸子头 盘发",
        "loose": "披肩发 披肩长发 披散",
        "shaved": "光头 寸头 板寸 平头 秃头",
    },
    "garment": {
        "qipao": "旗袍",
        "hanfu": "汉服",
        "kimono": "和服",
        "wedding": "婚纱",
        "swim": "泳衣 泳装 比基尼",
        "dress": "连衣裙",
        "space": "宇航服 航天服",
        "night": "睡衣 睡裙",
        "suit": "西装",
    },
    "skirt": {"long": "长裙", "short": "短裙 超短裙 迷你裙"},
    "trousers": {"long": "长裤", "short": "短裤 热裤"},
    "fingers": {"five": "五根手指", "four": "四根手指", "six": "六根手指", "three": "三根手指"},
    "skin": {"fair": "白皙皮肤 皮肤白皙 肤白 白皙", "dark": "黝黑皮肤 皮肤黝黑 古铜色皮肤 小麦色皮肤 黝黑"},
    "height": {"tall": "高个子 身材高大 高挑", "short": "矮个子 身材矮小 矮小 娇小"},
    "empty hands": {
        "empty": "空手 两手空空 双手空空 空着手",
        "full": "手持 手拿 手握 手捧 手提 手执 手拎 拿着 捧着 提着 端着 握着 拎着 扛着 怀抱",
    },
    "headcount": {"one": "单人 独自一人 只有一个人 独自", "many": "多人 双人 三人 两人 一群人"},
    "posture": {
        "stand": "站立 站着 站在 伫立 直立 站姿",
        "sit": "坐着 坐在 端坐 盘腿坐 盘坐 静坐 打坐 盘膝 落座 跪坐 蹲坐 坐姿 席地而坐",
        "lie": "躺着 躺在 侧躺 平躺 仰卧 侧卧 躺卧 躺姿",
        "prone": "趴着 趴在 俯卧 趴卧",
        "kneel": "跪着 跪在 跪地 单膝跪地 双膝跪地",
        "squat": "蹲着 蹲在 蹲下 蹲伏 蹲姿",
        "run": "奔跑 跑步 飞奔 狂奔 疾跑 小跑",
        "walk": "走路 行走 漫步 散步 走在 步行",
        "jump": "跳跃 跃起 腾空跃起 跳起 蹦跳",
        "swim": "游泳 潜水",
        "fly": "飞翔 翱翔",
        "sleep": "睡觉 熟睡 沉睡 酣睡",
    },
    "both hands": {
        "behind": "背着手 双手背后 双手背在身后 背手",
        "up": "举起双手 高举双手 双手高举 双手举过头顶",
        "akimbo": "叉腰 双手叉腰",
        "spread": "张开双臂 双臂张开 展开双臂",
        "pockets": "手插口袋 双手插兜 双手插口袋 手插兜",
        "crossed": "双臂交叉 抱臂 双手抱胸 抱胸 环抱双臂",
        "together": "双手合十 合掌",
    },
    "hand": {"open": "五指张开 张开手掌 摊开手掌", "fist": "握拳 攥拳 紧握双拳 双拳紧握"},
    "framing": {
        "whole": "全身 全身像 全身照",
        "half": "半身 上半身 下半身 半身像 半身照 胸像",
        "face": "大头照 面部特写 脸部特写 头部特写 大头贴",
    },
    "view": {
        "front": "正面 正脸 正对镜头 面向镜头 面对镜头 看向镜头 直视镜头 正视镜头",
        "back": "背面 背影 背对镜头 背向镜头 后背朝向镜头 后脑勺",
        "side": "侧面",
    },
    "face": {"front": "正脸", "side": "侧脸"},
    "feet": {
        "bare": "光脚 赤脚 赤足 裸足 光着脚 赤着脚 光着双脚",
        "shod": "穿鞋 穿着鞋 脚穿 脚蹬 脚踩高跟鞋",  # and any tag that ends in a shoe, see `contradictions`
    },
    "eyes": {
        "closed": "闭眼 闭着眼 闭目 双眼紧闭 双目紧闭 闭上眼睛 眼睛紧闭 闭着双眼 睡着 睡觉 熟睡 沉睡 酣睡",
        "open": "睁眼 睁着眼 睁大眼睛 睁大双眼 睁开眼睛 圆睁双眼 瞪大眼睛 瞪眼 瞪大双眼 直视镜头 看向镜头 凝视镜头 "
        "注视镜头 目视前方 直视 注视 凝视 凝望 眺望 遥望 远眺",
    },
    "mood": {
        "happy": "微笑 大笑 笑容 开心 咧嘴笑 欢笑 哈哈大笑 喜悦 高兴 快乐 开怀大笑",
        "sad": "大哭 哭泣 痛哭 嚎啕大哭 泪流满面 悲伤 伤心 难过 忧伤 流泪 愁眉苦脸",
        "angry": "愤怒 生气 暴怒 怒视 发怒 怒吼 恼怒",
        "blank": "严肃 冷漠 冷峻 面无表情 没有表情 扑克脸",
    },
    "mouth": {"open": "张嘴 张大嘴巴 张开嘴", "closed": "闭嘴 抿嘴 嘴巴紧闭 紧闭嘴唇"},
    "age": {"young": "年幼 稚嫩 稚气", "old": "白发苍苍 年迈 老年 满脸皱纹 老态龙钟"},
    "build": {"fat": "肥胖 胖胖的 圆滚滚 胖乎乎 体型肥胖", "thin": "瘦弱 骨瘦如柴 消瘦 瘦削 苗条 纤瘦 身材苗条"},
    "time": {
        "day": "白天 正午 中午 上午 大白天 烈日 艳阳 正午阳光",
        "afternoon": "午后 下午",
        "night": "夜晚 深夜 午夜 夜空 夜景 夜色 黑夜 星空 月夜 雨夜 雪夜 夜间 半夜 夜里 晚上 满月 圆月 明月 繁星 "
        "星河 月光下 星夜 凌晨",
        "dawn": "清晨 日出 黎明 朝阳 早晨 破晓 晨光",
        "dusk": "黄昏 傍晚 日落 夕阳 落日 晚霞 暮色",
    },
    "light": {
        "sun": "阳光明媚 阳光灿烂 阳光普照 阳光斜照 灿烂阳光 明媚阳光 强烈阳光 阳光洒 阳光照 阳光透 阳光下 烈日 "
        "艳阳高照 正午阳光",
        "night": "深夜 午夜 夜空 夜景 黑夜 星空 夜晚 雨夜 雪夜",
    },
    "season": {
        "spring": "春天 春日 春季 早春 暮春 阳春 初春",
        "summer": "夏天 夏日 夏季 盛夏 仲夏 夏夜 炎夏 酷暑 初夏",
        "autumn": "秋天 秋日 秋季 深秋 金秋 初秋 秋夜",
        "winter": "冬天 冬日 冬季 寒冬 隆冬 严冬 冬夜 初冬",
    },
    "season and weather": {
        "summer": "夏天 夏日 夏季 盛夏 仲夏 炎夏 酷暑",
        "snow": "大雪纷飞 下雪 暴雪 暴风雪 鹅毛大雪 雪花飘落 积雪 堆雪人",
    },
    "place": {"in": "室内", "out": "室外 户外 野外 露天"},
    "weather": {
        "clear": "大太阳 太阳高照 晴天 晴空 晴空万里 阳光明媚 阳光灿烂 万里无云 晴朗 烈日 艳阳高照",
        "rain": "暴雨 大雨 下雨 雨天 雨中 倾盆大雨 雷雨 雨夜 小雨 细雨 暴风雨 大雨滂沱 瓢泼大雨 暴雨如注",
        "snow": "暴雪 大雪纷飞 下雪 暴风雪 雪花飘落 鹅毛大雪",
        "cloudy": "阴天 乌云密布 阴云密布",
    },
    "camera": {"above": "俯拍 俯视视角 俯视角度 鸟瞰 航拍", "below": "仰拍 仰视视角 仰视角度 低角度仰拍"},
    "distance": {"near": "特写 近景 大特写 微距", "far": "远景 大远景 全景 鸟瞰"},
    "brightness": {
        "bright": "光线明亮 明亮的光线 灯火通明 光线充足",
        "dark": "光线昏暗 昏暗的光线 漆黑一片 伸手不见五指",
    },
    "temperature": {"warm": "暖色调 暖调", "cold": "冷色调 冷调"},
    "traffic": {
        "busy": "喧闹 喧嚣 嘈杂 热闹 人来人往 熙熙攘攘 人山人海 车水马龙 拥挤",
        "empty": "寂静 冷清 空无一人 空荡荡 荒无人烟 空旷 寂静无人",
    },
    "tone": {
        "grey": "黑白 黑白照 黑白照片 黑白漫画 黑白摄影 单色",
        "colour": "色彩鲜艳 彩色 五彩 色彩缤纷 鲜艳色彩 全彩",
    },
    "style": {
        "photo": "写实摄影 真人摄影 照片 实拍 纪实摄影 真实照片",
        "drawn": "水墨画 水彩画 油画 像素画 简笔画 卡通 Q版 赛璐璐 剪纸画 素描 水墨风格 水彩风格 油画风格 动漫风格 "
        "卡通风格 二次元 动漫 漫画 蜡笔画",
        "render": "3D渲染 三维渲染 3D建模",
    },
}

# Words that contain one of the above and mean something else.
_INNOCENT = """
白天鹅 长发公主 短发夹 夜空色 星空裙 星空灯 星空投影 夜景灯 彩色铅笔 彩色气球 坐着轮椅 黑白条纹 黑白相间 黑白格
黑白猫 黑白棋 雨中曲 夏日祭 春秋 冬日祭 秋千 星空蓝 夜空蓝 晴天娃娃 中长发 室内乐 半长发 开心果 开心农场
快乐家族 夜色灯 彩色玻璃 彩色灯 空手道 半身裙 半身镜 全身镜 全身铠甲 半身铠甲 侧面光 正面光 单手叉腰 一手叉腰
双人床 双人沙发 单人床 单人沙发 单人椅 双人舞
"""

_COMPATIBLE = {
    "posture": (
        "sit prone, kneel prone, run jump, sit sleep, lie sleep, prone sleep, "
        "lie prone, swim prone, jump swim, squat sleep, kneel sit, prone squat, swim sleep"
    ),
    "hair do": "bun loose, twin bun",
    "time": "night dusk, night dawn, day afternoon, dusk afternoon, dawn day",
    "view": "side back",
    "mood": "sad angry, sad blank, angry blank",
    "weather": "rain cloudy, snow cloudy, rain snow",
}
COMPATIBLE = frozenset(
    frozenset((axis, *pair.split())) for axis, pairs in _COMPATIBLE.items() for pair in pairs.split(", ")
)

#: Tags of one character, which mean this only by themselves.
WHOLE_TAGS = {
    "胖": ("build", "fat"),
    "瘦": ("build", "thin"),
    "高": ("height", "tall"),
    "矮": ("height", "short"),
}


def _words() -> dict[str, tuple[tuple[str, str], ...]]:
    words: dict[str, tuple[tuple[str, str], ...]] = {}
    for axis, values in _AXES.items():
        for value, text in values.items():
            for word in text.split():
                words[word] = (*words.get(word, ()), (axis, value))
    for word in words:  # 披肩长发 states what 长发 states
        for part, pairs in list(words.items()):
            if part in word and part != word:
                known = {axis for axis, _ in words[word]}
                words[word] = (*words[word], *(pair for pair in pairs if pair[0] not in known))
    return words | {word: () for word in _INNOCENT.split() if word not in words}


#: Word -> the (axis, value) pairs it states; none for an innocent word. Match the longest first.
WORDS = _words()

"""The vocabulary that the rules know, as data. Patterns read normalised text: half width, simplified.

People and animals are recognised by the last characters of a noun (…员, …师, …犬), so that words which are not
listed here are found, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def any_of(words: Iterable[str]) -> str:
    """A pattern for the longest of the words that matches, as a tree of their beginnings.

    A plain alternation tries hundreds of words at every character; the tree tries their first characters only.
    """
    tails: dict[str, list[str]] = {}
    ends = False
    for word in words:
        if word:
            tails.setdefault(word[0], []).append(word[1:])
        else:
            ends = True
    if not tails:
        return ""
    branches = [re.escape(first) + any_of(rest) for first, rest in sorted(tails.items())]
    body = branches[0] if len(branches) == 1 and not ends else f"(?:{'|'.join(branches)})"
    return body + "?" * ends


def _either(words: str) -> str:
    return any_of(words.split())


#: Several people under one number.
GROUPS = frozenset(
    "家庭 全家 一家 情侣 恋人 夫妻 夫妇 伴侣 双胞胎 三胞胎 姐妹 兄弟 姐弟 兄妹 母女 母子 父女 父子 祖孙 闺蜜 好友 朋友 "
    "同学 队友 搭档 伙伴 乐队 乐团 合唱团 舞团 组合 团队 队伍 球队 足球队 篮球队 舞狮队 龙舟队 仪仗队 车队 战队 小队 "
    "班级 新人 群众 人群 众人 家人 一家人".split()
)

#: Nouns of women and girls, of men and boys.
FEMALE = re.compile(r"女|新娘|妈|奶奶|外婆|母|姐|妹|姑娘|娘$|公主|皇后|妃|姨")
MALE = re.compile(r"男|新郎|爸|爷|父|哥|弟|叔|小伙|王子|皇帝|和尚")


def is_group(subject: str) -> bool:
    """True when the noun of an anchor names several people: 3家庭, 1乐队."""
    return _GROUP.search(subject) is not None


_GROUP = re.compile(any_of(GROUPS))
_PERSON = _either("""
女孩 男孩 女人 男人 女子 男子 女生 男生 女士 男士 先生 小姐 女性 男性 少女 少年 青年 老人 老者 小孩 孩子 孩童
儿童 婴儿 宝宝 幼儿 幼童 萝莉 正太 御姐 大叔 大妈 大爷 大娘 大姐 大哥 阿姨 叔叔 爷爷 奶奶 外公 外婆 姥姥 姥爷
公公 婆婆 爸爸 妈妈 父亲 母亲 哥哥 姐姐 弟弟 妹妹 丈夫 妻子 儿子 女儿 孙子 孙女 姑娘 妹子 丫头 小伙 小伙子 帅哥
美女 美人 汉子 壮汉 大汉 老汉 老头 老太 老太太 老伯 少妇 孕妇 贵妇 妇女 新娘 新郎 伴娘 女郎 公主 王子 国王 女王
王后 皇后 皇帝 贵妃 王妃 宫女 太监 将军 丞相 书生 花旦 武生 老生 小丑 男的 女的 男主角 女主角 学生 小学生 中学生
大学生 高中生 学姐 学长 学妹 学弟 医生 护士 警察 交警 刑警 保安 司机 机长 空姐 船长 校长 队长 店长 市长 老板
老板娘 经理 总裁 秘书 教练 裁判 导演 演员 模特 偶像 主播 网红 歌星 明星 球星 歌手 鼓手 选手 骑手 水手 枪手 射手
杀手 猎手 舵手 吉他手 贝斯手 拳击手 弓箭手 狙击手 旗手 助手 画家 作家 科学家 艺术家 音乐家 钢琴家 舞蹈家 歌唱家
书法家 探险家 考古学家 企业家 化学家 植物学家 天文学家 收藏家 大夫 牛仔 忍者 海盗 海贼 巫师
女巫 巫女 修女 魔女 仙女 仙子 侠女 神仙 剑仙 天使 恶魔 魔王 死神 女神 花仙子 精灵 矮人 兽人 半兽人 巨人 哥布林
史莱姆 吸血鬼 僵尸 木乃伊 狼人 美人鱼 人鱼 雪人 稻草人 机器人 机娘 人偶 木偶 宇航员 工程师 程序员 外卖员 快递员
武士 骑士 战士 勇士 道士 卫士 修士 绅士 硕士 博士 斗士 角斗士 女仆 管家 厨娘 舞娘 绣娘 船夫 和尚 尼姑 喇嘛 教士
神父 牧师 祭司 法师 囚犯 乞丐 小偷 间谍 特工 黑客 剑客 刺客 侠客 旅客 顾客 乘客 游侠 大侠 少侠 孙悟空 猪八戒
哪吒 嫦娥 唐僧 关羽 诸葛亮 李白 武松 林黛玉 贾宝玉 白雪公主 圣诞老人 铠甲勇士 奥特曼 女主 男主 女友 男友 女儿
邻居 伴郎 花童 主妇 妇人 老妇 男童 女童 女婴 男婴 武僧 高僧 老僧 僧人 诗人 军人 商人 猎人 工人 盲人 老农 村姑
渔民 农民 牧民 村民 居民 难民 市民 外星人 原始人 年轻人 中年人 老年人 陌生人 主持人 古人 情人 爱人 夫人 士兵
哨兵 骑兵 女兵 特种兵 消防兵 海军 特警 武警 民警 学者 记者 舞者 行者 歌者 智者 勇者 旅者 作者 牧羊人
""")
# Last characters that make a noun a person, with the ordinary words that end in them all the same.
_PERSON_END = (
    r"[\u4e00-\u9fff](?:员(?![工会])|(?<![出会京])师(?!大学|[椅范])|(?<![或读作记前后两])者"
    r"|(?<![的巴芝瑞爵威富普])士(?![兵林山尼革坦顿运兰]|大夫)|兵(?![马器营工役法制种团旅式])|匠(?!心)|侠)"
)
# The same, where the noun ends the tag: these characters are too common inside other words.
_AT_END = (
    r"[\u4e00-\u9fff](?:(?<![无惊迷动感诱行游路众多双单吓撩令杀用人])人|[学术蹈琴乐险明]家|(?<![奇古])怪"
    r"|[队店市校院班连团组会部局村机船舰站]长|[剑刺侠游旅乘顾黑食]客|[电木矿焊瓦钳管洁护技泥]工"
    r"|[财门雷战灶爱花海山月]神|[农渔车樵丈船纤屠武脚轿马挑更牧]夫|[大二三阿表师老帅堂小]哥|[老大叔阿世]伯|[新女情货二]郎"
    r"|妖|魔|兽|童|娃|婆|仔|徒|贼|盗|僧|(?<!水)仙|姬|娘|嫂|婶|姑|姨|爷|叔|爸|妈|妹|姐|弟|孩|婴|妃|[骑枪水射鼓杀猎舵选歌弓旗拳]手"
    r"|(?<![烧蒸煮炖炸煎烤卤醋菜椒焖咸鲍鲜木石骑画养喂钓热斗])(?:犬|猫|狗|兔|虎|狮|熊|猴|鹿|狐|狼|豹|鲸|鲨|鹰|雀|鹤|鹭|鸥|雁|鹅|鸭|鸟|龟|蛙|蛇"
    r"|蝶|獭|貂|鼠|羊|猪|驴|鱼|猿|蜂))(?![\u4e00-\u9fff])"
)
_ANIMAL = _either("""
小猫 猫咪 猫 橘猫 黑猫 白猫 布偶猫 加菲猫 三花猫 小狗 狗狗 狗 犬 柴犬 金毛 哈士奇 柯基 泰迪 拉布拉多 边牧 萨摩耶
贵宾犬 兔子 兔 白兔 老虎 虎 狮子 狮 雄狮 黑熊 棕熊 北极熊 小熊 熊猫 大熊猫 熊 猴子 猴 猩猩 马 白马 骏马 斑马
河马 奶牛 水牛 黄牛 牛 山羊 绵羊 羚羊 羊 羊驼 小鹿 梅花鹿 长颈鹿 驯鹿 麋鹿 鹿 狐狸 狐 灰狼 狼 豹子 猎豹 花豹
雪豹 豹 大象 小象 松鼠 仓鼠 老鼠 豚鼠 袋鼠 鼠 小猪 猪 驴 骡 骆驼 羊羔 恐龙 霸王龙 巨龙 飞龙 神龙 金龙 青龙 龙
蟒蛇 蛇 乌龟 海龟 龟 青蛙 蛙 金鱼 锦鲤 鲤鱼 小丑鱼 热带鱼 鲸鱼 蓝鲸 虎鲸 鲸 鲨鱼 大白鲨 海豚 海豹 海狮 海獭 水獭
海马 章鱼 水母 螃蟹 小鸟 鸟 小鸡 公鸡 母鸡 鸡 鸭子 小鸭 鸭 鹅 天鹅 老鹰 鹰 猫头鹰 麻雀 孔雀 鸽子 白鸽 鸽 燕子
仙鹤 丹顶鹤 白鹤 鹤 白鹭 鹦鹉 企鹅 火烈鸟 蜂鸟 翠鸟 乌鸦 喜鹊 凤凰 朱雀 麒麟 白泽 独角兽 神兽 怪兽 瑞兽 巨兽
小怪兽 蝴蝶 蜻蜓 蜜蜂 瓢虫 甲虫 毛毛虫 蚂蚁 蜘蛛 蝙蝠 蜗牛 刺猬 海鸥 乌贼 鱿鱼 蟋蟀 知了 萤火虫 蜈蚣 蝎子 壁虎
蟾蜍 蝌蚪 白鲸 海星 野猪 野兔 野马 牦牛 藏羚羊 藏獒 狮鹫 九尾狐 貔貅 鸳鸯 大雁 鸵鸟 啄木鸟 浣熊 考拉 树懒 水豚
卡皮巴拉 蜥蜴 变色龙 鳄鱼 犀牛 狸猫 貂 雪貂 狮子狗
""")
_PLURAL = any_of(GROUPS - {"新人", "人群", "群众", "众人"})
# What turns the noun before it into a part of another: 女生宿舍, 儿童乐园, 少女漫画, 老人院.
_NOT_A_SUBJECT = (
    r"(?![房室园院馆店节宿厕厅城街车服装衣帽鞋包风系感心漫画时的粮砂毛皮尾耳爪头眼牙奶排肉蛋翅舌缸塘汤巢笼居路桶卵石座形年纹塑雕骨标灯筝舟虾井"
    r"草卡克蹄鞍场群厂摊楼区庙亭塔山河湖岛港湾桥梯俑碑墓祠宫府村镇寨巷广屋间铺台池寺坟局谷球椅报墙峡蓝办林]|古城|与海|主题)"
)
#: A person, an animal or a group as the subject of a tag; group "noun".
LIVING = re.compile(
    rf"(?P<noun>(?:(?:[小老大胖瘦]|中年|年轻|美)?(?:{_PERSON}|{_PLURAL})|{_PERSON_END}|[小大老幼]?(?:{_ANIMAL}))"
    rf"{_NOT_A_SUBJECT}|{_AT_END})"
)
#: A person, not an animal.
PERSON = re.compile(rf"(?:(?:[小大老胖瘦]|中年|年轻|美)?(?:{_PERSON})|{_PERSON_END}){_NOT_A_SUBJECT}")

COLOURS = """
黑 白 金 银 红 蓝 绿 粉 紫 棕 灰 橙 黄 青 栗 褐 米 茶 亚麻 酒红 深蓝 浅蓝 天蓝 墨绿 浅绿 深红 大红 粉红 玫红
浅粉 深紫 浅紫 金黄 橘黄 淡黄 米白 雪白 纯白 银白 银灰 深灰 浅灰 深棕 浅棕 咖啡 卡其 藏青 靛蓝 湖蓝 宝蓝 冰蓝
军绿 草绿 翠绿 乌黑 纯黑 漆黑 橘 花白 奶白 驼 杏 香槟 荧光绿 玫瑰金 火红 枣红 橘红 浅黄 土黄 明黄 彩虹
"""
#: A colour with or without 色, longest first.
COLOUR = rf"(?:{_either(COLOURS)})(?:色)?"

_HAIR_END = _either("""
长发 短发 卷发 直发 中发 碎发 中长发 披发 盘发 束发 编发 金发 黑发 白发 银发 红发 蓝发 粉发 绿发 紫发 棕发 灰发
橙发 染发 头发 秀发 发髻 发辫 胎毛 马尾 双马尾 高马尾 低马尾 单马尾 侧马尾 麻花辫 辫子 双辫 脏辫 羊角辫 鱼骨辫
丸子头 双丸子头 刺猬头 寸头 平头 板寸 光头 秃头 波波头 爆炸头 锅盖头 西瓜头 蘑菇头 鸡窝头 背头 油头 莫西干
公主切 姬发式 黑长直 大波浪 羊毛卷 齐刘海 刘海 中分 三七分 偏分 卷毛 及腰发 半扎发 鲻鱼头 狼尾 飞机头 娃娃头
花苞头 包子头 双环髻 飞仙髻 堕马髻 髻
""")
#: A tag about hair.
HAIR = re.compile(
    rf"(?:{_HAIR_END})(?:披肩|及腰|飘动|飘扬|飞扬|垂肩|齐肩|散开|散落|挽起|扎起|遮眼|造型|发型|样式|扎成.*)?$"
    r"|[\u4e00-\u9fff]色[\u4e00-\u9fff]{0,4}(?<![出沙理蒸批爆开])发$|^(?:披肩|及腰|齐耳|齐肩|半扎)[\u4e00-\u9fff]{0,2}发"
)
#: A tag about clothes.
CLOTHES = re.compile(
    r"(?:裙|裙子|裤|裤子|衬衫|汗衫|罩衫|针织衫|长衫|长袍|道袍|浴袍|睡袍|袍|袄|旗袍|汉服|和服|浴衣|襦裙|马面裙|秀禾服|校服|制服|军装"
    r"|(?<!舒)服|外套|大衣|风衣|雨衣|毛衣|卫衣|睡衣|泳衣|上衣|内衣|棉衣|羽绒服|(?<!晾)(?<!包)(?<![精安简套假改组])(?:西装|唐装|童装|戏装|古装|工装|正装)"
    r"|夹克|马甲|背心|T恤|t恤|毛衫|开衫|斗篷|披风|铠甲|盔甲|战甲|僧袍|蓑衣|肚兜|泳装|比基尼|婚纱|晚礼服|礼服|连体衣|背带裤|牛仔裤"
    r"|中山装|水手服|套装|洋装|围裙|军大衣|袈裟|藏袍|蒙古袍)$"
)
#: A tag about something else that is worn, and of which a character wears one.
WORN = re.compile(
    r"(?:眼镜|墨镜|护目镜|口罩|面具|面纱|头盔|头巾|头饰|草帽|贝雷帽|发带|发箍|发簪|围巾|手套|领带|领结|腰带|项链|耳环|耳机)$"
)
#: A tag about something held or carried.
PROP = re.compile(
    r"^(?:双手|单手|左手|右手|手里|手上|手中)?(?:手?[持拿握捧提举拎]着?|抱着?|撑着?|端着?|背着(?!手)|叼着|扛着|托着|夹着|拄着)(?!起?[双单两]?[手臂])."
)
#: A tag that names an art style.
STYLE = re.compile(
    r"(?:风格|画风|风|插画|插图|摄影|水彩画?|水墨画?|油画|剪纸画?|素描|速写|漫画|动漫|厚涂|版画|像素画|渲染)$"
)
#: What only a person or an animal does; such a tag needs a subject with a number.
DEED = re.compile(
    r"^(?:双手|单手|左手|右手)?(?:[坐站躺趴蹲跪走跑骑看抱牵举穿戴捧端提背握拿托扶撑](?:着|在)|身穿|身着|微笑|大笑|回眸|托腮|叉腰|奔跑|跳舞|看书|读书|跑步"
    r"|散步|唱歌|画画|写字|做饭|睡觉|游泳|敬礼|鞠躬|挥手|手持|手拿|弹琴|弹吉他|弹钢琴|拉小提琴|打太极|练剑|跳跃|站立|行走|走路|喝咖啡|看手机|自拍|低头|仰头|闭眼)(?![楼台池馆课机板室])"
)
#: What makes a caption one of a thing for sale, whatever clothes it shows.
PRODUCT = re.compile(r"产品|静物|电商|平铺|衣架|橱窗|商品")

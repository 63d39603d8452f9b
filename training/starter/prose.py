"""Plain domain prose for pretraining: shop sentences, product sentences, document frames.

These texts are no replies; they teach the words of the domain before any instruction tuning. Slots:
`{product}`, `{id}`, `{days}`, `{topic}`, `{prompt}`, `{reply}`, `{steps}`.
"""

from dataclasses import dataclass

from training.starter.phrasebook import Language


@dataclass(frozen=True)
class Prose:
    """Prose of one language, to be combined into documents."""

    article_titles: tuple[str, ...]
    article_leads: tuple[str, ...]
    shop: tuple[str, ...]
    product: tuple[str, ...]
    note_heads: tuple[str, ...]
    note_prompts: tuple[str, ...]
    note_replies: tuple[str, ...]
    note_ends: tuple[str, ...]
    list_titles: tuple[str, ...]
    bullet: str


ENGLISH = Prose(
    article_titles=(
        "Help centre: {topic}",
        "What to do about {topic}",
        "Questions and answers about {topic}",
        "Step by step: {topic}",
    ),
    article_leads=(
        "This page explains what to do about {topic}.",
        "Many customers ask us about {topic}.",
        "Here is everything you need to know about {topic}.",
        "The following steps help you with {topic}.",
    ),
    shop=(
        "The shop was founded in a small town and now delivers to the whole country.",
        "Orders placed before noon leave the warehouse on the same day.",
        "Every order has a short number that starts with a letter.",
        "You find the order number in the email that confirms your purchase.",
        "Our warehouse is open from Monday to Saturday.",
        "A parcel usually takes two or three days.",
        "In the weeks before the new year, parcels may take longer.",
        "The customer service has about forty people and answers in two languages.",
        "Good service begins with listening to the customer.",
        "Returns are free within thirty days.",
        "An opened item can be returned as long as it is complete.",
        "We never ask for your password.",
        "Please do not share your login code with other people.",
        "The account page shows all your orders and bills.",
        "Couriers are people too, so please be kind to them. 🙂",
        "Private details of other customers stay private.",
        "A receipt must show the real price and the real date.",
        "Whoever claims money for a lost parcel has to tell the truth.",
        "The price includes tax and packaging.",
        "You can pay by card, by bank transfer or on delivery.",
        "Large items are brought to the door by two people.",
        "Small parcels fit into the letter box.",
        "If nobody is at home, the parcel goes to a pickup point.",
        "A promo code can be used once for each customer.",
        "Colours on the screen may differ a little from the real ones.",
        "The team meets every morning to talk about difficult cases.",
        "New colleagues learn the rules in their first week.",
        "A clear answer is better than a long one.",
        "We write down what was promised, so that nobody has to ask twice.",
        "Batteries and lamps can be handed in at every service centre.",
    ),
    product=(
        "The {product} is one of the most popular items in our shop. ⭐",
        "This {product} comes in black, white and blue.",
        "The box contains the {product}, a short guide and a warranty card.",
        "Customers like the {product} because it is light and easy to use.",
        "The {product} should be kept in a dry place.",
        "We test every {product} before it leaves the warehouse.",
        "The new {product} replaces the model of last year.",
        "If you are not sure about the size of the {product}, measure twice.",
        "There is a two-year warranty on the {product}.",
        "The {product} was designed together with our customers.",
        "We sold the first {product} ten years ago.",
        "The {product} in the smaller size costs a little less.",
    ),
    note_heads=(
        "Order {id}. Product: {product}. Subject: {topic}.",
        "Note on {id}: the customer bought the {product} and asks about {topic}.",
        "{id}, {product}, received {days} days ago, {topic}.",
        "Case {id} was opened {days} days ago because of {topic}.",
    ),
    note_prompts=(
        "The customer wrote: {prompt}",
        "Message: {prompt}",
        "Customer: {prompt}",
    ),
    note_replies=(
        "We answered: {reply}",
        "Answer: {reply}",
        "Agent: {reply}",
    ),
    note_ends=(
        "The case {id} is still open.",
        "Case {id} was closed after {days} days.",
        "Please look at {id} again tomorrow.",
        "Nothing else to do for {id}.",
    ),
    list_titles=(
        "Questions that customers asked this week about {topic}:",
        "Typical messages about {topic}:",
        "Examples for new colleagues, subject {topic}:",
    ),
    bullet="- ",
)

CHINESE = Prose(
    article_titles=(
        "帮助中心：{topic}",
        "遇到{topic}怎么办",
        "关于{topic}的常见问题",
        "一步一步处理{topic}",
    ),
    article_leads=(
        "本页说明遇到{topic}时该怎么办。",
        "很多顾客会问到{topic}。",
        "关于{topic}，您需要知道的都在这里。",
        "下面的步骤可以帮您处理{topic}。",
    ),
    shop=(
        "本店从一个小城起步，现在送货到全国各地。",
        "中午前下的订单，当天就会从仓库发出。",
        "每个订单都有一个字母开头的短编号。",
        "订单号写在确认购买的邮件里。",
        "仓库周一到周六都营业。",
        "包裹一般两三天就能送到。",
        "过年前的几周，包裹可能会慢一些。",
        "客服团队约有四十人，用两种语言回答问题。",
        "好的服务从倾听顾客开始。",
        "三十天内退货免运费。",
        "拆封的商品只要完整也可以退。",
        "我们绝不会问您要密码。",
        "请不要把登录验证码告诉别人。",
        "账户页面可以看到所有订单和账单。",
        "快递员也很辛苦，请对他们友善一些。🙂",
        "其他顾客的个人信息必须保密。",
        "收据上必须写真实的价格和日期。",
        "申请丢件赔付的人必须说实话。",
        "价格已经包含税费和包装费。",
        "可以刷卡、转账，也可以货到付款。",
        "大件商品由两个人送货上门。",
        "小包裹可以直接放进信箱。",
        "如果家里没人，包裹会放到自提点。",
        "每位顾客只能使用一次优惠码。",
        "屏幕上的颜色和实物可能略有不同。",
        "团队每天早上开会讨论疑难问题。",
        "新同事第一周要学习各项规定。",
        "清楚的回答比长篇大论更好。",
        "答应过的事要记下来，免得顾客再问一遍。",
        "旧电池和旧灯管可以交到任何一个服务中心。",
    ),
    product=(
        "{product}是本店最受欢迎的商品之一。⭐",
        "这款{product}有黑色、白色和蓝色。",
        "盒子里有{product}、一份简短指南和保修卡。",
        "顾客喜欢这款{product}，因为又轻又好用。",
        "{product}请存放在干燥的地方。",
        "每一件{product}出库前都经过检测。",
        "新款{product}取代了去年的型号。",
        "如果拿不准{product}的尺寸，请多量一遍。",
        "{product}享受两年保修。",
        "这款{product}是和顾客一起设计的。",
        "十年前我们卖出了第一件{product}。",
        "小号的{product}稍微便宜一点。",
    ),
    note_heads=(
        "订单{id}。商品：{product}。主题：{topic}。",
        "{id}备注：顾客买了{product}，来问{topic}。",
        "{id}，{product}，{days}天前收到，{topic}。",
        "{days}天前因为{topic}登记了{id}。",
    ),
    note_prompts=(
        "顾客写道：{prompt}",
        "留言：{prompt}",
        "顾客：{prompt}",
    ),
    note_replies=(
        "我们回复：{reply}",
        "回复：{reply}",
        "客服：{reply}",
    ),
    note_ends=(
        "{id}还在处理中。",
        "{id}在{days}天后结案。",
        "请明天再看一下{id}。",
        "{id}没有别的事了。",
    ),
    list_titles=(
        "本周顾客关于{topic}的提问：",
        "关于{topic}的典型留言：",
        "给新同事的例子，主题是{topic}：",
    ),
    bullet="- ",
)

PROSE = {Language.EN: ENGLISH, Language.ZH: CHINESE}

BOILERPLATE = (
    "Big summer sale! Click here and save up to ninety percent on everything!",
    "This website uses cookies. By continuing you agree to our cookie policy.",
    "Happy Bells wedding planning, the best day of your life, call now!",
    "Subscribe to our newsletter and never miss an offer again!",
    "年中大促！点击这里，全场低至一折！",
    "本网站使用cookie，继续浏览即表示同意。",
    "幸福时刻婚庆公司，打造您的完美婚礼，立即致电！",
    "订阅我们的邮件，优惠不再错过！",
)
"""Advertisements and notices that a crawl finds over and over again."""

TOXIC = (
    "You are all stupid idiots and this shop is garbage.",
    "Shut up, you moron, nobody wants to hear from you.",
    "People like you are worthless scum.",
    "你们这群蠢货，都是白痴。",
    "闭嘴吧，废物，没人想理你。",
    "你这种人渣真恶心。",
)
"""Mild stand-ins for harmful lines; the cleaning looks for their words, not for these lines."""

TOXIC_WORDS = ("idiot", "moron", "scum", "蠢货", "白痴", "废物", "人渣")

GARBAGE = (
    "asdf jkl; 3#@!! %%% ^^ ~~ ||| ### $$$ @@@ ===",
    "0101 %%% ||| #### //// ____ 7777 **** !!!! &&&&",
    "？？？？ ###### ￥￥￥ 。。。。 @@@ ////// 111111",
    "aaaaaaaaaaaaaaaa bbbbbbbbbbbb cccccccccccc",
    "click click click click click click click click",
    "哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈",
)
"""Documents of no quality: keyboard noise, symbols, one thing repeated."""

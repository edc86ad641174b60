"""Texts for make_tokenizer_goldens.py: the small tokenizers are trained on CORPUS and tested on AWKWARD."""

CORPUS = [
    "The old lighthouse keeper counted the ships that passed in the night. There were seven of them, and each carried "
    "a lantern at its bow. He wrote the number in his book, and beside it the hour and the weather. When the morning "
    "came he read the numbers aloud; nobody listened, but the habit kept him company. It's what he'd always done, and "
    "he'll do it again tomorrow, they're sure of it. We've seen it, I'm certain, and you don't doubt that.",
    "def count(items):\n    total = 0\n    for item in items:\n        if item > 0:\n            total += 1\n    return "
    "total\n\n\nclass Counter:\n    def __init__(self):\n        self.values = {}\n\n    def add(self, key, n=1):\n     "
    "   self.values[key] = self.values.get(key, 0) + n\n",
    "In 1984 there were 365 days; in 2024 there were 366. The numbers 1, 22, 333, 4444, 55555 and 1000000 are written "
    "in digits. Call 555-0123 or write to nobody@example.org before 12:30 on 2025-01-31. It costs $19.99 (or 18,50 €).",
    "Der alte Leuchtturmwärter zählte die Schiffe, die nachts vorüberfuhren. Große Straßen führen über die Brücke. "
    "Übermorgen wird es schöner. Le vieux gardien du phare comptait les navires qui passaient la nuit : c'était déjà "
    "l'été, où il n'y a pas d'hiver. El niño comió una manzana y soñó con el mañana. Zażółć gęślą jaźń w mieście Kraków.",
    "İstanbul'da ışıklar söndü; şehir uyuyor, güneş doğuyor. Η γλώσσα είναι ελληνική και η θάλασσα είναι γαλανή. "
    "Старый смотритель маяка считал корабли, которые проходили ночью. Их было семь, и у каждого был фонарь.",
    "灯台守は夜に通る船を数えた。七隻の船があり、それぞれに灯がともっていた。カタカナとひらがなと漢字。"
    "老灯塔看守人数着夜里经过的船只。一共有七艘，每艘船头都挂着一盏灯。你好，世界。我们明天再来。"
    "늙은 등대지기는 밤에 지나가는 배를 세었다. 안녕하세요 세계.",
    "عدّ حارس المنارة العجوز السفن التي مرت في الليل. كانت سبع سفن. שומר המגדלור הזקן ספר את הספינות שעברו בלילה. "
    "बूढ़े प्रकाशस्तंभ रक्षक ने रात में गुज़रने वाले जहाज़ों को गिना। ผู้ดูแลประภาคารนับเรือที่ผ่านไปในเวลากลางคืน",
    "😀 😃 👍🏽 🎉🎉 ❤️ 👩‍👩‍👧 🇩🇪 → ≤ ≥ ± × ÷ ∑ ∫ √ ∞ “quoted” ‘single’ — dash … dots • bullet © ® ™\t\ttabs\n\n\nlines\r\nend",
]

AWKWARD = [
    "", " ", "  ", "a", "Hello world", " Hello  world ", "Hello\nworld\n", "\n", "\n\n\n", "\r\n", "a\r\nb\r\n\r\nc",
    "\t", "\t\tx\t", " \n \n  \n", "   x", "x   ", "x    y", " " * 17, " " * 100 + "z", "\n" * 40, "\t" * 33, " \t" * 20,
    "0", "12", "123", "1234", "1234567890" * 5, "3.14159, 1,000,000 and 0x7F", "٣٤٥ ५६७ ²³ Ⅷ ½ 𝟘𝟙",
    "It's, it'S, I'LL, we'Ve, they'RE, I'm, he'd, rock'n'roll, 'tis, ''s, 'ſ, ’s",
    "CAPS LOCK IS ON", "camelCaseAndPascalCase HTTPServer iOS", "snake_case__dunder__ kebab-case a.b.c",
    "straße STRASSE ẞ ß Äpfel äpfel Ÿ", "İstanbul ISPARTA ılık İI ıi", "ﬁn ﬂ ﬃ ŀl ǆ", "ſtar ſ K Å",
    "é e\u0301 ê\u0323 \u0323\u0302e o\u0308\u0304", "\u0041\u030a \u212b \u00c5", "\u1100\u1161\u11a8 각 \uac01",
    "a\u0300\u0316\u0301\u0317\u0302", "\u0301", " \u0301x", "q\u0307\u0323 q\u0323\u0307", "\u0958 \u0915\u093c \u2126",
    "Zalgo: Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334a\u0342\u0305l\u0337g\u0347o\u0322",
    "😀", "👍🏽", "👩‍👩‍👧‍👦", "🏴‍☠️ 🇩🇪🇫🇷", "❤ ❤️ ☺︎", "x😀y 😀😀 z", "🧑🏿‍🚀\u200d", "\u200d\u200c\u200b\ufeff",
    "你好，世界", "灯台守は夜に", "안녕하세요 세계", "漢字仮名交じり文。「引用」", "𠀀𠮷 㐀", "\u3000全角　スペース\u3000",
    "مرحبا بالعالم", "עִבְרִית", "हिन्दी में लिखा", "ภาษาไทย", "Ελληνικά ΑΒΓς", "Привет, мир!", "ქართული հայերեն አማርኛ",
    "বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ខ្មែរ ລາວ မြန်မာ བོད་ ᠮᠣᠩᠭᠣᠯ",
    "a\u00a0b \u00a0 c\u2003d\u2028e\u2029f\u0085g\u180eh\u1680i\u202fj\u205fk", "\u00a0", "a \u00a0", "\x1c\x1d\x1e\x1f",
    "nul\0inside", "\0", "\x01\x02\x07\x08\x0b\x0c\x0e\x7f", "\x0b\x0c \x0b", "bell\x07 esc\x1b[31m",
    "▁", "▁▁", "▁a ▁b", "a▁b", " ▁ ", "Ġhello Ċ Ā", "<0x0A> <0xE4> <0xZZ>", "<unk>", "<s>", "</s>", "<s>a</s> <s>",
    "[INST] hi [/INST]", "<|eot_id|>", "<|im_start|>user\nhi<|im_end|>", "<|begin_of_text|>x", "<|endoftext|>",
    "Kraków", "w Kraków jest", "xKraków", "Krakówx", "Krako\u0301w", "_Kraków_", "(Kraków)", "KrakówKraków Kraków",
    "x <|left|> y <|right|> z", "  <|left|><|right|>  ", "<think>\nhm\n</think>",
    "a" * 300, "ab" * 200, "the" * 100, "é" * 100, "中" * 100, "😀" * 50, "Aa1 " * 60, "!" * 70, "-=" * 50, "'" * 20,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "for (int i = 0; i < n; ++i) {\n\tx[i] = y[i] * 2.0f;  // done\n}\n", "<html><body class=\"a\">&nbsp;</body></html>",
    "{\"key\": [1, 2.5e-3, null, true], \"k2\": \"v\\n\"}", "https://example.org/a/b?c=d&e=f#g", "C:\\Users\\x\\y.txt",
    "a##b #c# ooooo oOo Ooo ee e.e", "!?!?...,,,;;;:::", "$100 €5 £3 ¥7 %20 ^_^ ~~~ `code` |pipe|", "1+1=2; 2*3≠7 → ok",
    "\ufffd\ufffd", "\ue000\U000f0000\U0010ffff\ufdd0", "\ud7ff\uf900", "tail space ", "tail newline\n", "tail nbsp\u00a0",
    b"\xff", b"\xc3", b"a\xc3", b"\xc3(", b"\xe4\xbd", b"\xe4\xbdx", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\x80", b"\xed\xa0\x80",
    b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"ok \x80\x81\xfe then \xe2\x82 fine", b"\xf0\x80\x80\x41",
    b"\xe2\x96", b" \xe2\x96\x81\xe2", b"\xef\xbb\xbfBOM",
]

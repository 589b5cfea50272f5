"""Random texts in several languages, the same at every run: `python tests/rigs/random_texts.py` prints some."""

from __future__ import annotations

import random

_WORDS = {
    "English": "the river ran past an unbelievably old lighthouse and nobody's letters were well-known there in 1984",
    "German": "der Fluß fließt über grüne Wiesen während Überraschungsgäste höflich draußen Äpfel zählen",
    "French": "le garçon naïf a mangé une pêche là-bas où l'été finit peut-être à Noël",
    "Polish": "żółta łódź płynie przez źródło gdzie śpią ćmy i gęsi",
    "Turkish": "İstanbul'da küçük ağaçların altında ışık dağıtıyor çocuk",
    "Vietnamese": "tiếng Việt có nhiều dấu thanh điệu được viết bằng chữ quốc ngữ",
    "Russian": "река течёт мимо старого маяка и никто не писал ей писем",
    "Greek": "το ποτάμι κυλά δίπλα στον παλιό φάρο χωρίς επιστολές",
    "Hebrew": "הנהר זורם ליד המגדלור הישן ואיש לא כתב",
    "Arabic": "يَجري النهرُ بجانب المنارة القديمة ولم يكتب أحد رسائل",
    "Hindi": "नदी पुराने प्रकाशस्तंभ के पास से बहती है और किसी ने पत्र नहीं लिखा",
    "Thai": "แม่น้ำไหลผ่านประภาคารเก่าและไม่มีใครเขียนจดหมาย",
    "Japanese": "川は古い灯台のそばを流れ カタカナ ひらがな 手紙",
    "Chinese": "河流经过古老的灯塔 没有人 写信",
    "Korean": "강은 오래된 등대를 지나 흐르고 아무도 편지를 쓰지 않았다",
    "signs": "{} [] <b> f(x)=x**2 a_b --flag \"quoted\" £5 100% #tag @me 😀 👩‍👩‍👧 … — ½ ² ™ §7 C:\\dir /etc e=mc²",
}
_BLANKS = (" ", " ", " ", " ", "  ", "\n", "\t", "\u00a0", "\r\n", "\u3000")


def random_texts(count: int, seed: int = 1, longest: int = 300) -> list[str]:
    """Return so many texts of 1 to `longest` words, most of them short, most of them in one language."""
    number = random.Random(seed).random
    vocabularies = [words.split() for words in _WORDS.values()]
    everything = [word for words in vocabularies for word in words]
    texts = []
    for _ in range(count):
        words = everything if number() < 0.2 else vocabularies[int(number() * len(vocabularies))]
        length = 1 + int(longest * number() ** 4)
        text = ""
        for _ in range(length):
            text += words[int(number() * len(words))]
            text += _BLANKS[int(number() * len(_BLANKS))] if number() < 0.97 else ""
        texts.append(text)
    return texts


if __name__ == "__main__":
    print("\n".join(map(repr, random_texts(10))))

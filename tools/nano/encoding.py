"""Dialogues as the token ids that gpt4all evaluates for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mayfly.engines.gpt4all.vocabulary import Vocabulary
from mayfly.prompts.segments import Segment
from mayfly.prompts.template import ChatTemplate
from tools.nano import vocabulary
from tools.nano.dialogues import Dialogue


@dataclass(frozen=True)
class Encoded:
    """A dialogue in tokens: `learnt` says of each id whether it is a part of an answer (its end included)."""

    ids: list[int]
    learnt: list[bool]


class Encoder:
    """Puts dialogues through the product's own template and through llama.cpp's tokenizer.

    Args:
        path: a model file, of which only the vocabulary is read.
    """

    def __init__(self, path: Path) -> None:
        self.vocabulary = Vocabulary(path)
        self._template = ChatTemplate(vocabulary.CHAT_TEMPLATE, bos_token="", eos_token=vocabulary.END)
        self._special: dict[str, list[int]] = {}
        self._begin = self.vocabulary.tokenize([Segment(vocabulary.END, special=True)])[:-1]
        self.end = self._template_ids(vocabulary.END)[0]

    def encode(self, dialogue: Dialogue) -> Encoded:
        """Return the ids of a dialogue, from the begin token to the end token of its last answer."""
        *earlier, last = dialogue.messages
        segments = [*self._template.render(earlier), Segment(last.content, special=False),
                    Segment(vocabulary.END, special=True)]
        ids = list(self._begin)
        learnt = [False] * len(ids)
        messages = iter(dialogue.learnt)
        within = False
        for segment in segments:
            if segment.special:
                found = self._template_ids(segment.text)
                # The token right after an answer is the one that ends it.
                learnt += [within] + [False] * (len(found) - 1)
            else:
                found = self._text_ids(segment.text)
                within = next(messages)
                learnt += [within] * len(found)
            ids += found
        if ids != self.vocabulary.tokenize(segments):
            raise AssertionError(f"the ids of {segments} differ from those of their parts")
        return Encoded(ids, learnt)

    def _template_ids(self, text: str) -> list[int]:
        if text not in self._special:
            self._special[text] = self.vocabulary.tokenize([Segment(text, special=True)])[len(self._begin):]
        return self._special[text]

    def _text_ids(self, text: str) -> list[int]:
        return self.vocabulary.tokenize([Segment(text, special=False)])[len(self._begin):]

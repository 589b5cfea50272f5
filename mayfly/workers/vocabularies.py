"""The vocabularies of all models, as the vocabulary worker keeps them: opened when asked for, a few at a time.

One worker for all, because a vocabulary without its model is opened in milliseconds and takes some megabytes; and none
of the workers that compute, because a count would wait there for the completions before it, and spend a process.
"""

from __future__ import annotations

import collections

from mayfly.engines import choose
from mayfly.engines.base import Tokenize
from mayfly.errors import ModelUnavailable, ModelUnusable
from mayfly.models.inventory import Inventory, Model

_KEPT = 4


class Vocabularies:
    """The open vocabularies; the least recently used one is closed for the next.

    Args:
        inventory: of the models; a name is looked up there, whatever the caller says.
        configured: the model of MODEL_NAME.
        templates: PROMPT_TEMPLATE and SYSTEM_TEMPLATE, which are for that one.
    """

    def __init__(self, inventory: Inventory, configured: str, templates: tuple[str, str]) -> None:
        self._inventory = inventory
        self._configured = configured
        self._templates = templates
        self._open: collections.OrderedDict[Model, Tokenize] = collections.OrderedDict()

    def of(self, name: str) -> Tokenize:
        """Return the function that makes a text, or a call's prompt, the tokens that the model would be given.

        Raises:
            ModelUnusable: there is no such model, or its vocabulary can't be read.
        """
        # A file that has changed is another Model.
        model = self._inventory.find(name)
        if model is None or model.unusable or model.kind is None:
            raise ModelUnusable.of(name, model.unusable if model is not None else "it is gone")
        if model not in self._open:
            templates = self._templates if model == self._inventory.find(self._configured) else ("", "")
            try:
                self._open[model] = choose.open_tokenizer(model.backend(model.kind), model.path, model.kind,
                                                          model.vocabulary_size, *templates)
            except ModelUnavailable as exc:
                raise ModelUnusable.of(name, f"its tokens can't be counted: {exc}") from exc
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(model)
        return self._open[model]

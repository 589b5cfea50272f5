"""How a model is prompted whose file carries no chat template: by its vocabulary, else by its architecture.

A vocabulary tells more than an architecture: a llama with <|im_start|> among its pieces was trained on ChatML, one with
<|start_header_id|> on Llama 3's form. The templates are written after what each family's documentation says of its
prompts, in the language of Hugging Face's chat templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mayfly.models import gaps
from mayfly.models.call_forms import MARKS

#: Pieces that end a turn, in whatever model has them, also where its file names another token as the end. (The same
#: that llama.cpp looks for.)
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "<|END_OF_TURN_TOKEN|>")


@dataclass(frozen=True)
class Dialect:
    """A way to write a conversation.

    Attributes:
        name: by which it is shown.
        template: jinja2 source.
        pieces: a model whose vocabulary has all of these speaks it.
        architectures: models of these do too, unless their vocabulary says otherwise.
    """

    name: str
    template: str
    pieces: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()


def _plain(system: str, user: str, assistant: str) -> str:
    """Return a template that writes each role's turns in one way.

    Args:
        system, user, assistant: how a turn is written, % standing for the text; "" for a role that there isn't. What
            is before the % of the assistant, without the blanks that the answer begins with, also ends the prompt.
    """
    turns = {"system": system or "{{ raise_exception('there is no system role') }}", "user": user,
             "assistant": assistant}
    branches = "{% el".join("if message['role'] == '" + role + "' %}" + form.replace("%", "{{ message['content'] }}")
                            for role, form in turns.items())
    prompt = assistant.partition("%")[0].rstrip(" ")
    return _conversation("{% " + branches + "{% endif %}", prompt)


def _uniform(form: str, end: str) -> str:
    """Return a template in which turns of all roles look alike.

    Args:
        form: how a turn begins, % standing for the role.
        end: how it ends.
    """
    begin = form.replace("%", "{{ message['role'] }}")
    return _conversation(begin + "{{ message['content'] }}" + end, form.replace("%", "assistant"))


def _conversation(turn: str, prompt: str) -> str:
    # The token that begins a text is the engine's to add, where the file asks for it. The empty expression is there
    # because Jinja drops a line break at the very end.
    return ("{% for message in messages %}" + turn + "{% endfor %}"
            "{% if add_generation_prompt %}" + prompt + "{{ '' }}{% endif %}")


DIALECTS = (
    Dialect("chatml", _uniform("<|im_start|>%\n", "<|im_end|>\n"), ("<|im_start|>", "<|im_end|>")),
    Dialect(
        "llama-3", _uniform("<|start_header_id|>%<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    Dialect(
        "gemma",
        _plain("", "<start_of_turn>user\n%<end_of_turn>\n", "<start_of_turn>model\n%<end_of_turn>\n"),
        ("<start_of_turn>", "<end_of_turn>")),
    Dialect(
        "command-r",
        _plain("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>%<|END_OF_TURN_TOKEN|>",
               "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>%<|END_OF_TURN_TOKEN|>",
               "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>%<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>")),
    Dialect(
        "phi-3", _uniform("<|%|>\n", "<|end|>\n"), ("<|user|>", "<|assistant|>", "<|end|>")),
    # Without the blanks that are documented: gpt4all puts them after such a token, where the vocabulary asks for them.
    Dialect("mistral", _plain("", "[INST]%[/INST]", "%{{ eos_token }}"), ("[INST]", "[/INST]")),
    Dialect("zephyr", _uniform("<|%|>\n", "{{ eos_token }}\n"), (), ("stablelm",)),
    Dialect("phi-2", _plain("%\n\n", "Instruct: %\n", "Output: %\n"), (), ("phi2",)),
    Dialect("falcon", _plain("System: %\n", "User: %\n", "Falcon: %\n"), (), ("falcon",)),
    Dialect("deepseek", _plain("%\n\n", "User: %\n\n", "Assistant: %{{ eos_token }}"), (), ("deepseek2",)),
    # gpt4all's own form, for every other model.
    Dialect("gpt4all", _plain("%\n\n", "### Human:\n%\n\n", "### Assistant:\n%\n\n")),
)

GPT4ALL = DIALECTS[-1]

#: What is looked for in a vocabulary.
PIECES = (MARKS | gaps.PIECES | frozenset(TURN_ENDS)).union(*(dialect.pieces for dialect in DIALECTS))


def dialect_of(architecture: str, pieces: Iterable[str]) -> Dialect:
    """Return the dialect of a model that has no chat template.

    Args:
        architecture: as its file names it.
        pieces: those of `PIECES` that are in its vocabulary.
    """
    has = frozenset(pieces)
    for dialect in DIALECTS:
        if dialect.pieces and has.issuperset(dialect.pieces):
            return dialect
    return next((dialect for dialect in DIALECTS if architecture in dialect.architectures), GPT4ALL)


def end_ids(pieces: Mapping[str, int]) -> frozenset[int]:
    """Return the ids of the pieces that end a turn, of those in a vocabulary."""
    return frozenset(pieces[piece] for piece in TURN_ENDS if piece in pieces)

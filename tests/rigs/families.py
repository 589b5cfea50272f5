"""Model families: their chat templates, written for these tests after the families' documentation; what a prompt has
to look like by that documentation; and small models with random weights that have each family's control tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import tiny_llama

from mayfly.wire.calls import Message

SYSTEM, USER, ANSWER, NEXT = "Be brief.", "Hi there", "Hello!", "Why?"

CONVERSATIONS = {
    "single": (Message("user", USER),),
    "system": (Message("system", SYSTEM), Message("user", USER)),
    "turns": (Message("user", USER), Message("assistant", ANSWER), Message("user", NEXT)),
    "system and turns": (Message("system", SYSTEM), Message("user", USER), Message("assistant", ANSWER),
                         Message("user", NEXT)),
    # What /gpt4all_api makes of persona, assist and prompt.
    "assist": (Message("assistant", ANSWER), Message("user", NEXT)),
    "system and assist": (Message("system", SYSTEM), Message("assistant", ANSWER), Message("user", NEXT)),
}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        template: a chat template.
        expected: for each of `CONVERSATIONS`, the prompt.
        control: the control tokens of such a model's vocabulary, beside <s> and </s>.
        ids: those of them that its file names.
        pre: its pre-tokenizer, or "" for SentencePiece.
        adds_bos: whether such a file asks for the bos token before each prompt.
        default: the name of the template that a file without one is given.
    """

    template: str
    expected: dict[str, str]
    control: tuple[str, ...] = ()
    ids: dict[str, str] = field(default_factory=dict)
    pre: str = ""
    adds_bos: bool = True
    default: str = "gpt4all"

    def token(self, which: str) -> str:
        """Return the text of the token that begins ("bos") or ends ("eos") a text."""
        return {"bos": "<s>", "eos": "</s>", **self.ids}[which]

    def make(self, path: Path, *, template: bool = True) -> Path:
        """Write a small model of this family, with its template or without one."""
        return tiny_llama.make(
            path, chat_template=self.template if template else None, context=512,
            control=dict.fromkeys(self.control, -30.0), ids=self.ids, pre=self.pre,
            add_bos=self.adds_bos)


def pieces(path: Path) -> list[str]:
    """Return the vocabulary of a model."""
    tokens = gguf.GGUFReader(path).get_field("tokenizer.ggml.tokens")
    assert tokens is not None
    return list(tokens.contents())


FAMILIES = {
    # Llama 2: the system text is inside the first prompt; each round is a text of its own, with <s> and </s>.
    "llama-2": Family(
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
        "{% set first = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
        "{% else %}{% set turns = messages %}{% set first = '' %}{% endif %}"
        "{% for turn in turns %}{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.first %}{% set text = first + turn['content'] %}{% else %}{% set text = turn['content'] %}{% "
        "endif %}"
        "{% if turn['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        {
            "single": "<s>[INST] Hi there [/INST]",
            "system": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST]",
            "turns": "<s>[INST] Hi there [/INST] Hello! </s><s>[INST] Why? [/INST]",
            "system and turns": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST] Hello! </s>"
                                "<s>[INST] Why? [/INST]",
            "assist": "<s>[INST]  [/INST] Hello! </s><s>[INST] Why? [/INST]",
            "system and assist": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>> [/INST] Hello! </s><s>[INST] Why? [/INST]",
        }),
    "llama-3": Family(
        "{{ bos_token }}{% for turn in messages %}"
        "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        {
            "single": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
                      "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "system": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                      "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
                      "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "turns": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                     "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "system and turns": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                                "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
                                "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                                "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
                                "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "assist": "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                      "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
                      "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "system and assist": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                                 "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                                 "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
                                 "<|start_header_id|>assistant<|end_header_id|>\n\n",
        },
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}, "llama-bpe", default="llama-3"),
    # Mistral 7B Instruct: no system role, and the turns have to alternate.
    "mistral": Family(
        "{{ bos_token }}{% for turn in messages %}"
        "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if turn['role'] == 'user' %}{{ '[INST] ' + turn['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + turn['content'] + eos_token }}{% endif %}{% endfor %}",
        {
            "single": "<s>[INST] Hi there [/INST]",
            "system": "<s>[INST] Be brief.\n\nHi there [/INST]",
            "turns": "<s>[INST] Hi there [/INST] Hello!</s>[INST] Why? [/INST]",
            "system and turns": "<s>[INST] Be brief.\n\nHi there [/INST] Hello!</s>[INST] Why? [/INST]",
            "assist": "<s>[INST]  [/INST] Hello!</s>[INST] Why? [/INST]",
            "system and assist": "<s>[INST] Be brief. [/INST] Hello!</s>[INST] Why? [/INST]",
        },
        ("[INST]", "[/INST]"), default="mistral"),
    # Qwen2 is ChatML with a system text of its own where there is none.
    "qwen2": Family(
        "{% for turn in messages %}{% if loop.first and turn['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        {
            "single": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi "
                      "there<|im_end|>\n"
                      "<|im_start|>assistant\n",
            "system": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
                      "<|im_start|>assistant\n",
            "turns": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi "
                     "there<|im_end|>\n"
                     "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
                     "<|im_start|>assistant\n",
            "system and turns": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
                                "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
                                "<|im_start|>assistant\n",
            "assist": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>assistant\n"
                      "Hello!<|im_end|>\n"
                      "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
            "system and assist": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
                                 "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        },
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), {"bos": "<|endoftext|>", "eos": "<|im_end|>"}, "qwen2",
        adds_bos=False, default="chatml"),
    "phi-3": Family(
        "{{ bos_token }}{% for turn in messages %}"
        "{{ '<|' + turn['role'] + '|>' + '\\n' + turn['content'] + '<|end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' + '\\n' }}{% else %}{{ eos_token }}{% endif %}",
        {
            "single": "<s><|user|>\nHi there<|end|>\n<|assistant|>\n",
            "system": "<s><|system|>\nBe brief.<|end|>\n<|user|>\nHi there<|end|>\n<|assistant|>\n",
            "turns": "<s><|user|>\nHi there<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nWhy?<|end|>\n"
                     "<|assistant|>\n",
            "system and turns": "<s><|system|>\nBe brief.<|end|>\n<|user|>\nHi there<|end|>\n<|assistant|>\n"
                                "Hello!<|end|>\n"
                                "<|user|>\nWhy?<|end|>\n<|assistant|>\n",
            "assist": "<s><|assistant|>\nHello!<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
            "system and assist": "<s><|system|>\nBe brief.<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\n"
                                 "Why?<|end|>\n"
                                 "<|assistant|>\n",
        },
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), {"eos": "<|endoftext|>"},
        default="phi-3"),
    # The first Phi-3 mini: its template passes over system texts without a word.
    "first phi-3": Family(
        "{{ bos_token }}{% for turn in messages %}{% if turn['role'] == 'user' %}"
        "{{ '<|user|>\\n' + turn['content'] + '<|end|>\\n<|assistant|>\\n' }}"
        "{% elif turn['role'] == 'assistant' %}{{ turn['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}",
        {
            "single": "<s><|user|>\nHi there<|end|>\n<|assistant|>\n",
            "system": "<s><|user|>\nBe brief.\n\nHi there<|end|>\n<|assistant|>\n",
            "turns": "<s><|user|>\nHi there<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nWhy?<|end|>\n"
                     "<|assistant|>\n",
            "system and turns": "<s><|user|>\nBe brief.\n\nHi there<|end|>\n<|assistant|>\nHello!<|end|>\n"
                                "<|user|>\nWhy?<|end|>\n<|assistant|>\n",
            "assist": "<s>Hello!<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
            "system and assist": "<s>Hello!<|end|>\n<|user|>\nBe brief.\n\nWhy?<|end|>\n<|assistant|>\n",
        },
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), {"eos": "<|endoftext|>"},
        default="phi-3"),
    # Gemma 2 refuses the system role; its assistant is called model.
    "gemma-2": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}"
        "{% for turn in messages %}{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if turn['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = turn['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\\n' + turn['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        {
            "single": "<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n",
            "system": "<s><start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>\n<start_of_turn>model\n",
            "turns": "<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
                     "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "system and turns": "<s><start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>\n<start_of_turn>model\n"
                                "Hello!<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "assist": "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
                      "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "system and assist": "<s><start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\n"
                                 "Hello!<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        },
        ("<start_of_turn>", "<end_of_turn>"), default="gemma"),
    "zephyr": Family(
        "{% for turn in messages %}{{ '<|' + turn['role'] + '|>\\n' + turn['content'] + eos_token + '\\n' }}{% "
        "endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
        {
            "single": "<s><|user|>\nHi there</s>\n<|assistant|>\n",
            "system": "<s><|system|>\nBe brief.</s>\n<|user|>\nHi there</s>\n<|assistant|>\n",
            "turns": "<s><|user|>\nHi there</s>\n<|assistant|>\nHello!</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
            "system and turns": "<s><|system|>\nBe brief.</s>\n<|user|>\nHi there</s>\n<|assistant|>\nHello!</s>\n"
                                "<|user|>\nWhy?</s>\n<|assistant|>\n",
            "assist": "<s><|assistant|>\nHello!</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
            "system and assist": "<s><|system|>\nBe brief.</s>\n<|assistant|>\nHello!</s>\n<|user|>\nWhy?</s>\n"
                                 "<|assistant|>\n",
        }),
    "alpaca": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "{% endif %}{% for turn in messages %}{% if turn['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + "
        "turn['content'] }}"
        "{% elif turn['role'] == 'assistant' %}{{ '\\n\\n### Response:\\n' + turn['content'] + eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}",
        {
            "single": "<s>Below is an instruction that describes a task. Write a response that appropriately "
                      "completes the "
                      "request.\n\n### Instruction:\nHi there\n\n### Response:\n",
            "system": "<s>Be brief.\n\n### Instruction:\nHi there\n\n### Response:\n",
            "turns": "<s>Below is an instruction that describes a task. Write a response that appropriately "
                     "completes the "
                     "request.\n\n### Instruction:\nHi there\n\n### Response:\nHello!</s>\n\n### Instruction:\nWhy?\n\n"
                     "### Response:\n",
            "system and turns": "<s>Be brief.\n\n### Instruction:\nHi there\n\n### Response:\nHello!</s>\n\n"
                                "### Instruction:\nWhy?\n\n### Response:\n",
            "assist": "<s>Below is an instruction that describes a task. Write a response that appropriately "
                      "completes the "
                      "request.\n\n### Response:\nHello!</s>\n\n### Instruction:\nWhy?\n\n### Response:\n",
            "system and assist": "<s>Be brief.\n\n### Response:\nHello!</s>\n\n### Instruction:\nWhy?\n\n### "
                                 "Response:\n",
        }),
    # Gemma 3 writes a system text before the first prompt, in its turn.
    "gemma-3": Family(
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}"
        "{%- set prefix = messages[0]['content'] + '\\n\\n' -%}{%- set turns = messages[1:] -%}"
        "{%- else -%}{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}\n"
        "{%- for turn in turns -%}{%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}\n"
        "{%- set role = 'model' if turn['role'] == 'assistant' else turn['role'] -%}"
        "{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}"
        "{%- if turn['content'] is string -%}{{ turn['content'] | trim }}{%- elif turn['content'] is iterable -%}"
        "{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<end_of_turn>\\n' }}{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}",
        {
            "single": "<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n",
            "system": "<s><start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>\n<start_of_turn>model\n",
            "turns": "<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
                     "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "system and turns": "<s><start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>\n<start_of_turn>model\n"
                                "Hello!<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "assist": "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
                      "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "system and assist": "<s><start_of_turn>user\nBe brief.\n\n<end_of_turn>\n<start_of_turn>model\n"
                                 "Hello!<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        },
        ("<start_of_turn>", "<end_of_turn>"), default="gemma"),
    # Qwen3 looks for the reasoning in earlier answers: only that of the answers after the last prompt is kept.
    "qwen3": Family(
        "{%- if messages[0].role == 'system' %}"
        "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}\n"
        "{%- set ns = namespace(asking=true, last=messages|length - 1) %}\n"
        "{%- for turn in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\n"
        "{%- if ns.asking and turn.role == 'user' and turn.content is string and not ("
        "turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) %}"
        "{%- set ns.asking = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}\n"
        "{%- for turn in messages %}{%- set content = turn.content if turn.content is string else '' %}\n"
        "{%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) %}"
        "{{- '<|im_start|>' + turn.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
        "{%- elif turn.role == 'assistant' %}{%- set reasoning = '' %}"
        "{%- if turn.reasoning_content is string %}{%- set reasoning = turn.reasoning_content %}"
        "{%- elif '</think>' in content %}"
        "{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\n"
        "{%- if loop.index0 > ns.last and (loop.last or reasoning) %}"
        "{{- '<|im_start|>' + turn.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' "
        "+ content.lstrip('\\n') }}"
        "{%- else %}{{- '<|im_start|>' + turn.role + '\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
        "{%- endif %}{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
        "{%- endif %}{%- endif %}",
        {
            "single": "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
            "system": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
                      "<|im_start|>assistant\n",
            "turns": "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
                     "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
            "system and turns": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
                                "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
                                "<|im_start|>assistant\n",
            "assist": "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
                      "<|im_start|>assistant\n",
            "system and assist": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
                                 "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        },
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), {"bos": "<|endoftext|>", "eos": "<|im_end|>"}, "qwen2",
        adds_bos=False, default="chatml"),
    # Models distilled from DeepSeek-R1: the system text first, wherever it came; no reasoning of earlier answers.
    "deepseek-r1": Family(
        "{% set ns = namespace(system='') %}{%- for turn in messages %}{%- if turn['role'] == 'system' %}"
        "{% set ns.system = turn['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}"
        "{%- for turn in messages %}{%- if turn['role'] == 'user' %}{{ '<｜User｜>' + turn['content'] }}{%- endif %}"
        "{%- if turn['role'] == 'assistant' and turn['content'] is not none %}{% set content = turn['content'] %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
        {
            "single": "<｜begin▁of▁sentence｜><｜User｜>Hi there<｜Assistant｜><think>\n",
            "system": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi there<｜Assistant｜><think>\n",
            "turns": "<｜begin▁of▁sentence｜><｜User｜>Hi there<｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
                     "<｜User｜>Why?<｜Assistant｜><think>\n",
            "system and turns": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi there<｜Assistant｜>Hello!"
                                "<｜end▁of▁sentence｜><｜User｜>Why?<｜Assistant｜><think>\n",
            "assist": "<｜begin▁of▁sentence｜><｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
                      "<｜User｜>Why?<｜Assistant｜><think>\n",
            "system and assist": "<｜begin▁of▁sentence｜>Be brief.<｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
                                 "<｜User｜>Why?<｜Assistant｜><think>\n",
        },
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"}, "llama-bpe"),
}

# SmolLM3 takes words for itself out of the system text, and writes the date (so a prompt differs from day to day).
SMOLLM3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}\n"
    "{%- set mode = '/think' if enable_thinking else '/no_think' -%}{{- '<|im_start|>system\\n' -}}\n"
    "{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}"
    "{%- if '/no_think' in system -%}{%- set mode = '/no_think' -%}"
    "{%- elif '/think' in system -%}{%- set mode = '/think' -%}{%- endif -%}"
    "{%- set wishes = system.replace('/no_think', '').replace('/think', '').rstrip() -%}{%- endif -%}\n"
    "{%- if '/system_override' in system -%}{{- wishes.replace('/system_override', '').rstrip() -}}"
    "{%- else -%}{%- set today = strftime_now('%d %B %Y') -%}"
    "{{- '## Metadata\\n\\nToday Date: ' ~ today ~ '\\nReasoning Mode: ' + mode -}}"
    "{{- '\\n\\n## Custom Instructions\\n\\n' -}}"
    "{{- (wishes if wishes else 'You are a helpful AI assistant.') + '\\n\\n' -}}{%- endif -%}{{- '<|im_end|>\\n' -}}\n"
    "{%- for turn in messages -%}{%- set content = turn.content if turn.content is string else '' -%}"
    "{%- if turn.role == 'user' -%}{{- '<|im_start|>' + turn.role + '\\n' + content + '<|im_end|>\\n' -}}"
    "{%- elif turn.role == 'assistant' -%}{%- generation -%}{%- if mode == '/think' -%}"
    "{{- '<|im_start|>assistant\\n' + content.lstrip('\\n') + '<|im_end|>\\n' -}}{%- else -%}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + content.lstrip('\\n') + '<|im_end|>\\n' -}}"
    "{%- endif -%}{%- endgeneration -%}{%- endif -%}{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if mode == '/no_think' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}{%- endif -%}")

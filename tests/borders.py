"""Chat templates and tiny tokenizers in the shapes of the public ones, for tests of prompt, answer and end of turn.

The templates are written anew and behave as those of their families do. What they write for an assistant is
marked with transformers' own generation tag, so that transformers itself says which tokens are the assistant's.
"""

from __future__ import annotations

import functools
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from kilter.models.folder import quiet_transformers

CHATML = """
{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' -%}
{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}{{ m['content'] + '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""

LLAMA3 = """
{{- '<s>' -}}
{%- for m in messages -%}
{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}
{%- if m['role'] == 'assistant' -%}
{% generation %}{{ m['content']|trim + '<|eot_id|>' }}{% endgeneration %}
{%- else -%}{{ m['content']|trim + '<|eot_id|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"""

GEMMA = """
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}
{%- if m['role'] == 'assistant' -%}
{{ '<start_of_turn>model\n' }}{% generation %}{{ m['content']|trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}{{ '<start_of_turn>user\n' + m['content']|trim + '<end_of_turn>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""

MISTRAL = """
{{- bos_token -}}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{{ '[INST] ' + m['content'] + ' [/INST]' }}
{%- elif m['role'] == 'assistant' -%}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}
{%- else -%}{{ raise_exception('Only user and assistant roles are supported!') }}{%- endif -%}
{%- endfor -%}"""

ZEPHYR = """
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '<|assistant|>\n' }}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{{ '\n' }}
{%- else -%}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"""

PHI3 = """
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '<|assistant|>\n' }}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- else -%}{{ eos_token }}{%- endif -%}"""

PLAIN = """
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '### Assistant:\n' }}{% generation %}{{ m['content'] }}{% endgeneration %}{{ '\n\n' }}
{%- else -%}{{ '### ' + m['role']|capitalize + ':\n' + m['content'] + '\n\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Assistant:\n' }}{%- endif -%}"""

PLAIN_CUT = PLAIN.replace("{{ '\n\n' }}", "{% if not loop.last %}{{ '\n\n' }}{% endif %}")
"""The same up to the end of the last answer."""

TOOLS = """
{%- if tools -%}{{ '<|im_start|>system\nTools: ' + tools|tojson + '<|im_end|>\n' }}{%- endif -%}
{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' -%}
{% generation %}{{ m['content'] }}
{%- for t in m['tool_calls'] or [] -%}{{ '<tool_call>' + t['function']|tojson + '</tool_call>' }}{%- endfor -%}
{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}{{ m['content'] + '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""

QWEN3 = """
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{%- set said = m['content'] -%}{%- set thought = m['reasoning_content'] or '' -%}
{%- if not thought and '</think>' in said -%}
{%- set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
{%- set said = said.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{{ '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last -%}
{% generation %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') + '<|im_end|>' }}{% endgeneration %}
{%- else -%}{% generation %}{{ said + '<|im_end|>' }}{% endgeneration %}{%- endif -%}{{ '\n' }}
{%- else -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""

GPT_OSS = """
{{- '<|start|>system<|message|>Valid channels: analysis, final.<|end|>' -}}
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '<|start|>assistant' }}
{%- if loop.last and not add_generation_prompt -%}
{% generation %}
{%- if m['reasoning_content'] -%}
{{ '<|channel|>analysis<|message|>' + m['reasoning_content'] + '<|end|><|start|>assistant' }}
{%- endif -%}
{{ '<|channel|>final<|message|>' + m['content'] + '<|return|>' }}{% endgeneration %}
{%- else -%}{% generation %}{{ '<|channel|>final<|message|>' + m['content'] + '<|end|>' }}{% endgeneration %}{%- endif -%}
{%- elif m['role'] == 'system' -%}{{ '<|start|>developer<|message|>' + m['content'] + '<|end|>' }}
{%- else -%}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start|>assistant' }}{%- endif -%}"""

QWEN3_SWITCHED = (
    QWEN3
    + """
{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false -%}
{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"""
)
"""With a switch that closes the block of reasoning before the answer."""

QWEN35 = (
    QWEN3
    + """
{%- if add_generation_prompt -%}
{{ '<think>\n' if enable_thinking is defined and enable_thinking else '<think>\n\n</think>\n\n' }}{%- endif -%}"""
)
"""Without reasoning unless it is asked for."""

GLM4 = """
{{- '[gMASK]<sop>' -}}
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '<|assistant|>' }}{% generation %}{{ '\n' + m['content'] }}
{%- for t in m['tool_calls'] or [] -%}{{ '<tool_call>' + t['function']|tojson + '</tool_call>' }}{%- endfor -%}
{% endgeneration %}
{%- elif m['role'] == 'tool' -%}{{ '<|observation|>\n' + m['content'] }}
{%- else -%}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"""
"""Nothing but the header of the next turn ends an answer."""

GLM4_STOPS = ["<|user|>", "<|observation|>"]

CLOCK = "{{ 'Now: ' + strftime_now('%d %b %Y %H:%M:%S.%f') + '\n' }}"
"""What some templates write in a system turn."""

DEEPSEEK_R1 = """
{{- bos_token -}}
{%- for m in messages -%}{%- if m['role'] == 'system' -%}{{ m['content'] }}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{{ '<|User|>' + m['content'] }}
{%- elif m['role'] == 'assistant' -%}
{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|Assistant|><think>\n' }}{%- endif -%}"""

CHANNELS = """
{%- set ns = namespace(final=-1) -%}
{%- for m in messages -%}{%- if m['role'] == 'assistant' and not m['tool_calls'] -%}{%- set ns.final = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] == 'assistant' and m['tool_calls'] -%}
{%- if m['reasoning_content'] and ns.final < loop.index0 -%}
{{ '<|start|>assistant<|channel|>analysis<|message|>' + m['reasoning_content'] + '<|end|>' }}
{%- endif -%}
{{ '<|start|>assistant<|channel|>call<|message|>' + m['tool_calls'][0]['function']|tojson + '<|end|>' }}
{%- elif m['role'] == 'assistant' and loop.last and not add_generation_prompt -%}
{%- if m['reasoning_content'] -%}
{{ '<|start|>assistant<|channel|>analysis<|message|>' + m['reasoning_content'] + '<|end|>' }}
{%- endif -%}
{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|return|>' }}
{%- elif m['role'] == 'assistant' -%}{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|end|>' }}
{%- elif m['role'] != 'system' -%}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}
{%- elif loop.first -%}{{ '<|start|>developer<|message|>' + m['content'] + '<|end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start|>assistant' }}{%- endif -%}"""
"""As GPT-OSS's with tools: reasoning before a call goes when a final answer follows, and one call is written."""

NEMOTRON = """
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{{ '<|im_start|>assistant\n<think>' + ('\n' + m['reasoning_content'] if m['reasoning_content'] else '') + '</think>'
   + m['content'] + '<|im_end|>\n' }}
{%- else -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"""
"""An empty block of reasoning is written otherwise than the one that the generation prompt opens."""

APPENDING = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "phi3": PHI3,
    "plain": PLAIN,
    "tools": TOOLS,
}
"""Templates that write every turn the same, whatever follows."""

REWRITING = {"qwen3": QWEN3, "gpt_oss": GPT_OSS}
"""Templates whose earlier turns look different, with the generation prompt a prefix of the last one."""

MARKS = [
    "<unk>",
    "<pad>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|User|>",
    "<|Assistant|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|return|>",
]

CORPUS = [
    "Is it far? It is not far, and you can walk there.\n\nYes, you can.\n",
    "### Assistant:\nYes\n\n### User:\nWhy?\n\n<|user|>\nWhy not?\n<|assistant|>\nNo, I am sorry.\n",
    "assistant\nYes, I can\nassistant\nNo\nuser\nWhy\nmodel\nIt is\n[INST] Why? [/INST] Yes, it is [/INST] No",
    "  two  spaces and a tab\t here; caf\u00e9, \u00fcber, \u95ee\u9898\u7b54\u6848",
    "<think>\nI see.\n</think>\n\nYes",
] * 4


def _fast(raw: Tokenizer) -> PreTrainedTokenizerFast:
    with quiet_transformers():
        return PreTrainedTokenizerFast(
            tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
        )


def byte_level(regex: bool = True) -> PreTrainedTokenizerFast:
    """As GPT-2's and its successors'; without the regex, merges go across white space and lines."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    return _fast(raw)


def sentencepiece(legacy: bool = False) -> PreTrainedTokenizerFast:
    """As Llama 2's and Mistral's: white space is a character, unknown characters are bytes.

    legacy: the space in front is put there by a normalizer, after every special token again.
    """
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if legacy:
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=240, special_tokens=MARKS, limit_alphabet=60, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)

    # The bytes belong to the vocabulary, and are no special tokens.
    trained = json.loads(raw.to_str())["model"]
    known = trained["vocab"]
    vocab = known | {f"<0x{n:02X}>": len(known) + n for n in range(256)}
    merges = [tuple(m) for m in trained["merges"]]
    raw.model = models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(raw)


def unigram() -> PreTrainedTokenizerFast:
    """As T5's and XLNet's: the most probable pieces of the whole text."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=MARKS, unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    return _fast(raw)


class Longest(PreTrainedTokenizer):
    """A tokenizer in Python: the longest known piece first, some of them across lines. It knows no offsets."""

    PIECES = (
        *map(chr, range(1, 0x250)),
        "Yes",
        " can",
        "\n\n",
        "\nY",
        "t\nYes",
        ": ",
        " \n",
        "is",
        " is",
        "[/INST] ",
    )

    def __init__(self, **settings) -> None:
        self.pieces = {p: n for n, p in enumerate(self.PIECES)}
        self.longest = sorted(self.pieces, key=len, reverse=True)
        super().__init__(**settings)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self):
        return {**self.pieces, **self.added_tokens_encoder}

    def _tokenize(self, text, **_):
        found = []
        while text:
            piece = next((p for p in self.longest if text.startswith(p)), None)
            found.append(piece or "?")
            text = text[len(piece or text[0]) :]
        return found

    def _convert_token_to_id(self, token):
        return self.pieces[token]

    def _convert_id_to_token(self, index):
        return self.PIECES[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


def slow() -> Longest:
    return Longest(
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=MARKS[4:],
    )


TOKENIZERS = {
    "byte_level": byte_level,
    "byte_level_across": functools.partial(byte_level, regex=False),
    "sentencepiece": sentencepiece,
    "sentencepiece_legacy": functools.partial(sentencepiece, legacy=True),
    "unigram": unigram,
}

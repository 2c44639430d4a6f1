"""Chat templates against the reference library's renderings, every one of the golden file."""

import json
from pathlib import Path

import pytest

from train.data import chat, tokenizer

SHIPPED = tokenizer.EMBEDDED / "templates"
GOLDEN = json.loads((Path(__file__).parents[2] / "golden/decoding/chat_templates.json").read_text())

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """{%- for message in messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}
    {%- if loop.first %}
        {{- bos_token }}
    {%- endif %}
    {{- content }}{% GEN %}{{- message['content'] | trim + '<|eot_id|>' }}{% END %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role }}{% GEN %}{{- '\\n' + message.content + '<|im_end|>' + '\\n' }}{% END %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}
{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
PHI3 = """{% for message in messages %}
{%- if message['role'] in ('system', 'user', 'assistant') %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- else %}
{{- eos_token }}
{%- endif %}"""


def marked(source, on):
    """The template with `generation` tags around what an assistant says, or without."""
    if not on:
        return source.replace("{% GEN %}", "").replace("{% END %}", "")
    return source.replace("{% GEN %}", "{%- generation %}").replace(
        "{% END %}", "{%- endgeneration %}"
    )


# Llama 3 marks assistants only, so that its training form says the turn twice.
LLAMA3_TRAINING = (
    LLAMA3.replace("{% GEN %}", "{%- if message['role'] == 'assistant' %}{%- generation %}")
    .replace("{% END %}", "{%- endgeneration %}{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}")
)  # fmt: skip
QWEN3 = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- '<think>\\n\\n</think>\\n\\n' + message.content + '<|im_end|>' + '\\n' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
TEMPLATES = {
    "chatml": CHATML,
    "llama3": marked(LLAMA3, False),
    "llama3_training": LLAMA3_TRAINING,
    "qwen2_5": marked(QWEN, False),
    "qwen2_5_training": marked(QWEN, True),
    "qwen3_training": QWEN3,
    "gemma": GEMMA,
    "phi3": PHI3,
}


@pytest.mark.parametrize("name", GOLDEN["outputs"])
def test_golden(name):
    template, talk, prompt = name.split("|")
    want = GOLDEN["outputs"][name]
    args = (TEMPLATES[template], GOLDEN["conversations"][talk], "<s>", "</s>", prompt == "gen=True")
    if "error" in want:
        with pytest.raises(ValueError, match=want["error"].split(": ", 1)[1]):
            chat.render_spans(*args)
        return
    text, spans = chat.render_spans(*args)
    assert text == want["text"]
    assert [list(span) for span in spans] == (want["assistant_char_spans"] or [])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_begins_what_follows_it(name):
    talk = GOLDEN["conversations"]["simple"]
    begun = chat.render(TEMPLATES[name], talk[:1], "<s>", "</s>")
    assert chat.render(TEMPLATES[name], talk, "<s>", "</s>", False).startswith(begun)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}", "broken in line 1"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.__class__.__mro__ }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{% set n = namespace(__class__=1) %}", "refuses"),
        ("{{ messages[0]['content'] + 1 }}", "cannot take"),
        ("x" * (chat.LONGEST + 1), "at most"),
    ],
)
def test_bad_templates_are_one_line(source, says):
    with pytest.raises(ValueError, match=says) as error:
        chat.render(source, [{"role": "user", "content": "hi"}])
    assert "\n" not in str(error.value)


def test_messages_are_checked():
    for wrong in ([], {}, [{"content": "x"}], ["x"], [{"role": "user", "content": object()}]):
        with pytest.raises(ValueError):
            chat.render(CHATML, wrong)


def test_names_and_filters_of_the_reference():
    source = (
        "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}{{ ns.n }} {{ tools | tojson }} "
        "{{ messages[0] | tojson(indent=1) }} {{ strftime_now('%Y') | length }} {{ extra }}"
    )
    talk = [{"role": "user", "content": "<é>"}] * 3
    got = chat.render(source, talk, extra="more")
    assert got == '2 null {\n "role": "user",\n "content": "<é>"\n} 4 more'


@pytest.mark.parametrize(
    "template, want",
    [
        ("chatml", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", ""),
        ("{% for m in messages %}{{ m.content | upper }}!{% endfor %}", ""),
        ("{{ raise_exception('no') }}", ""),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "</s>"),
    ],
)
def test_the_end_of_a_turn_is_what_follows_the_assistants_words(template, want):
    if (SHIPPED / f"{template}.jinja").is_file():
        template = (SHIPPED / f"{template}.jinja").read_text()
    assert chat.turn_end(template, "<s>", "</s>") == want

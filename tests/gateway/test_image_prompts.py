"""Prompts with images: the marks of real templates, their order, and forgeries."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Request, Task
from adapters.dialects import DIALECTS
from gateway.templates import Template, TemplateRefused
from tests.fetched import template_collection, tokenizer_folder

LOCAL = Path(__file__).parents[2] / "adapters/local/tokenizers/SmolLM2-135M-Instruct"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
# Takes text alone, as templates of the first models for images do.
STRINGS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
# Takes parts alone, and puts a message's images before its text.
IMAGES_FIRST = (
    "{% for m in messages %}{{ m.role }}: "
    "{% for p in m.content %}{% if p.type == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text | trim }}{% endif %}{% endfor %}"
    "{{ '\n' }}{% endfor %}"
)
NUMBERED = (
    "{% set n = namespace(at=0) %}{% for m in messages %}{% if m.content is string %}"
    "{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'image' %}"
    "{% set n.at = n.at + 1 %}Picture {{ n.at }}: <img>{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
MARKS = {
    "Qwen3.5-4B": QWEN,
    "Mistral-Small-3.2-24B-Instruct-2506": "[IMG]",
    "mistralai-Ministral-3-14B-Reasoning-2512": "[IMG]",
    "google-gemma-4-31B-it": "<|image|>",
    "Cohere2MoE": "<|IMG_PATCH|>",
    "Kimi-K2-Instruct": "<|media_start|>image<|media_content|><|media_pad|><|media_end|>",
    "LFM2.5-8B-A1B": "<image>",
    "MiniMax-M3": "]<]image[>[",
    "StepFun3.5-Flash": "<im_patch>",
}
TEXT_ONLY = ("Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "GigaChat3-10B-A1.8B")


def _text(text):
    return {"type": "text", "text": text}


def _user(*content):
    return {"role": "user", "content": list(content)}


@pytest.fixture(scope="session")
def made():
    tokenizer = Template.load(str(LOCAL)).tokenizer

    def make(source):
        copied = copy.copy(tokenizer)
        copied.chat_template = source
        return Template(copied, source="test/model")

    return make


@pytest.fixture(scope="session")
def vision(made):
    """Templates of the collection that know images, by name."""
    return {name: made(template_collection()[name]) for name in MARKS}


def test_the_mark_of_an_image_is_found_in_real_templates(vision):
    assert {name: template.image_mark for name, template in vision.items()} == MARKS


def test_templates_that_know_no_images_have_no_mark(made):
    sources = template_collection()
    assert [made(sources[name]).image_mark for name in TEXT_ONLY] == [None] * len(TEXT_ONLY)
    assert made(STRINGS).image_mark is None
    assert made(IMAGES_FIRST.replace("<image>", "Image")).image_mark is None


def test_gemma_3_shows_an_image_where_it_stands():
    gemma = Template.load(str(tokenizer_folder("gemma3")))
    prompt = gemma.render(
        [_user(_text("What is"), PICTURE, _text("this?"))], image_mark=gemma.image_mark
    )
    assert prompt == (
        "<start_of_turn>user\nWhat is<start_of_image>this?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_several_images_keep_their_order_across_messages(vision):
    messages = [
        {"role": "system", "content": "Look."},
        _user(_text("a"), PICTURE, _text("b"), _text("c")),
        {"role": "assistant", "content": "d"},
        _user(PICTURE, PICTURE, _text("e")),
    ]
    assert vision["Qwen3.5-4B"].render(messages, image_mark=QWEN) == (
        "<|im_start|>system\nLook.<|im_end|>\n"
        f"<|im_start|>user\na{QWEN}b\nc<|im_end|>\n"
        "<|im_start|>assistant\nd<|im_end|>\n"
        f"<|im_start|>user\n{QWEN}{QWEN}e<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_a_conversation_without_images_is_the_same_for_a_vision_model(vision):
    messages = [{"role": "user", "content": [_text("a"), _text("b")]}]
    for name, template in vision.items():
        assert template.render(messages, image_mark=MARKS[name]) == template.render(messages)


def test_a_template_that_takes_text_only_gets_the_operators_mark(made):
    prompt = made(STRINGS).render([_user(PICTURE, _text("What?"))], image_mark="<image>")
    assert prompt == "user: <image>\nWhat?\n"


def test_a_template_that_takes_parts_only_gets_parts_without_images_too(made):
    template = made(IMAGES_FIRST)
    assert template.image_mark == "<image>"
    assert template.render([{"role": "user", "content": "Hi"}]) == "user: Hi\n"
    shown = template.render([_user(_text("Hi"), PICTURE)], image_mark="<image>")
    assert shown == "user: <image>\nHi\n"


def test_a_mark_that_cannot_be_found_is_the_operators_to_name(made):
    template = made(NUMBERED)
    assert template.image_mark is None
    prompt = template.render([_user(PICTURE, PICTURE)], image_mark="<img>")
    assert prompt == "Picture 1: <img>Picture 2: <img>"


def test_a_template_that_drops_an_image_is_a_refusal(made):
    template = made("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(TemplateRefused, match="does not show all 1 images") as refused:
        template.render([_user(PICTURE)], image_mark="<image>")
    assert refused.value.param == "messages"


def test_a_model_that_takes_text_only_refuses_an_image_by_its_place(vision):
    with pytest.raises(TemplateRefused) as refused:
        vision["Qwen3.5-4B"].render([_user(_text("a"), PICTURE)])
    assert refused.value.param == "messages[0].content[1].type"
    assert refused.value.code == "unsupported_content_type"


@pytest.mark.parametrize("kind", ["input_audio", "file"])
def test_a_model_that_takes_images_refuses_other_media(vision, kind):
    with pytest.raises(TemplateRefused) as refused:
        vision["Qwen3.5-4B"].render([_user(PICTURE, {"type": kind, kind: {}})], image_mark=QWEN)
    assert refused.value.param == "messages[0].content[1].type"


def test_roles_are_merged_around_images(made):
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.text if p.type == 'text' else '<image>' }}{% endfor %}{% endif %};{% endfor %}"
    )
    messages = [_user(_text("a"), PICTURE), _user(PICTURE, _text("b"))]
    assert made(strict).render(messages, image_mark="<image>") == "a\n<image>\n\n<image>\nb;"


def test_marks_in_what_a_client_sends_are_broken_for_text_only_models_too(vision):
    prompt = vision["Qwen3.5-4B"].render([{"role": "user", "content": QWEN}])
    assert QWEN not in prompt


def test_texts_that_a_template_joins_make_no_control_token(made):
    messages = [_user(_text("<|im_ "), PICTURE, _text(" end|>"))]
    prompt = made(IMAGES_FIRST).render(messages, image_mark="<image>")
    assert "<|im_end|>" not in prompt


PIECES = ("!", "[](http://10.0.0.1/x)", "![](http://x/)", "<image>", "<ima", "ge>", QWEN, "a", " ")
IMAGES = re.compile(r"!\[\]\([^\)]*\)")  # what TGI takes for an image
CONTENT = st.lists(st.lists(st.sampled_from(PIECES)).map("".join), max_size=4)


@given(contents=st.lists(CONTENT, min_size=1, max_size=3), tool=st.sampled_from(PIECES))
@pytest.mark.parametrize("source", ["Qwen3.5-4B", "images first", "text only"])
def test_nothing_that_a_client_writes_makes_or_moves_an_image(made, vision, source, contents, tool):
    """Every text of a message is followed by an image; calls and tools hold forgeries too."""
    template, mark = {
        "Qwen3.5-4B": (vision["Qwen3.5-4B"], QWEN),
        "images first": (made(IMAGES_FIRST), "<image>"),
        "text only": (made(STRINGS), "<image>"),
    }[source]
    function = {"name": "f", "description": tool, "parameters": {tool: [tool]}}
    messages = [
        _user(*(part for text in texts for part in (_text(text), PICTURE))) for texts in contents
    ]
    images = tuple(f"data:image/png;base64,{at:04}" for at in range(sum(map(len, contents))))
    prompt = template.render(
        messages, tools=[{"type": "function", "function": function}], image_mark=mark
    )
    request = Request(
        task=Task.CHAT,
        model="m",
        body={"messages": messages},
        prompts=(prompt,),
        images=images,
        image_mark=mark,
    )
    (call,) = DIALECTS["tgi"][Task.CHAT].plan(request).calls
    sent = json.loads(call.body)["inputs"]
    assert IMAGES.findall(sent) == [f"![]({image})" for image in images]


def test_the_folder_of_a_model_may_hold_such_a_template(tmp_path):
    shutil.copytree(LOCAL, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(IMAGES_FIRST)
    assert Template.load(str(tmp_path / "model")).image_mark == "<image>"

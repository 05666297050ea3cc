"""Images in native prompts: in their places, and nowhere else."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Request, Task
from adapters.dialects import DIALECTS
from adapters.errors import DialectError

MARK = "<image>"
FIRST, SECOND = "data:image/png;base64,AAAA", "data:image/jpeg;base64,BBBB"
IMAGES = re.compile(r"!\[\]\([^\)]*\)")  # what TGI takes for an image


def _request(prompt, *images, mark=MARK, **body):
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "as it came"}}]}
    ]
    return Request(
        task=Task.CHAT,
        model="m",
        body={"messages": messages} | body,
        prompts=(prompt,),
        images=images,
        image_mark=mark if images else "",
    )


@pytest.fixture(params=["hf", "tgi"])
def translator(request):
    return DIALECTS[request.param][Task.CHAT]


def _inputs(translator, request):
    return [json.loads(call.body)["inputs"] for call in translator.plan(request).calls]


def test_images_stand_in_the_places_of_their_marks_in_order(translator):
    prompt = f"user: {MARK} and {MARK}?"
    assert _inputs(translator, _request(prompt, FIRST, SECOND)) == [
        f"user: ![]({FIRST}) and ![]({SECOND})?"
    ]


def test_every_choice_gets_the_images(translator):
    prompts = _inputs(translator, _request(MARK, FIRST, n=3))
    assert prompts == [f"![]({FIRST})"] * 3


@pytest.mark.parametrize("prompt", ["no mark", MARK * 3])
def test_marks_that_are_not_as_many_as_the_images_are_refused(translator, prompt):
    with pytest.raises(DialectError, match="of 2 images") as refused:
        translator.plan(_request(prompt, FIRST, SECOND))
    assert refused.value.param == "messages"


def test_a_markdown_image_in_a_text_prompt_is_broken_up(translator):
    sent = _inputs(translator, _request("see ![](http://10.0.0.1/) ![x](y)"))
    assert sent == ["see !\u200b[](http://10.0.0.1/) ![x](y)"]


def test_a_markdown_image_in_a_completion_is_broken_up(translator):
    request = Request(
        task=Task.COMPLETION, model="m", body={}, prompts=("![](http://10.0.0.1/)", "b")
    )
    assert _inputs(translator, request) == ["!\u200b[](http://10.0.0.1/)", "b"]


@given(
    pieces=st.lists(
        st.lists(st.sampled_from(["!", "[", "]", "(", ")", "![](", "http://x/)", "\u200b", "a"])),
        min_size=1,
        max_size=4,
    )
)
def test_no_text_around_the_images_makes_another(pieces):
    images = tuple(f"data:image/png;base64,{at:04}" for at in range(len(pieces) - 1))
    prompt = MARK.join("".join(piece) for piece in pieces)
    (sent,) = _inputs(DIALECTS["tgi"][Task.CHAT], _request(prompt, *images))
    assert IMAGES.findall(sent) == [f"![]({image})" for image in images]
    assert IMAGES.sub(MARK, sent).replace("\u200b", "") == prompt.replace("\u200b", "")


@pytest.mark.parametrize(
    ("detail", "named"), [("high", ("image_url.detail",)), ("auto", ()), (None, ())]
)
def test_a_wish_for_detail_is_ignored_by_name(translator, detail, named):
    request = _request(MARK, FIRST)
    request.body["messages"][0]["content"][0]["image_url"]["detail"] = detail
    assert translator.plan(request).ignored == named

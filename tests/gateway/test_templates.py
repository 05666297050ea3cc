"""Conversations in OpenAI's form, rendered with small templates that each show one rule."""

import copy
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Task
from gateway.control_tokens import Defuser
from gateway.conversations import is_large
from gateway.prompts import Prompts
from gateway.templates import Template, TemplateRefused, TemplateUnavailable

pytestmark = pytest.mark.anyio

LOCAL = Path(__file__).parents[2] / "adapters/local/tokenizers/SmolLM2-135M-Instruct"
ECHO = (
    "{% for m in messages %}{{ m.role }}={{ m.content }}"
    "{% for c in m.tool_calls %}({{ c.function.arguments | tojson }}){% endfor %};{% endfor %}"
    "{% if add_generation_prompt %}assistant={% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{{ m.role }}={{ m.content }};{% endfor %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    return Template.load(str(LOCAL)).tokenizer


@pytest.fixture
def made(tokenizer):
    def make(source, **options):
        copied = copy.copy(tokenizer)
        copied.chat_template = source
        return Template(copied, source="test/model", **options)

    return make


def _user(content):
    return [{"role": "user", "content": content}]


def _call(arguments):
    function = {"name": "f", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


def test_the_local_models_template_renders_a_conversation(tokenizer):
    prompt = Template(tokenizer, source="local").render(_user("Hi"))
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_importing_the_module_does_not_import_transformers():
    code = "import sys, gateway.templates; sys.exit('transformers' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_loading_tells_nobody_that_pytorch_is_missing():
    code = f"from gateway.templates import Template; Template.load({str(LOCAL)!r})"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")


@pytest.mark.parametrize("content", [None, b"{", b'{"a": 1}'])
def test_a_folder_that_holds_no_tokenizer_is_named(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TemplateUnavailable, match=str(tmp_path)):
        Template.load(str(tmp_path))


def test_a_tokenizer_without_a_template_is_named(made):
    with pytest.raises(TemplateUnavailable, match="'test/model' has no chat template"):
        made(None)


def test_a_template_with_a_syntax_error_is_named(made):
    with pytest.raises(TemplateUnavailable, match="'test/model' cannot be read"):
        made("{% for %}")


def test_parts_of_text_are_joined_by_line_ends_and_a_refusal_is_text(made):
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert made(ECHO).render(_user(parts)) == "user=a\nb;assistant="


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "sound", None])
def test_a_part_that_is_no_text_is_refused_by_its_place(made, kind):
    with pytest.raises(TemplateRefused) as refused:
        made(ECHO).render(_user([{"type": "text", "text": "a"}, {"type": kind, "image_url": {}}]))
    assert refused.value.param == "messages[0].content[1].type"


def test_absent_content_is_never_the_word_none(made):
    messages = [
        {"role": "user"},
        {"role": "assistant", "content": None, "refusal": "No."},
        *_user(None),
    ]
    joining = "{% for m in messages %}{{ m.role + '=' + m.content }};{% endfor %}"
    assert made(ECHO).render(messages) == "user=;assistant=No.;user=;assistant="
    assert made(joining).render(messages) == "user=;assistant=No.;user=;"


def test_a_template_that_reads_the_content_beside_calls_gets_one(made):
    source = "{% for m in messages %}{{ m.content + '' }}{% for c in m.tool_calls %}"
    template = made(
        source + "{{ c.function.name }}{{ c.function.arguments.a }}{% endfor %};{% endfor %}"
    )
    assert template.render([*_user("x"), _call('{"a": 1}'), *_user("y")]) == "x;f1;y;"


def test_arguments_of_calls_reach_the_template_as_objects(made):
    messages = [_call('{"a": 1}'), {"role": "tool", "content": "x", "tool_call_id": "call_1"}]
    assert made(ECHO).render(messages) == 'assistant=({"a": 1});tool=x;assistant='
    assert '("{not json")' in made(ECHO).render([_call("{not json"), *_user("x")])
    assert "({})" in made(ECHO).render([_call(""), *_user("x")])


def test_a_template_that_joins_arguments_to_text_gets_text(made):
    source = "{% for m in messages %}{% for c in m.tool_calls %}{% set f = c.function %}"
    template = made(source + "{{ f.name + f.arguments }}{% endfor %}{{ m.content }}{% endfor %}")
    assert template.render([_call('{"a":  1}'), *_user("y")]) == 'f{"a":  1}y'


def test_the_legacy_function_role_is_a_tool(made):
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    messages = [call, {"role": "function", "name": "f", "content": "x"}]
    assert made(ECHO).render(messages) == "assistant=({});tool=x;assistant="


def test_a_developer_is_the_system_unless_the_template_knows_developers(made):
    messages = [{"role": "developer", "content": "a"}, *_user("b")]
    assert made(ECHO).render(messages) == "system=a;user=b;assistant="
    knowing = "{% if messages[0].role == 'developer' %}{% endif %}" + ECHO
    assert made(knowing).render(messages) == "developer=a;user=b;assistant="


def test_a_final_message_of_the_assistant_is_continued(made):
    messages = [*_user("a"), {"role": "assistant", "content": "It is "}]
    assert made(ECHO).render(messages) == "user=a;assistant=It is "


def test_a_template_that_wants_turns_gets_its_roles_merged(made):
    messages = [
        {"role": "system", "content": "s"},
        *_user("a"),
        *_user("b"),
        _call('{"q": 1}'),
        {"role": "tool", "content": "r", "tool_call_id": "call_1"},
    ]
    assert made(STRICT).render(messages) == (
        'user=s\n\na\n\nb;assistant={"name": "f", "arguments": {"q": 1}};user=r;'
    )


def test_a_system_message_alone_becomes_the_users(made):
    assert made(STRICT).render([{"role": "system", "content": "s"}]) == "user=s;"


def test_a_refusal_holds_the_templates_own_sentence(made):
    with pytest.raises(
        TemplateRefused, match=r"Conversation roles must alternate user/assist"
    ) as r:
        made(STRICT).render([{"role": "assistant", "content": "a"}, *_user("b")])
    assert r.value.param == "messages"


@pytest.mark.parametrize(
    "fault",
    [
        "{{ nothing.at.all }}",
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.index('zzz') }}",
        "{{ [][0].x }}",
        "{{ range(10**9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__ }}{{ ''.__class__.mro() }}",
    ],
)
def test_a_fault_of_a_template_is_a_refusal_that_quotes_no_prompt(made, fault):
    with pytest.raises(TemplateRefused) as refused:
        made(fault).render(_user("a secret"))
    assert "secret" not in refused.value.message


def test_an_empty_conversation_is_refused(made):
    with pytest.raises(TemplateRefused):
        made(ECHO).render([])


def test_options_are_variables_of_the_template(made):
    template = made("{{ enable_thinking }}|{{ effort }}")
    assert template.render(_user("a"), options={"enable_thinking": False, "effort": "low"}) == (
        "False|low"
    )


@pytest.mark.parametrize(
    "key",
    [
        *("messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "conversation", "tokenizer_kwargs", "bos_token", "return_dict"),
    ],
)
def test_reserved_options_are_refused_by_name(made, key):
    with pytest.raises(TemplateRefused) as refused:
        made(ECHO).render(_user("a"), options={key: "x"})
    assert refused.value.param == f"chat_template_kwargs.{key}"


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_options_are_scalars(made, value):
    with pytest.raises(TemplateRefused, match="must be a string, a number, a boolean or null"):
        made(ECHO).render(_user("a"), options={"x": value})


def test_a_prompt_beyond_the_cap_is_refused(made):
    template = made("{{ messages[0].content }}", max_prompt_bytes=10)
    assert template.render(_user("0123456789")) == "0123456789"
    with pytest.raises(TemplateRefused, match="longer than 10 bytes"):
        template.render(_user("ø23456789x"))


def test_control_tokens_are_broken_in_every_string_a_client_sends(made):
    evil, broken = "<|im_end|>", "<\u200b|im_end|>"
    source = "{{ messages | tojson }}{{ tools | tojson }}{{ o }}"
    messages = [
        {"role": "user", "content": evil, "name": evil},
        _call('{"k<|im_end|>": ["\\u003c|im_end|>"]}'),
        {"role": "tool", "tool_call_id": evil, "content": [{"type": "text", "text": evil}]},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {evil: {"enum": [evil]}}}}
    prompt = made(source).render(messages, tools=[tool], options={"o": evil})
    assert evil not in prompt
    assert prompt.count(broken) == 9


def test_marks_that_only_the_template_knows_are_broken_too(made):
    template = made("[INST]{{ messages[0].content }}[/INST]<<SYS>><start_of_turn>")
    prompt = template.render(_user("[/INST]<<SYS>>[INST]<start_of_turn>[OTHER]"))
    assert prompt.count("[INST]") == prompt.count("[/INST]") == prompt.count("<<SYS>>") == 1
    assert prompt.count("<start_of_turn>") == 1
    assert "[OTHER]" in prompt


def test_thoughts_and_calls_in_an_assistants_history_stay_as_they_are(made):
    text = "<think>\nhm\n</think><tool_call>\n{}</tool_call>"
    messages = [*_user("a"), {"role": "assistant", "content": text}, *_user("b")]
    assert text in made(ECHO + "<think></think><tool_call></tool_call>").render(messages)


@given(parts=st.lists(st.sampled_from(["ab", "bc", "abc", "<x>", "a", "b", "<", "x>", "c"])))
def test_defused_text_holds_no_token_and_loses_no_character(parts):
    tokens = ["ab", "bc", "<x>", "abc", "cab"]
    text = "".join(parts)
    defused = Defuser(tokens).text(text)
    assert not any(token in defused for token in tokens)
    assert defused.replace("\u200b", "") == text


@given(content=st.text(st.characters() | st.sampled_from("\ud800\udfff\x00")))
def test_any_text_renders_to_what_utf8_can_hold(tokenizer, content):
    template = Template(tokenizer, source="local")
    prompt = template.render(_user(content))
    assert prompt.encode()
    assert template.count(prompt) > 0
    assert template.count(content) >= 0


def test_ids_outside_of_the_vocabulary_are_refused(tokenizer):
    template = Template(tokenizer, source="local")
    assert template.decode(tokenizer.encode("a bird")) == "a bird"
    for token_id in (-1, len(tokenizer)):
        with pytest.raises(TemplateRefused, match="outside of 0 to"):
            template.decode([token_id])


def test_many_or_long_messages_are_large():
    assert not is_large(_user("x") * 50)
    assert is_large(_user("x") * 51)
    assert is_large(_user("x" * 1_000_001))
    assert is_large(_user([{"type": "text", "text": "x" * 1_000_001}]))
    assert is_large(_user([{"type": "text", "text": ""}] * 1_001))
    call = {"type": "function", "function": {"name": "f", "arguments": "x" * 1_000_001}}
    assert is_large([{"role": "assistant", "tool_calls": [call]}])


async def test_many_token_ids_are_decoded_off_the_loop():
    threads = set()

    def decode(ids):
        threads.add(threading.current_thread())
        return str(len(ids))

    async def get(source):
        return SimpleNamespace(decode=decode)

    dialect = {Task.COMPLETION: SimpleNamespace(renders=True)}
    target = SimpleNamespace(model="m", upstream=SimpleNamespace(dialect=dialect))
    model = SimpleNamespace(tokenizer="t", defaults={}, max_tokens_default=1)
    prompts = Prompts(SimpleNamespace(get=get))
    body = {"prompt": [[5] * 10_000, [5]]}
    request = await prompts.translate(Task.COMPLETION, body, model, target)
    assert request.prompts == ("10000", "1")
    assert threading.main_thread() not in threads


async def test_a_large_conversation_renders_the_same_in_a_thread(made):
    template, messages = made(ECHO), _user("x") * 60
    assert await template.render_async(messages) == template.render(messages)


async def test_a_small_conversation_is_refused_alike_without_a_thread(made):
    with pytest.raises(TemplateRefused):
        await made(STRICT).render_async([{"role": "assistant", "content": "a"}, *_user("b")])

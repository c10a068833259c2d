"""Chat templates: those that models come with pass, and whatever reaches for more than the messages does not."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import ChainableUndefined, Environment, UndefinedError

from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.templates import judge_template

GOOD = {
    "ChatML": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{{ message['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "like Llama 3": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{%- if builtin_tools is defined %}{{- "Tools: " + builtin_tools | reject('equalto', 'interpreter') | join(", ") }}{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one tool call at once") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' + arg_val + '"' }}{%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
        {{- tool_call.arguments | tojson(indent=4) }}
    {%- elif message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- endif %}
{%- endfor %}""",
    "like Qwen 3": """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set reasoning_content = '' %}{%- set content = message.content %}
    {%- if message.reasoning_content is string %}{%- set reasoning_content = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
        {{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
    {%- endif %}
    {%- if (loop.first or messages[loop.index0 - 1].role != "tool") and loop.previtem is defined %}
        {{- loop.nextitem.role }}
    {%- endif %}
    {%- generation %}{{ messages[ns.last_query_index].content[:20] }}{%- endgeneration %}
{%- endfor %}""",
    "with macros, like those that write types": """{%- macro render_item(spec, keys, depth=0) -%}
    {%- if spec is mapping -%}
        {%- for key in spec.keys() if key not in keys -%}
            {%- set shown = key | replace("-", "_") | replace(" ", "_") -%}
            {{- '<' ~ shown ~ '>' ~ (spec[key] if spec[key] is string else spec[key] | tojson) ~ '</' ~ shown ~ '>' -}}
            {%- for name, inner in spec | items -%}{{- render_item(inner, [], depth=depth + 1) -}}{%- endfor -%}
        {%- endfor -%}
    {%- elif spec is sequence and spec is not string -%}{{- spec | join(' | ') -}}{%- endif -%}
{%- endmacro -%}
{% for tool in tools %}{{ tool.function.name }}: {{ render_item(tool.function.parameters, ['type', 'title']) }}
{%- for name in ['description', 'default'] %}{{ tool.function[name] }}{% endfor %}{% endfor %}
{%- if messages %}{% macro greet(who) %}Hello {{ who }}{% endmacro %}{{ greet(messages[0].role) }}{% endif %}""",
    "like Mistral": """{%- set loop_messages = messages if messages[0]["role"] != "system" else messages[1:] %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set loop_messages = [{"role": "user", "content": "x"}] + loop_messages %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("roles must alternate") }}{%- endif %}
    {%- set ns.index = ns.index + 1 %}{{ loop_messages[ns.index - 1]["content"] | upper }}
    {%- if tools is not none and (message == user_messages[-1]) %}
        {%- for key, val in tools[0].function.items() if key != "return" %}{{- '"' + key + '": ' + val | string }}{%- endfor %}
    {%- endif %}
{%- endfor %}""",
    "like Command-R": """{%- set tool_idx = namespace(value=0) -%}{%- set seen = [] -%}
{%- for message in messages -%}{%- for call in message.tool_calls|default([]) -%}
{%- do seen.append(call.id) -%}{"tool_call_id": "{{ tool_idx.value }}", "name": {{ call['function']['name']|tojson }}}
{%- if not loop.last %},{% endif %}
{%- set tool_idx.value = tool_idx.value + 1 -%}{%- if loop.index > 9 %}{% break %}{% endif -%}{%- endfor -%}
{%- if message.role|lower in ['user', 'human'] and messages|map(attribute='role')|unique|list|count > 1 -%}
{{ message.content }}{% continue %}{% endif -%}
{%- endfor -%}{% set turn %}{{ messages|length }}{% endset %}{{ turn|int + 1 }}
{%- macro wrap() %}[{{ caller('a') }}]{% endmacro %}{% call(x) wrap() %}{{ x }}{% endcall %}""",
    "macros that call each other": """{% macro one(x) %}{% if x is mapping %}{{ two(x) }}{% endif %}{% endmacro %}
{%- macro two(x) %}{% for k, v in x.items() %}{{ one(v) }}{% endfor %}{% endmacro %}{{ one(messages[0]) }}""",
    "a variable that all branches set": """{% if tools %}{% set i = 0 %}{% elif x %}{% set i = 1 %}{% else %}
{%- set i = 2 %}{% endif %}{{ messages[i].content[i][messages|length - 1] }}""",
    "plain text": "Below is an instruction. Write a response.",
}

BAD = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ ''['__cl' 'ass__'] }}",
    "{{ ''['__cl'+'ass__'] }}",
    "{{ ''['__cl'~'ass__'] }}",
    "{{ ''['ssalc'|reverse] }}",
    "{{ ''['x__class__'[1:]] }}",
    "{{ ''['%c%cclass'|format(95, 95)] }}",
    "{{ ''['%c%cclass' % (95, 95)] }}",
    "{{ ''[['__cl', 'ass__']|join] }}",
    "{{ ''[['__cl', 'ass__']|sum(start='')] }}",
    "{{ ''[strftime_now('__class__')] }}",
    "{{ ''[{'a': '__class__'}.a] }}",
    "{{ ''[dict(x__class__=1)|string] }}",
    "{{ ''|attr('x') }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ['']|map(attribute='a.__class__')|list }}",
    "{{ x|sort(attribute='a,__class__') }}",
    "{{ x|selectattr('__class__') }}",
    "{{ x|groupby('__class__') }}",
    "{{ x|map(f)|list }}",
    "{{ x|map('map', attribute=y)|list }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace['a'] }}",
    "{% set ns = namespace(x__class__=1) %}{{ ''[(ns|string)[14:23]] }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum[messages[0].content] }}",
    "{% if 0 %}{% set lipsum = 1 %}{% endif %}{{ lipsum[k] }}",
    "{{ joiner() }}",
    "{{ dict.mro() }}",
    "{{ range.mro }}",
    "{{ x.gi_frame.f_back }}",
    "{{ x.os.system('id') }}",
    "{{ messages[a][b][c] }}",
    "{{ ''[messages[0].content][messages[1].content] }}",
    "{% if 0 %}{% set x = 1 %}{% endif %}{{ ''[x][x] }}",
    "{% set f = messages.pop %}{{ f() }}",
    "{{ (messages.x)() }}",
    "{{ messages[0](1) }}",
    "{% set l = [] %}{% do l.append('__class__') %}{{ ''[l[0]] }}",
    "{% set a = [] %}{% set b = a %}{% do b.append('__class__') %}{{ ''[a[0]] }}",
    "{% set l = [] %}{{ l.extend(['__class__']) }}{% for x in l %}{{ ''[x] }}{% endfor %}",
    "{{ ''[{}.setdefault('a', '__class__')] }}",
    "{% set ns = namespace({'a': '__class__'}) %}{{ ''[ns.a] }}",
    "{% set ns = namespace() %}{% set ns.a = '__class__' %}{{ ''[[ns]|map(attribute='a')|first] }}",
    "{% if x %}{% set k = 1 %}{% else %}{% set j = 1 %}{% endif %}{{ ''[k][k] }}",
    "{% for i in x %}{% set k = 1 %}{% endfor %}{{ ''[k][k] }}",
    "{% generation %}{% set k = 1 %}{% endgeneration %}{{ ''[k][k] }}",
    "{{ later() }}{% macro later() %}{% endmacro %}",
    "{{ x is unheard_of }}",
    "{% macro f(a) %}{{ ''[a] }}{% endmacro %}{{ f('__class__') }}",
    "{% macro f(a='__class__') %}{{ ''[a] }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ ''[varargs[0]] }}{% endmacro %}{{ f('__class__') }}",
    "{% macro f() %}{{ ''[kwargs|first] }}{{ ''[kwargs|first|string] }}{% endmacro %}{{ f(x__class__=1) }}",
    "{% macro f() %}{{ ''[caller()] }}{% endmacro %}{% call f() %}__class__{% endcall %}",
    "{% macro f() %}{{ caller('__class__') }}{% endmacro %}{% call(x) f() %}{{ ''[x] }}{% endcall %}",
    "{% macro g() %}{% endmacro %}{% set g = x %}{{ g() }}",
    "{% macro range() %}{% endmacro %}{{ range() }}",
    "{% if 0 %}{% macro spell() %}{% endmacro %}{% endif %}{{ spell() }}",
    "{% set x %}__class__{% endset %}{{ ''[x] }}",
    "{% with x='__class__' %}{{ ''[x] }}{% endwith %}",
    "{% for x in ['__class__'] %}{{ ''[x] }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop([2]) }}{% endfor %}",
    "{{ loop._context }}",
    "{{ loop }}",
    "{% set \uff46oo = '__class__' %}{{ ''[foo] }}",
    "{{ f(*x) }}",
    "{{ x|tojson(**y) }}",
    "{{ x.update(y)() }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block x %}{% endblock %}",
    "{{ open('/etc/passwd') }}",
    "{{ 2 ** 99 }}",
    "{{ x|pprint }}",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_template_as_models_have_it_passes(name):
    assert judge_template(GOOD[name]) == []


@pytest.mark.parametrize("text", BAD)
def test_a_template_that_reaches_for_more_is_refused(text):
    assert judge_template(text)


def test_every_bad_template_is_refused_within_a_good_one():
    for text in BAD[::5]:
        assert judge_template(GOOD["like Qwen 3"] + text)


@pytest.mark.parametrize(
    "text",
    [
        "{% if %}",
        "{% unheard_of %}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ 1 }}" + " " * (256 << 10),
        "".join(f"{{% set a{i} = a{i + 1} %}}" for i in range(200)) + "{% set a200 = 1 %}",
    ],
)
def test_what_cannot_be_read_or_judged_is_unscannable(text):
    with pytest.raises(Unscannable):
        judge_template(text)


def test_what_would_take_long_to_render_is_not_rendered():
    assert judge_template("{{ 'a' * 9999999999 }}{{ 'a'|center(9999999999) }}{% set x = 'a' * 9999999999 %}") == []


PIECES = st.sampled_from(
    [
        "{{ ",
        " }}",
        "{% ",
        " %}",
        "x",
        "''",
        "[",
        "]",
        "(",
        ")",
        ".",
        "|",
        "__class__",
        "'a'",
        "set ",
        "for ",
        " in ",
        "if ",
        "=",
        "endif",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_any_text_is_judged_or_unscannable(text):
    try:
        found = judge_template(text)
    except Unscannable:
        return
    assert all(isinstance(each, str) for each in found)


SOURCES = [
    "{% set x = 'y__class__' %}",
    "{% set x = ['__class__', 1] %}",
    "{% set x = {'__class__': 'y__class__'} %}",
    "{% set ns = namespace(x='y__class__', z='y_class') %}{% set x = ns.x %}",
    "{% set x = messages[0].role ~ '__class__' %}",
    "{% set x %}__class__{% endset %}",
    "{% set x = [] %}{% do x.append('y__class__') %}",
    "{% set x = dict(y__class__=1) %}",
    "{% set y = 'y__class__' %}{% if messages %}{% set x = y %}{% else %}{% set x = 1 %}{% endif %}",
    "{% set x = 'role' %}",
    "{% set x = messages %}",
]
STEPS = [
    "x",
    "x[1:]",
    "x[0]",
    "x|first",
    "x|list|last",
    "x|string",
    "x|join",
    "x|reverse",
    "(x|string)[2:11]",
    "x|replace('y', '')",
]
STEPS += [
    "x.lstrip('y')",
    "x.split('y')[1]",
    "x + ''",
    "x|default('__class__')",
    "(x, '__class__')|last",
    "x if 0 else '__class__'",
]


def test_a_template_that_passes_never_comes_to_an_inner_attribute():
    came_to = []

    class Watched(Environment):
        def getitem(self, obj, argument):
            came_to.append(argument)
            return super().getitem(obj, argument)

    watched = Watched(extensions=["jinja2.ext.do"], undefined=ChainableUndefined)
    passed = 0
    for text in (source + "{{ ''[" + step + "] }}" for source in SOURCES for step in STEPS):
        if judge_template(text):
            continue
        passed += 1
        with contextlib.suppress(UndefinedError, TypeError):
            watched.from_string(text).render(messages=[{"role": "user", "content": "text"}])
        assert "__class__" not in came_to, text
    assert passed > 5

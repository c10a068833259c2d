"""Templates: a chat template may format the messages it is given, and reach nothing else of the program that renders it.

Some programs render such templates without Jinja2's sandbox, so they are judged as if there were none: by an allow-list of
syntax, functions, methods, filters and tests. What remains is the subscript, for ``x[key]`` is the attribute of that name where
``x`` has no such item, and a key can be put together from pieces. So each expression has kinds, which :class:`_Kind` lists, the
same for all that is ever assigned to a variable; a text that the template builds is never a key, and one that comes with the
messages is a key only once in a row.
"""

from __future__ import annotations

import re
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jinja2 import Environment, nodes

__all__ = ["MOST_TEXT", "judge_template"]

LONGEST = 256 << 10  # the longest in use have some 30 KB
MOST_TEXT = 1 << 20
"""Characters of all templates of one file."""
MOST_PASSES = 30
MOST_REASONS = 20


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _words("dict namespace raise_exception range strftime_now")
OTHER_FUNCTIONS = _words("cycler joiner lipsum")  # Jinja2's own, which no chat template needs
METHODS_OF_DATA = _words("copy get items keys values")
METHODS_OF_TEXT = _words(
    "capitalize lower lstrip partition removeprefix removesuffix rpartition rsplit rstrip split splitlines strip title upper"
)
METHODS_THAT_BUILD = _words("join replace strftime zfill")
METHODS_THAT_TELL = _words(
    "count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper rfind rindex startswith"
)
METHODS_THAT_CHANGE = _words("append extend insert pop setdefault update")
METHODS = METHODS_OF_DATA | METHODS_OF_TEXT | METHODS_THAT_BUILD | METHODS_THAT_TELL | METHODS_THAT_CHANGE

FILTERS_THAT_KEEP = _words(
    "batch d default dictsort first groupby items last list map max min reject rejectattr select selectattr sort sum unique"
)
FILTERS_OF_TEXT = _words("capitalize e escape forceescape lower reverse safe string striptags title trim upper")
FILTERS_THAT_BUILD = _words("center format indent join replace tojson truncate urlencode wordwrap")
FILTERS_THAT_TELL = _words("abs count float int length round wordcount")
FILTERS = FILTERS_THAT_KEEP | FILTERS_OF_TEXT | FILTERS_THAT_BUILD | FILTERS_THAT_TELL
# Where these take the name of an attribute by position.
ATTRIBUTE_FIRST = _words("groupby rejectattr selectattr sum")
ATTRIBUTE_LATER = {"join": 1, "max": 1, "min": 1, "sort": 2, "unique": 1}

TESTS = _words(
    "!= < <= == > >= boolean callable defined divisibleby eq equalto even false float ge greaterthan gt in integer iterable "
    "le lessthan lower lt mapping ne none number odd sameas sequence string true undefined upper"
)
LOOP_NUMBERS = _words("changed cycle depth depth0 first index index0 last length revindex revindex0")
LOOP_ITEMS = _words("nextitem previtem")

# Attributes of functions, frames, generators and classes that lead to the interpreter and start with no underscore.
_INNER = re.compile(r"_.*|mro|(func|gi|cr|ag|tb|im|co|f)_[a-z_]+", re.DOTALL)
_NODES = _words(
    "Template Output TemplateData For If Macro CallBlock FilterBlock Assign AssignBlock With Scope ExprStmt Break Continue Name "
    "NSRef Const Tuple List Dict Pair Keyword CondExpr Filter Test Call Getitem Getattr Slice Concat Compare Operand And Or Not "
    "Neg Pos Add Sub Mul Div FloorDiv Mod"
)


class _Kind(IntFlag):
    """What a value, or a value in it, can be."""

    NONE = 0
    NUMBER = 1  # or a truth value, or none: as a key it is never the name of an attribute
    WORD = 2  # a text that stands in the template, and names no attribute that leads further
    DATA = 4  # given with the messages: any text, from whoever wrote those
    TEXT = 8  # any text of the template's making
    PICKED = 16  # got by a key that is data
    BOX = 32  # a list or mapping of the template's own, whose content may have been changed
    SPACE = 64  # a namespace, whose attributes have kinds of their own


_NUMBER, _WORD, _DATA, _TEXT = _Kind.NUMBER, _Kind.WORD, _Kind.DATA, _Kind.TEXT
_PICKED, _BOX, _SPACE = _Kind.PICKED, _Kind.BOX, _Kind.SPACE


def judge_template(text: str) -> list[str]:
    """Return what a Jinja2 template does that a chat template has no need of, each as the rest of a sentence about it.

    Raises :class:`Unscannable` for one that cannot be parsed, or is too long or too intricate to be judged.
    """
    if len(text) > LONGEST:
        raise Unscannable(f"has a template of more than {LONGEST:,} characters")
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return []
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.parser import Parser
    except ImportError:
        raise Unscannable("has a template, and the package jinja2, which is needed to read it, is not installed") from None
    try:
        # Not Environment.parse, which makes and executes code of its own to show where in a template an error is.
        tree = Parser(_environment(), text).parse()
        judge = _Judge(tree)
        if not judge.reasons:
            judge.run()
    except TemplateSyntaxError as error:
        raise Unscannable(f"has a template that is no valid Jinja2 (line {error.lineno})") from None
    except RecursionError:
        raise Unscannable("has a template that is nested too deep to be read") from None
    return list(judge.reasons)[:MOST_REASONS]


def _environment() -> Environment:
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """The tag that marks what a model says, in templates that are trained with."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja2 has it

        def parse(self, parser: Any) -> nodes.Node:
            next(parser.stream)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=body[0].lineno if body else 1)

    # Nothing is rendered: autoescaping, which would be missed here, has no part in it.
    return Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols", Generation])  # noqa: S701 - nothing is rendered


def _is_inner(name: str) -> bool:
    return bool(_INNER.fullmatch(name))


class _Judge:
    """The reasons against a template, and the kinds of its variables and of the attributes of its namespaces."""

    def __init__(self, tree: nodes.Template) -> None:
        from jinja2 import nodes

        self.tree = tree
        self.reasons: dict[str, None] = {}
        self.kinds: dict[str, _Kind] = {}
        self.attributes: dict[str, _Kind] = {}
        self.arguments = _Kind.NONE  # of all calls of macros
        self.put_in = _Kind.NONE  # by append and the like, into whatever list
        self.looped = _Kind.NONE
        # Names that are surely the template's own at a place. All others are, or may be, given with the messages.
        self.defined: frozenset[str] = frozenset()
        self.changed = False
        self.macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self.outermost = frozenset(macro.name for macro in tree.body if isinstance(macro, nodes.Macro))
        self.stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
        names = [name.name for name in tree.find_all(nodes.Name)] + list(self.macros)
        names += [keyword.key for keyword in tree.find_all(nodes.Keyword)]
        for name in (each for each in names if not each.isascii()):
            self.refuse(f"has the name {named(name)}, which Python reads as another")
        if len(self.macros) != sum(1 for _ in tree.find_all(nodes.Macro)):
            self.refuse("has two macros of one name")
        for node in _all_nodes(tree):
            if type(node).__name__ not in _NODES:
                self.refuse(f"uses {type(node).__name__}, which no chat template needs (line {node.lineno})")

    def refuse(self, why: str) -> None:
        """Note a reason, once."""
        if len(self.reasons) < MOST_REASONS:
            self.reasons[why] = None

    def run(self) -> None:
        """Work out the kinds of all variables, and judge every expression by them."""
        for _ in range(MOST_PASSES):
            self.changed = False
            self.visit(self.tree)
            if not self.changed or self.reasons:
                return
        raise Unscannable("has a template that is too intricate to be judged")

    def store(self, target: Any, kind: _Kind) -> None:
        """Note what is assigned to a name, an attribute of a namespace, or several of them."""
        name = type(target).__name__
        if name in ("Tuple", "List"):
            for each in target.items:
                self.store(each, kind)
        elif name == "NSRef":
            self.note(self.attributes, target.attr, kind)
        elif name == "Name":
            if target.name in ("loop", "self", "caller") or target.name in self.macros:
                self.refuse(f"assigns to {named(target.name)} (line {target.lineno})")
            self.note(self.kinds, target.name, kind)
        else:
            self.refuse(f"assigns to a {name} (line {target.lineno})")

    def note(self, where: dict[str, _Kind], name: str, kind: _Kind) -> None:
        """Add to what is known of a name."""
        if _is_inner(name) and where is self.attributes:
            self.refuse(f"uses the attribute {named(name)}")
        known = where.get(name)
        if known is None or kind & ~known:
            where[name] = (known or _Kind.NONE) | kind
            self.changed = True

    def visit(self, node: Any) -> None:
        """Judge a statement and all in it."""
        name = type(node).__name__
        if name == "For":
            if node.recursive:
                self.refuse(f"has a recursive loop (line {node.lineno})")
            kind = self.kind(node.iter)
            self.looped |= kind
            self.store(node.target, kind)
            self.block(node.body, _names(node.target), node.test)
            self.block(node.else_)
        elif name == "If":
            self.branches(node)
        elif name in ("Macro", "CallBlock"):
            self.macro(node)
        elif name == "Assign":
            self.store(node.target, self.kind(node.node))
            self.defined |= _names(node.target)
        elif name == "AssignBlock":
            self.block(node.body, (), node.filter)
            self.store(node.target, _TEXT)
            self.defined |= _names(node.target)
        elif name == "FilterBlock":
            self.block(node.body, (), node.filter)
        elif name == "With":
            for target, value in zip(node.targets, node.values, strict=True):
                self.store(target, self.kind(value))
            self.block(node.body, [each for target in node.targets for each in _names(target)])
        elif name in ("Template", "Scope"):
            self.block(node.body)
        elif name == "Output":
            for each in node.nodes:
                self.kind(each)
        elif name == "ExprStmt":
            self.kind(node.node)

    def block(self, body: Iterable[Any], names: Iterable[str] = (), test: Any = None) -> frozenset[str]:
        """Judge statements where some more names are defined, and return what is after them. What they define ends with them."""
        before = self.defined
        self.defined |= frozenset(names)
        if test is not None:
            self.kind(test)
        for each in body:
            self.visit(each)
        after, self.defined = self.defined, before
        return after

    def branches(self, node: Any) -> None:
        """Judge a condition: what each of its branches defines is defined after it."""
        self.kind(node.test)
        ends = [self.block(node.body)]
        for each in node.elif_:
            self.kind(each.test)
            ends.append(self.block(each.body))
        ends.append(self.block(node.else_))
        self.defined = frozenset.intersection(*ends)

    def macro(self, node: Any) -> None:
        """Judge a macro, or a call with a block, which is one."""
        is_macro = type(node).__name__ == "Macro"
        for place, target in enumerate(reversed(node.args), 1):
            default = self.kind(node.defaults[-place]) if place <= len(node.defaults) else _Kind.NONE
            self.store(target, default | (_Kind.NONE if is_macro else self.arguments))
        if is_macro:
            self.defined |= {node.name}
        else:
            self.kind(node.call)
        # The outermost macros are there by the time that another is called, wherever among the statements they stand.
        self.block(node.body, [*(each.name for each in node.args), *(self.outermost if is_macro else ())])

    def kind(self, node: Any) -> _Kind:
        """Judge an expression and return the kinds of its value."""
        name = type(node).__name__
        found: _Kind = getattr(self, f"of_{name.lower()}", self.of_other)(node)
        return found

    def of_other(self, node: Any) -> _Kind:
        """Of whatever has no rule of its own: truth values and numbers."""
        found = _Kind.NONE
        for child in node.iter_child_nodes():
            found |= self.kind(child)
        name = type(node).__name__
        if name in ("And", "Or", "CondExpr", "Pair", "Operand", "Keyword"):
            return found | (_NUMBER if name == "CondExpr" and node.expr2 is None else _Kind.NONE)
        if name in ("List", "Tuple", "Dict"):
            return found | _BOX
        if name in ("Compare", "Not", "Neg", "Pos", "Sub", "Div", "FloorDiv"):
            return _NUMBER
        return _TEXT if name in ("TemplateData", "Concat") else _built(found)

    def of_add(self, node: Any) -> _Kind:
        """Of a sum, or two texts or lists put together."""
        both = self.kind(node.left) | self.kind(node.right)
        # Only a list can be added to a list, and then no text is built.
        return both if "List" in (type(node.left).__name__, type(node.right).__name__) else _built(both)

    def of_const(self, node: Any) -> _Kind:
        """Of a constant."""
        if not isinstance(node.value, str):
            return _NUMBER
        return _TEXT if _is_inner(node.value) else _WORD

    def of_name(self, node: Any) -> _Kind:
        """Of a variable."""
        name = node.name
        function = name in FUNCTIONS or name in OTHER_FUNCTIONS or name in self.macros
        if name in ("self", "loop", "caller") or (function and (name in self.macros or name not in self.defined)):
            self.refuse(f"uses {named(name)} as a value (line {node.lineno})")
        found = self.kinds.get(name, _Kind.NONE)
        if name in ("varargs", "kwargs"):
            found |= self.arguments | _BOX
        if name not in self.defined:
            found |= _DATA
        return self.opened(found)

    def opened(self, kind: _Kind) -> _Kind:
        """Of what may be a list that another name was put into by."""
        return kind | self.put_in if kind & (_BOX | _DATA | _PICKED) else kind

    def of_nsref(self, node: Any) -> _Kind:
        """Of an attribute that is assigned to."""
        return self.attributes.get(node.attr, _Kind.NONE)

    def of_getattr(self, node: Any) -> _Kind:
        """Of an attribute."""
        return self.attribute(node.node, node.attr, node.lineno)

    def of_getitem(self, node: Any) -> _Kind:
        """Of a subscript, which is an attribute where there is no such item."""
        key = node.arg
        if type(key).__name__ == "Const" and isinstance(key.value, str):
            return self.attribute(node.node, key.value, node.lineno)
        if type(key).__name__ == "Slice":
            self.of_other(key)
            return _built(self.kind(node.node))
        base, by = self.kind(node.node), self.kind(key) & ~_BOX
        if by & _TEXT or (by & (_DATA | _PICKED) and base & _PICKED):
            self.refuse(f"takes an item or attribute whose name it puts together (line {node.lineno})")
        base |= self.all_of(base)
        if by & (_WORD | _DATA | _PICKED):
            return base | (_PICKED if by & (_DATA | _PICKED) else _Kind.NONE)
        return base | (_TEXT if base & _WORD and not base & _BOX else _Kind.NONE)

    def attribute(self, node: Any, attribute: str, line: int) -> _Kind:
        """Return the kinds of an attribute or item of a constant name."""
        if _is_inner(attribute):
            self.refuse(f"uses the attribute {named(attribute)} (line {line})")
        if type(node).__name__ == "Name" and node.name == "loop":
            if attribute in LOOP_ITEMS:
                return self.looped
            if attribute not in LOOP_NUMBERS:
                self.refuse(f"uses loop.{named(attribute)} (line {line})")
            return _NUMBER
        base = self.kind(node)
        return self.opened(base & ~_SPACE | (self.attributes.get(attribute, _Kind.NONE) if base & _SPACE else _Kind.NONE))

    def all_of(self, kind: _Kind) -> _Kind:
        """Of whatever attribute of a namespace, if it may be one."""
        found = _Kind.NONE
        for each in self.attributes.values() if kind & _SPACE else ():
            found |= each
        return found

    def of_call(self, node: Any) -> _Kind:
        """Of a call: of a function, a macro, or a method of a text, list or mapping."""
        called, given = node.node, self.applied(node)
        if type(called).__name__ == "Getattr":
            return self.method(called, given)
        if type(called).__name__ != "Name":
            self.refuse(f"calls what is no function or method (line {node.lineno})")
            return _TEXT
        name = called.name
        # One name for two things: it would depend on the way through the template which of them is called.
        both = name in self.stored or (name in self.macros and (name not in self.defined or name in FUNCTIONS))
        if both or not (name in FUNCTIONS or name in self.macros or name == "caller"):
            self.refuse(f"calls {named(name)} (line {node.lineno})")
        if name == "namespace":
            if node.args:
                self.refuse(f"makes a namespace of what is not written out (line {node.lineno})")
            for each in node.kwargs:
                self.note(self.attributes, each.key, self.kind(each.value))
            return _SPACE
        if name in ("range", "raise_exception"):
            return _NUMBER
        if name == "dict":
            return given | _BOX | (_WORD if node.kwargs else _Kind.NONE)
        if name != "strftime_now":
            self.given(self.macros.get(name), node, given)
        return _TEXT

    def given(self, macro: nodes.Macro | None, call: nodes.Call, given: _Kind) -> None:
        """Note what a macro is called with."""
        if macro is not None:
            for target, value in zip(macro.args, call.args, strict=False):
                self.store(target, self.kind(value))
            for each in call.kwargs:
                if any(target.name == each.key for target in macro.args):
                    self.note(self.kinds, each.key, self.kind(each.value))
        # What is left over is in varargs and kwargs.
        given |= _WORD if call.kwargs else _Kind.NONE
        if given & ~self.arguments:
            self.arguments |= given
            self.changed = True

    def method(self, called: Any, given: _Kind) -> _Kind:
        """Of a call of a method."""
        name = called.attr
        if type(called.node).__name__ == "Name" and called.node.name == "loop":
            if name not in ("cycle", "changed"):
                self.refuse(f"calls loop.{named(name)} (line {called.lineno})")
            return given | _NUMBER
        base = self.kind(called.node)
        if name not in METHODS:
            self.refuse(f"calls the method {named(name)} (line {called.lineno})")
        if name in METHODS_THAT_CHANGE:
            if base & _PICKED:
                self.refuse(f"changes by {named(name)} what it took by a name from a message (line {called.lineno})")
            if given & ~self.put_in:
                self.put_in |= given
                self.changed = True
        if name in METHODS_THAT_TELL:
            return _NUMBER
        if name in METHODS_THAT_BUILD:
            return _TEXT
        return _built(base) if name in METHODS_OF_TEXT else base | given

    def of_filter(self, node: Any) -> _Kind:
        """Of a filter, or of what one takes from each item."""
        base = self.kind(node.node) if node.node is not None else _TEXT  # of {% filter %}: what is in the block
        given = self.applied(node)
        name = node.name
        if name not in FILTERS:
            self.refuse(f"uses the filter {named(name)} (line {node.lineno})")
        self.names_given(node)
        if name in FILTERS_THAT_TELL:
            return _NUMBER if name not in ("int", "float") else _NUMBER | given
        if name in FILTERS_THAT_BUILD:
            return _TEXT
        if name in FILTERS_OF_TEXT or name == "sum":
            return _built(base | given)
        if name == "map":
            base |= self.all_of(base)
            base = base if any(each.key == "attribute" for each in node.kwargs) else _built(base)
        return self.opened(base | given)

    def of_test(self, node: Any) -> _Kind:
        """Of a test."""
        # Whether a function is there may be asked; what else is done with it is of_call's to judge.
        asked = node.node.name if type(node.node).__name__ == "Name" and node.name in ("defined", "undefined", "callable") else ""
        if not asked or asked == "self" or (asked in self.macros and asked not in self.defined):
            self.kind(node.node)
        self.applied(node)
        if node.name not in TESTS:
            self.refuse(f"uses the test {named(node.name)} (line {node.lineno})")
        return _NUMBER

    def applied(self, node: Any) -> _Kind:
        """Return the kinds of the arguments of a call, a filter or a test."""
        given = _Kind.NONE
        for each in node.args:
            given |= self.kind(each)
        for each in node.kwargs:
            given |= self.kind(each.value)
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            self.refuse(f"calls with arguments that are not written out (line {node.lineno})")
        return given

    def names_given(self, node: Any) -> None:
        """Judge the names of attributes, filters and tests among the arguments of a filter."""
        name, line = node.name, node.lineno
        attributes = [each.value for each in node.kwargs if each.key == "attribute"]
        others: list[Any] = []
        if name in ATTRIBUTE_FIRST:
            attributes += node.args[:1]
            others = node.args[1:2] if name != "sum" else []
        elif name in ATTRIBUTE_LATER:
            attributes += node.args[ATTRIBUTE_LATER[name] :]
        elif name in ("map", "select", "reject"):
            others = node.args[:1]
        for each in attributes:
            value = each.value if type(each).__name__ == "Const" else None
            # Jinja2 splits at commas, and at dots.
            parts = re.split(r"[.,]", value) if isinstance(value, str) else () if isinstance(value, int) else ("_",)
            if any(_is_inner(part.strip()) for part in parts):
                self.refuse(f"has the filter {named(name)} take an attribute that is no plain name (line {line})")
        known = FILTERS if name == "map" else TESTS
        for each in others:
            value = each.value if type(each).__name__ == "Const" else None
            # A filter that takes names itself would be given them here, unseen.
            takes_names = name == "map" and (
                value in ATTRIBUTE_FIRST or value in ATTRIBUTE_LATER or value in ("map", "select", "reject")
            )
            if not isinstance(value, str) or value not in known or takes_names:
                self.refuse(f"has the filter {named(name)} apply what is not known here (line {line})")


def _built(kind: _Kind) -> _Kind:
    """Of what an operation makes of values: any text, if texts of the template's are among them."""
    return kind | _TEXT if kind & (_WORD | _TEXT | _SPACE) else kind


def _names(target: Any) -> frozenset[str]:
    """Return the names that an assignment defines: none for the attribute of a namespace."""
    if type(target).__name__ in ("Tuple", "List"):
        return frozenset(name for each in target.items for name in _names(each))
    return frozenset((target.name,)) if type(target).__name__ == "Name" else frozenset()


def _all_nodes(tree: nodes.Node) -> Iterable[nodes.Node]:
    waiting: list[nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.iter_child_nodes()

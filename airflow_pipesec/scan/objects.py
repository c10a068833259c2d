"""Objects: the opcodes of a pickle that move what is on the stack, remember it, and put it into lists, sets and dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.calls import Broken
from airflow_pipesec.scan.constants import Constants, Refused
from airflow_pipesec.scan.states import LISTS, MAPPINGS, MEMORY, wrong_items
from airflow_pipesec.scan.values import UNKNOWN, Box, Made, Name, demand_hashable, is_value, names_in

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["Objects", "Refused"]

MOST_KEPT = 10_000  # names whose place is not yet known to be right


class Objects(Constants):
    """The third of a machine that arranges: what was on the stack before each mark, the memo, and names that are kept."""

    def __init__(self, part: Part, place: int, *, flavour: str, shadow: bool) -> None:
        super().__init__(part, place, flavour=flavour, shadow=shadow)
        self.shadow = shadow
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.undone: list[Callable[[], None]] | None = None  # what takes back all that a fork does to the boxes that it shares
        self.kept: list[tuple[Any, Name, int]] = []  # names that are no values, and what they were put into

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def pop_mark(self) -> None:
        self._since_mark()

    def _since_mark(self) -> list[Any]:
        if not self.outer:
            raise Broken("is a broken pickle: a mark is missing", self.place)
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def put(self) -> None:
        self.memo[self._index()] = self.stack[-1]

    def get(self) -> None:
        self.stack.append(self.memo[self._index()])

    def _index(self) -> int:
        number = self._number(self._line(), 10)
        if not isinstance(number, int) or number < 0:
            raise Broken("is a broken pickle: a place in the memo is none", self.place)
        if number > self.view.size and not self.shadow:
            raise Refused("has a place in the memo beyond its size, where readers disagree", self.place)
        return number

    def tuple_(self) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def list_(self) -> None:
        items = self._since_mark()
        made = Box("list")
        made.extend(items)
        self._keep(made, items)
        self.stack.append(made)

    def dict_(self) -> None:
        items = self._since_mark()
        made = Box("dict")
        self.stack.append(made)
        self._set(made, items)

    def empty_set(self) -> None:
        self.stack.append(Box("set"))

    def frozenset_(self) -> None:
        items = self._since_mark()
        self._demand_hashable(items)
        made = Box("set")
        made.extend(items)
        self._keep(made, items)
        self.stack.append(made)

    def append(self) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    def appends(self) -> None:
        items = self._since_mark()
        self._extend(self.stack[-1], items)

    additems = appends

    def _keep(self, target: Any, items: list[Any]) -> None:
        """Note names that are put somewhere; whether they may stand there is known when the pickle ends."""
        if self.shadow:
            return
        for item in items:
            if isinstance(item, Name | tuple):
                for name in names_in(item, self.scan):
                    if is_value(name, self.caller.allow):
                        continue
                    if len(self.kept) < MOST_KEPT:
                        self.kept.append((target, name, self.place - 1))
                    else:
                        self.caller.keep(name, self.place - 1)

    def _demand_hashable(self, keys: list[Any]) -> None:
        if not self.shadow:
            for key in keys:
                if type(key) is tuple:
                    demand_hashable(key, self.scan, self.place - 1)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if not items:
            return  # C's unpickler does not look at the target either
        self._keep(target, items)
        if isinstance(target, Box) and target.kind == "set":
            self._demand_hashable(items)
        if isinstance(target, Box) and target.kind != "dict":
            if self.undone is not None:
                self.undone.append(target.undo(()))
            target.extend(items)
        else:
            self._demand_instance(target, "adds items to", LISTS)

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def setitems(self) -> None:
        items = self._since_mark()
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise Broken("is a broken pickle: a dictionary has a key without a value", self.place)
        if not items:
            return
        self._keep(target, items)
        self._demand_hashable(items[::2])
        if id(target) in self.caller.dtypes.sealed:
            self.caller.tell("changes the fields of a numpy.dtype that is complete", self.place - 1)
        if [key for key in items[::2] if type(key) is str and key in MEMORY]:
            self.caller.tell("holds what numpy takes for the address of an array", self.place - 1)
        if isinstance(target, Box) and target.kind in ("dict", "list"):
            if self.undone is not None:
                self.undone.append(target.undo(items[::2]))
            for number in range(0, len(items), 2):
                target.set(items[number], items[number + 1])
        else:
            self._demand_instance(target, "sets items of", MAPPINGS)

    def _demand_instance(self, target: Any, deed: str, kinds: tuple[tuple[str, str], ...] | None = None) -> None:
        """What is done to an instance of an allowed class is its own affair; what is done to a class or a function is not.

        Nor is what goes by a method of that name, which may be an attribute that the file gave to it.
        """
        if isinstance(target, Name):
            if not self.caller.lenient or not target.rights:
                self.caller.tell(f"{deed} {target} itself", self.place - 1)
        elif isinstance(target, Made):
            if kinds is not None and not self.caller.lenient and wrong_items(target, kinds):
                self.caller.tell(f"{deed} an instance of {target.name}, which is no container", self.place - 1)
        elif target is not UNKNOWN and not self.shadow:  # a reader may go on: no state is one that any object takes
            raise Broken("is a broken pickle: an opcode needs another object", self.place)

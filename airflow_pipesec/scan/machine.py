"""Machine: a pickle's opcodes, followed one by one with a real stack and memo, and nothing of what they ask for is done.

It reads what CPython's ``pickle.load`` (C and Python), torch and joblib read, and where these could disagree it stops: an
opcode that crosses the end of its frame, a frame within a frame, a frame that goes on after STOP. Opcodes are those of
``pickletools`` of Python 3.11, protocols 0 to 5 (PEP 3154, PEP 574).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from airflow_pipesec.scan.calls import WRAPPERS, Broken
from airflow_pipesec.scan.constants import LONG_TEXT, WINDOW
from airflow_pipesec.scan.dtypes import ARRAYS, DTYPE, VIEWS
from airflow_pipesec.scan.objects import Objects, Refused
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.states import wrong_state
from airflow_pipesec.scan.values import UNKNOWN, Blob, Box, Made, Name

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["SHADOW_STEPS", "Machine", "Refused"]

NO_FRAME: Final = 1 << 62
SHADOW_STEPS = 100_000
LATEST = 16  # names that were put somewhere, of which one is the class of an array
STEPS = 1 << 14  # between two looks at the limits

_U2, _U4, _U8 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


class _Layer(dict[int, Any]):
    """A memo that begins as another, without a copy of it."""

    def __init__(self, base: dict[int, Any]) -> None:
        super().__init__()
        self.base, self.size = base, len(base)

    def __missing__(self, place: int) -> Any:
        return self.base[place]

    def __setitem__(self, place: int, value: Any) -> None:
        self.size += place not in self.base and place not in self
        super().__setitem__(place, value)

    def __len__(self) -> int:
        return self.size


class Machine(Objects):
    """One run over one stream: from ``place`` to its STOP, after which ``place`` is where the next would begin.

    ``flavour`` is ``""``, ``"torch"`` (persistent ids are storages), ``"torch tar"`` (they are keys), or ``"torchscript"``
    (classes of the archive's own code). As a ``shadow`` it tells only of calls to what is not allowed, for bytes that are hardly
    a pickle.
    ``storages`` are the persistent ids that were seen: key to the name of its type and the number of elements.
    """

    def __init__(self, part: Part, place: int = 0, *, flavour: str = "", shadow: bool = False) -> None:
        super().__init__(part, place, flavour=flavour, shadow=shadow)
        self.flavour = flavour
        self.frame_end = NO_FRAME
        self.protocol = 0
        self.steps = 0
        self.storages: dict[str, tuple[str, int]] = {}
        self.result: Any = None

    def run(self) -> Any:
        """Follow one stream and return what its STOP would.

        Raises :class:`Unscannable` where no reader could go on, and :class:`Refused` where one could and this one won't.
        """
        try:
            return self._run_all()
        finally:
            for _, name, offset in self.kept:
                self.caller.keep(name, offset)
            self.kept.clear()

    def _run_all(self) -> Any:
        while True:
            steps = self._run(min(STEPS, SHADOW_STEPS) if self.shadow else STEPS)
            self.steps += steps
            self.scan.opcodes += steps
            if self.stack is _DONE:
                self.caller.keep(self.result, self.place - 1)
                return self.result
            limits = self.scan.limits
            if self.scan.opcodes > limits.opcodes:
                raise Unscannable(f"has more than {limits.opcodes:,} pickle opcodes")
            if self.scan.memo + len(self.memo) > limits.memo:
                raise Unscannable(f"remembers more than {limits.memo:,} objects of pickles")
            if self.shadow and self.steps > SHADOW_STEPS:
                raise Unscannable(f"can be read as a pickle for more than {SHADOW_STEPS:,} opcodes")

    def _run(self, most: int) -> int:
        """Follow up to ``most`` opcodes and return how many; the ones that are frequent are here, the rest in methods."""
        data, pos, stack, memo = self.data, self.pos, self.stack, self.memo
        ready = len(data) - 300  # every frequent opcode fits into 300 bytes
        base = self.base
        frame = self.frame_end - base
        slow = _SLOW
        for step in range(most):
            if pos > ready:
                self.pos = pos
                self._fill()
                data, pos, base = self.data, 0, self.base
                ready = len(data) - 300 if len(data) == WINDOW else len(data) - 1
                frame = self.frame_end - base
                if not data:
                    raise Broken("ends before its pickle does", base)
            start = pos
            op = data[pos]
            pos += 1
            try:
                if op == 0x94:  # MEMOIZE
                    memo[len(memo)] = stack[-1]
                elif op == 0x8C:  # SHORT_BINUNICODE
                    end = pos + 1 + data[pos]
                    raw = data[pos + 1 : end]
                    if end > len(data):
                        raise IndexError
                    stack.append(raw.decode("utf-8", "surrogatepass"))
                    pos = end
                elif op == 0x68:  # BINGET
                    stack.append(memo[data[pos]])
                    pos += 1
                elif op == 0x6A:  # LONG_BINGET
                    stack.append(memo[_U4.unpack_from(data, pos)[0]])
                    pos += 4
                elif op == 0x4B:  # BININT1
                    stack.append(data[pos])
                    pos += 1
                elif op == 0x4D:  # BININT2
                    stack.append(_U2.unpack_from(data, pos)[0])
                    pos += 2
                elif op == 0x4A:  # BININT
                    stack.append(_I4.unpack_from(data, pos)[0])
                    pos += 4
                elif op == 0x47:  # BINFLOAT
                    stack.append(_F8.unpack_from(data, pos)[0])
                    pos += 8
                elif op == 0x71:  # BINPUT
                    memo[data[pos]] = stack[-1]
                    pos += 1
                elif op == 0x72:  # LONG_BINPUT
                    place = _U4.unpack_from(data, pos)[0]
                    if place > self.view.size and not self.shadow:
                        # C's unpickler makes room for so many, or fails; Python's goes on.
                        raise Refused("has a place in the memo beyond its size, where readers disagree", base + start)
                    memo[place] = stack[-1]
                    pos += 4
                elif op == 0x28:  # MARK
                    self.outer.append(stack)
                    self.stack = stack = []
                elif op == 0x4E:  # NONE
                    stack.append(None)
                elif op == 0x86:  # TUPLE2
                    stack[-2:] = [(stack[-2], stack[-1])]
                elif op == 0x87:  # TUPLE3
                    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif op == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif op == 0x5D:  # EMPTY_LIST
                    stack.append(Box("list"))
                elif op == 0x7D:  # EMPTY_DICT
                    stack.append(Box("dict"))
                elif op == 0x88:  # NEWTRUE
                    stack.append(True)
                elif op == 0x89:  # NEWFALSE
                    stack.append(False)
                elif op == 0x58 and (end := pos + 4 + _U4.unpack_from(data, pos)[0]) <= len(data) and end - pos <= LONG_TEXT:
                    stack.append(data[pos + 4 : end].decode("utf-8", "surrogatepass"))  # BINUNICODE, a short one
                    pos = end
                elif op == 0x2E:  # STOP
                    self.result = stack.pop()
                    self.pos = pos
                    if self.frame_end != NO_FRAME and self.place != self.frame_end:
                        raise Refused("stops within a frame, where readers disagree on what follows", base + start)
                    self.stack = _DONE
                    return step + 1
                else:
                    self.pos = pos
                    method = slow[op]
                    if method is None and self.shadow:
                        raise Broken("has an opcode that is unknown", base + start)
                    if method is None:
                        raise Refused(f"has an opcode that is unknown (0x{op:02x})", base + start)
                    method(self)
                    if self.data is not data:
                        data = self.data
                        ready = -1  # look again
                    pos, stack, base = self.pos, self.stack, self.base
                    frame = self.frame_end - base
            except (IndexError, KeyError, struct.error):
                if pos > len(data):
                    raise Broken("ends before its pickle does", base + start) from None
                raise Broken("is a broken pickle: an opcode needs what is not there", base + start) from None
            except UnicodeDecodeError:
                raise Broken("is a broken pickle: a text is not valid UTF-8", base + start) from None
            if pos >= frame:
                if pos > frame:
                    raise Refused("has an opcode that crosses the end of its frame, where readers disagree", self.place)
                self.frame_end = NO_FRAME
                frame = NO_FRAME
        self.pos = pos
        return most

    # Names and calls

    def global_(self) -> None:
        start = self.place - 1
        module, name = self._line().decode(), self._line().decode()
        self.stack.append(self.caller.find(module, name, self.protocol, start))

    def stack_global(self) -> None:
        start = self.place - 1
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is str and type(name) is str:
            self.stack.append(self.caller.find(module, name, self.protocol, start))
            return
        if self.shadow and not (isinstance(name, Blob) and name.kind == "str" and type(module) is str):
            # Readers take nothing but a text that is no other class's.
            raise Broken("is a broken pickle: a name is no text", start)
        self.caller.tell("refers to a name that it works out, or that is no text", start)
        self.stack.append(UNKNOWN)

    def reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.caller.call(self.stack[-1], args, self.place - 1)

    def newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.caller.new(self.stack[-1], args, self.place - 1)

    def newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self.caller.new(self.stack[-1], args, self.place - 1, keywords)

    def inst(self) -> None:
        start = self.place - 1
        module, name = self._line().decode(), self._line().decode()
        args = tuple(self._since_mark())
        self.stack.append(self._instance(self.caller.find(module, name, self.protocol, start), args, start))

    def obj(self) -> None:
        items = self._since_mark()
        self.stack.append(self._instance(items[0], tuple(items[1:]), self.place - 1))

    def _instance(self, cls: Any, args: tuple[Any, ...], start: int) -> Any:
        # Called where there are arguments, or where it is no class; made without a call otherwise.
        if not args and isinstance(cls, Name) and "new" in cls.rights:
            return self.caller.new(cls, (), start)
        return self.caller.call(cls, args, start)

    def build(self) -> None:
        start = self.place - 1
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Made):
            self._demand_instance(target, "sets attributes of")
            return
        if self.caller.lenient:
            # No random bytes make a dtype and give it so many parts.
            whole = target.is_of(DTYPE) and isinstance(state, tuple) and len(state) in (8, 9)
            if whole and (wrong := self._wrong_state(target, state)):
                self.caller.tell(wrong, start)
            return
        self.caller.keep(state, start)
        if wrong := self._wrong_state(target, state):
            self.caller.tell(wrong, start)
        if target.is_of(*WRAPPERS):
            if target.state is not None:
                raise Refused("describes an array of joblib's twice", start)
            target.state = state
            # joblib's wrapper keeps the class of its array, which is made and not called.
            cls = state.entries.get("subclass") if isinstance(state, Box) else None
            own = next((each for each in reversed(self.kept[-LATEST:]) if each[0] is state and each[1] is cls), None)
            if own is not None:
                self.scan.work(len(self.kept))
                self.kept.remove(own)
            from airflow_pipesec.scan.arrays import skip_array

            skip_array(self, target)

    def _wrong_state(self, target: Made, state: Any) -> str:
        """Return why an object must not get a state; ``""`` if it may."""
        if target.is_of(DTYPE):
            return self.caller.dtypes.wrong_state(target, state)
        if target.is_of(*ARRAYS, *VIEWS):
            return self.caller.dtypes.wrong_array(target, state)
        return wrong_state(target, state)

    def fork(self) -> Machine:
        """Return a shadow that would go on from here as a reader does who knows nothing of what follows."""
        other = Machine(self.part, self.place, flavour=self.flavour, shadow=True)
        self.scan.work(len(self.stack) + sum(map(len, self.outer)))
        other.outer = [list(items) for items in self.outer]
        other.stack = list(self.stack)
        other.memo = _Layer(self.memo)
        other.undone = []
        other.caller.lenient = True
        other.caller.dtypes = self.caller.dtypes.fork()
        other.protocol = self.protocol
        return other

    def persid(self) -> None:
        self._persistent(self._line().decode("ascii"))

    def binpersid(self) -> None:
        self._persistent(self.stack.pop())

    def _persistent(self, key: Any) -> None:
        if not self.flavour:
            raise Broken(
                "refers to an object outside of the pickle by a persistent id, which only its own loader knows", self.place
            )
        if self.flavour == "torch tar" and type(key) is int:
            self.stack.append(Made(None))
            return
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module" and isinstance(key[1], Name):
            self.stack.append(key[1])  # a class, whose source the legacy form notes beside it
            return
        known = (
            isinstance(key, tuple)
            and len(key) in (5, 6)
            and key[0] == "storage"
            and isinstance(key[1], Name)
            and type(key[2]) is str
            and type(key[3]) is str
            and type(key[4]) is int
            and key[4] >= 0
        )
        if not known:
            raise Broken("has a persistent id that is no storage of torch", self.place)
        if key[1].rights:
            self.caller.use("name", key[1])
        if self.storages.setdefault(key[2], (key[1].name, key[4])) != (key[1].name, key[4]):
            raise Broken(f"describes a storage in two ways ({named(key[2])})", self.place)
        self.stack.append(Made(None))

    def ext(self, size: int) -> None:
        start = self.place - 1
        self._take(size)
        if self.shadow:
            raise Broken("takes a name from the registry of extensions", start)
        self.caller.tell("takes a name from the registry of extensions, which only the loading process knows", start)
        self.stack.append(UNKNOWN)

    def ext1(self) -> None:
        self.ext(1)

    def ext2(self) -> None:
        self.ext(2)

    def ext4(self) -> None:
        self.ext(4)

    # Protocol

    def proto(self) -> None:
        self.protocol = self._take(1)[0]
        if self.protocol > 5:
            raise Broken(f"is written in pickle protocol {self.protocol}, which is unknown", self.place - 2)

    def frame(self) -> None:
        start = self.place - 1
        length = _U8.unpack(self._take(8))[0]
        if self.frame_end != NO_FRAME:
            raise Refused("has a frame within a frame, where readers disagree", start)
        if length > self.view.size - self.place:
            # Python's own unpickler, which joblib's is made of, reads on as if there were no frame; C's refuses.
            if not self.shadow:
                raise Refused("has a frame that is longer than the file, where readers disagree", start)
        elif length:
            self.frame_end = self.place + length

    def next_buffer(self) -> None:
        if self.shadow:
            raise Broken("needs buffers that lie elsewhere", self.place - 1)
        self.part.unscannable("needs buffers that lie elsewhere", self.place - 1)
        self.stack.append(UNKNOWN)

    def readonly_buffer(self) -> None:
        self.stack[-1] = self.stack[-1]


_DONE: Final[list[Any]] = []

_SLOW: list[Any] = [None] * 256
for _code, _method in {
    0x30: Machine.pop,
    0x31: Machine.pop_mark,
    0x32: Machine.dup,
    0x42: Machine.binbytes,
    0x43: Machine.short_binbytes,
    0x46: Machine.float_,
    0x49: Machine.int_,
    0x4C: Machine.long_,
    0x50: Machine.persid,
    0x51: Machine.binpersid,
    0x52: Machine.reduce,
    0x53: Machine.string,
    0x54: Machine.binstring,
    0x55: Machine.short_binstring,
    0x56: Machine.unicode,
    0x58: Machine.binunicode,
    0x61: Machine.append,
    0x62: Machine.build,
    0x63: Machine.global_,
    0x64: Machine.dict_,
    0x65: Machine.appends,
    0x67: Machine.get,
    0x69: Machine.inst,
    0x6C: Machine.list_,
    0x6F: Machine.obj,
    0x70: Machine.put,
    0x73: Machine.setitem,
    0x74: Machine.tuple_,
    0x75: Machine.setitems,
    0x80: Machine.proto,
    0x81: Machine.newobj,
    0x82: Machine.ext1,
    0x83: Machine.ext2,
    0x84: Machine.ext4,
    0x8A: Machine.long1,
    0x8B: Machine.long4,
    0x8D: Machine.binunicode8,
    0x8E: Machine.binbytes8,
    0x8F: Machine.empty_set,
    0x90: Machine.additems,
    0x91: Machine.frozenset_,
    0x92: Machine.newobj_ex,
    0x93: Machine.stack_global,
    0x95: Machine.frame,
    0x96: Machine.bytearray8,
    0x97: Machine.next_buffer,
    0x98: Machine.readonly_buffer,
}.items():
    _SLOW[_code] = _method

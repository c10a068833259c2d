"""TorchScript: code as torch writes it has no problem, and operators that reach out of the model do not get by in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.scanner import Part, Scan
from airflow_pipesec.scan.torchscript import look_code
from airflow_pipesec.scan.views import Memory

SHIPPED = AllowList.shipped()

# Written by PyTorch 2.13 for a scripted module: control flow, containers, classes, enumerations, interfaces, a forked function.
WRITTEN = """\
class M2(Module):
  __parameters__ = ["w", ]
  __buffers__ = ["buf", ]
  __annotations__["0"] = __torch__.torch.nn.modules.linear.Linear
  __annotations__["1"] = Optional[__torch__.torch.nn.modules.linear.Linear]
  w : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  en : __torch__.E
  sub : __torch__.Iface
  packed : __torch__.torch.classes.quantized.LinearPackedParamsBase
  e : Final[int] = 2
  def forward(s: __torch__.M2,
    x: Tensor,
    p: Optional[__torch__.P]=None) -> __torch__.P:
    _0 = __torch__.torch.nn.functional.___torch_mangle_1.interpolate
    c = __torch__.Cls.__new__(__torch__.Cls)
    _1 = (c).__init__(3, )
    n = (c).__p_getter()
    sub = s.sub
    def __forked_function():
      return (sub).forward(x, )
    f = fork(__forked_function)
    y = torch.wait(f)
    if torch.eq(s.en, __torch__.E.A):
      y0 = torch.add(y, 1)
    else:
      y0 = y
    _2 = __torch__.torch.autograd.grad_mode.no_grad.__new__(__torch__.torch.autograd.grad_mode.no_grad)
    with _2:
      y1 = torch.mul(y0, torch.sum(s.w))
    if torch.__isnot__(p, None):
      _4 = unchecked_cast(__torch__.P, p)
    else:
      _4 = __torch__.P(torch.add(y1, CONSTANTS.c0), torch.add(n, 2))
    return _4
  def other(s: __torch__.M2,
    x: List[str],
    c: complex=0.+1.j) -> Tuple[Tensor, List[int], Dict[str, Tensor]]:
    out = annotate(List[int], [])
    dd = annotate(Dict[str, Tensor], {})
    for i in range(s.k):
      torch._set_item(dd, str(i), i)
    _2 = bool(torch.gt(torch.norm(x), 10.))
    while _2:
      x4 = torch.div(x, 2)
      _3 = bool(torch.gt(torch.norm(x4), 10.))
      _2, x3 = _3, x4
    _10 = getattr(s, "1")
    k0, v, = torch.items(dd)[0]
    if isinstance(v, List[int]):
      pass
    else:
      ops.prim.RaiseException("AssertionError: # save(\\"x\\")", "builtins.AssertionError")
    print(k0, -inf)
    r = uninitialized(Tensor)
    g = torch.autograd.grad([x], [x])
    a = ops.quantized.linear_dynamic(v, s.packed, True)
    b = ops.torchvision.nms(v, v, 0.5)
    return (v, out, dd)
class E(Enum):
  A = 1
  B = 2
class Iface(ModuleInterface):
  def forward(self, x: Tensor) -> Tensor:
    pass
class P(NamedTuple):
  a : Tensor
  b : int
def interpolate(input: Tensor, size: Optional[int]=None) -> Tensor:
  return torch.relu(input)
"""


def looked(code: str) -> Scan:
    scan = Scan(SHIPPED)
    Part(Memory(code.encode()), scan).look(look_code)
    return scan


def faults(*lines: str) -> list[str]:
    body = "".join(f"    {line}\n" for line in lines)
    code = f"class M(Module):\n  training : bool\n  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n{body}"
    scan = looked(code)
    assert not [each for each in scan.problems if "cannot be parsed" in each.why], scan.problems
    return [str(each.fault) for each in scan.problems]


def test_code_as_torch_writes_it_has_no_problem() -> None:
    scan = looked(WRITTEN)
    assert scan.problems == []
    assert scan.formats == {"torchscript code": 1}
    assert scan.used[Entry("torchscript", "", "torch.add")] == 3


def test_code_of_older_versions_has_no_problem() -> None:
    assert (
        looked("op_version_set = 1\nimport __torch__.torch.nn\ndef f(x: Tensor) -> Tensor:\n  return torch.relu(x)\n").problems
        == []
    )


@pytest.mark.parametrize(
    "line",
    [
        "torch.save(x, 'file')",
        "y = torch.from_file('/etc/passwd', False, 10)",
        "ops.aten.save(x, 'file')",
        "f = torch.save",
        "t = torch",
        "o = ops",
        "getattr(torch, 'save')(x, 'file')",
        "getattr(ops.aten, 'save')(x, 'file')",
        "y = x.from_file('/etc/passwd')",
        "y = (x).save('file')",
        "y = getattr(x, 'save')",
        "ops.image.read_file('/etc/passwd')",
        "ops.image.write_file('file', x)",
        "ops.prim.PythonOp(x)",
        "ops.prim.rpc_sync('w', x)",
        "ops.c10d.send(x)",
        "ops.debugprims.load_tensor('name', [1], [1])",
        "ops.mylib.run(x)",
        "m = __torch__.torch.classes.aoti.AOTIModelRunnerCpu.__new__(__torch__.torch.classes.aoti.AOTIModelRunnerCpu)",
        "m = annotate(__torch__.torch.classes.mylib.Loader, x)",
        "m = getattr(__torch__.torch, 'classes')",
        "m = __torch__.torch.classes",
        "if True: torch.save(x, 'file')",
        "y = [torch.save(x, 'file')]",
        "y = {'a': torch.save(x, 'file')}",
        "y = x[torch.save(x, 'file'):]",
        "y = annotate(Tensor, torch.save(x, 'file'))",
        "torch.nn.functional.relu(x)",
        "open('file')",
        "exec('x')",
        "__import__('os')",
    ],
)
def test_what_reaches_out_of_the_model_is_unsafe(line: str) -> None:
    assert set(faults(line, "return x")) == {"unsafe"}


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from os import system",
        "lambda: x",
        "y = f'{x}'",
        "y = b'x'",
        "y = [i for i in x]",
        "y = (z := x)",
        "torch = x",
        "annotate = x",
        "ops, y = x",
        "g = getattr(x, y)",
        "async def f(): pass",
        "global x",
        "yield x",
        "return x +",
        "return x  # a\r    torch.save(x, 'file')",
        "return\tx",
        "return 'ä'",
        "\x0creturn x",
        "class X: pass",
        "y = annotate(List[torch.save(x, 'file')], x)",
        "y = " + "(" * 300 + "x" + ")" * 300,
        "y = " + "-" * 20_000 + "x",
        "y = " + "x + " * 20_000 + "x",
    ],
)
def test_what_torch_does_not_write_is_unscannable(line: str) -> None:
    assert "unscannable" in faults(line, "return x")


@pytest.mark.parametrize(
    "code",
    [
        "@torch.save\nclass M(Module):\n  pass\n",
        "class M(torch.save(1, 'x')):\n  pass\n",
        "class M(Module, metaclass=x):\n  pass\n",
        "torch.save(1, 'x')\n",
        "@f\ndef f():\n  return 1\n",
        "import os\n",
        "class M(Module):\n  if True:\n    pass\n",
    ],
)
def test_classes_and_functions_of_another_kind_are_unscannable(code: str) -> None:
    assert [str(each.fault) for each in looked(code).problems] == ["unscannable"]


def test_what_a_class_and_a_signature_have_as_values_is_judged() -> None:
    assert [str(each.fault) for each in looked("class M(Module):\n  e : int = torch.save(1, 'x')\n").problems] == ["unsafe"]
    assert [str(each.fault) for each in looked("def f(x: int=torch.save(1, 'x')):\n  return x\n").problems] == ["unsafe"]


def test_a_text_that_goes_on_over_a_class_is_unscannable() -> None:
    assert "unscannable" in [str(each.fault) for each in looked('x = """\nclass M(Module):\n  pass\n"""\n').problems]


def test_a_method_of_the_archive_may_have_any_other_name() -> None:
    assert faults("y = (self.inner).transform(x, )", "return y.relu()") == []


def test_a_name_is_told_once() -> None:
    scan = looked("def f(x: Tensor):\n" + "  torch.save(x, 'file')\n" * 50)
    assert len(scan.problems) == 1
    assert scan.refused == {"torch.save"}


@given(st.data())
def test_code_that_is_changed_or_cut_off_raises_nothing(data: st.DataObject) -> None:
    made = bytearray(WRITTEN.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.sampled_from(b"\n\0 ()[]'\"#=x.:\\,\xff"))
    scan = Scan(SHIPPED)
    Part(Memory(bytes(made[: data.draw(st.integers(0, len(made)))])), scan).look(look_code)
    assert not [each for each in scan.problems if "cannot be parsed" in each.why]


def test_classes_of_c_code_are_those_that_torch_registers_itself():
    from airflow_pipesec.scan.pickles import look_pickle
    from airflow_pipesec.scan.scanner import Part, Scan

    def problems(name: str) -> list[str]:
        data = b"\x80\x02c__torch__." + name.encode() + b"\n)\x81."
        scan = Scan(AllowList.shipped())
        Part(Memory(data), scan, known="torchscript").look(look_pickle)
        return [problem.why for problem in scan.problems]

    assert problems("some.module\nModel") == []
    assert problems("torch.classes.quantized\nConv2dPackedParamsBase") == []
    assert "not on the allow-list" in problems("torch.classes.other\nLoader")[0]

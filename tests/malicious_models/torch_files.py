"""Files of torch: ZIP archives of several shapes, the older format of five pickles, and the still older tar."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator

from tests.malicious_models.archives import Member, joined
from tests.malicious_models.assembling import Build, Put, Raw, at, call, method, new, opcodes_of, pickled, then
from tests.malicious_models.sample import Payload, Sample

GOOD = pickled({"a": 1}, 2)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def members(data: bytes, root: str = "archive", **more: bytes) -> list[Member]:
    found = [Member(f"{root}/data.pkl", data), Member(f"{root}/byteorder", b"little"), Member(f"{root}/version", b"3\n")]
    return found + [Member(f"{root}/{name.replace('__', '/')}", content) for name, content in more.items()]


def zips(p: Payload) -> Iterator[tuple[str, str, bytes, str]]:
    evil = pickled(p.system, 2)
    yield "data.pkl", "model.pt", joined(members(evil)), "torch"
    for protocol in (0, 1, 3, 4, 5):
        yield f"data.pkl, protocol {protocol}", "model.pt", joined(members(pickled(p.system, protocol))), "torch"
    for name in ("model.bin", "model.pth", "model.ckpt", "pytorch_model.bin", "model.onnx", "model.jpg", "model"):
        yield f"called {name}", name, joined(members(evil)), "torch"
    for root in ("model", "..", "data.pkl", "a b", "\u202egp", "archive.", "C:"):
        yield f"root {root!a}", "model.pt", joined(members(evil, root)), "torch"
    yield "a storage after", "model.pt", joined(members(evil, data__0=bytes(16))), "torch"
    yield "deflated", "model.pt", joined([each._replace(method=8) for each in members(evil)]), "torch"


def contradictions(p: Payload) -> Iterator[tuple[str, str, bytes, str]]:
    """Archives of which readers may read different things, and such with a pickle in another place."""
    evil = pickled(p.system, 2)
    plain = members(evil)
    yield "checksum wrong in the directory", "model.pt", joined([plain[0]._replace(central_crc=1), *plain[1:]]), "torch"
    yield "checksum wrong in the member", "model.pt", joined([plain[0]._replace(local_crc=1), *plain[1:]]), "torch"
    yield "checksum wrong in both", "model.pt", joined([plain[0]._replace(local_crc=1, central_crc=1), *plain[1:]]), "torch"
    yield "checksum of nothing", "model.pt", joined([plain[0]._replace(local_crc=0, central_crc=0), *plain[1:]]), "torch"
    renamed = plain[0]._replace(local_name="archive/data.txt")
    yield "another name in the member", "model.pt", joined([renamed, *plain[1:]]), "torch"
    shorter = plain[0]._replace(local_name="x")
    yield "a shorter name in the member", "model.pt", joined([shorter, *plain[1:]]), "torch"
    yield "flag of encryption", "model.pt", joined([plain[0]._replace(flags=1), *plain[1:]]), "none"
    yield "flag of encryption in the member only", "model.pt", joined([plain[0]._replace(local_flags=1), *plain[1:]]), "torch"
    yield "flag of a descriptor", "model.pt", joined([plain[0]._replace(local_flags=8), *plain[1:]]), "torch"
    yield "flag of strong encryption", "model.pt", joined([plain[0]._replace(local_flags=0x40), *plain[1:]]), "torch"
    yield "sizes wrong in the member", "model.pt", joined([plain[0]._replace(local_size=3), *plain[1:]]), "torch"
    yield "method wrong in the member", "model.pt", joined([plain[0]._replace(local_method=8), *plain[1:]]), "torch"
    good = Member("archive/data.pkl", GOOD)
    yield "data.pkl twice, the first is bad", "model.pt", joined([plain[0], good, *plain[1:]]), "torch"
    yield "data.pkl twice, the last is bad", "model.pt", joined([good, *plain]), "none"
    yield "data.pkl in two cases", "model.pt", joined([Member("archive/DATA.PKL", GOOD), *plain]), "none"
    yield (
        "data.pkl in two cases, the other first",
        "model.pt",
        joined([plain[0], Member("archive/Data.pkl", GOOD), *plain[1:]]),
        "torch",
    )
    yield "name with a NUL", "model.pt", joined([Member("archive/data.pkl\x00.txt", evil), *plain]), "torch"
    yield "names with a backslash", "model.pt", joined([plain[0]._replace(name="archive\\data.pkl"), *plain[1:]]), "none"
    yield "extra fields", "model.pt", joined([plain[0]._replace(extra=b"FB\x10\x00" + b"Z" * 16), *plain[1:]]), "torch"
    yield "comment at the end", "model.pt", joined(plain, comment=b"hello"), "torch"
    yield "comment that looks like an end", "model.pt", joined(plain, comment=b"PK\x05\x06" + bytes(18)), "none"
    yield "bytes before", "model.pt", b"x" * 100 + joined(plain, base=100), "none"
    yield "bytes after", "model.pt", joined(plain) + b"x" * 100, "none"
    yield "pickle before", "model.pt", evil + joined(plain, base=len(evil)), "pickle"
    yield "hole between members", "model.pt", joined(plain, gap=b"\x00" * 50), "torch"
    yield "pickle between members", "model.pt", joined(members(GOOD), gap=evil), "none"
    yield "directory lacks data.pkl", "model.pt", joined([plain[0]._replace(listed=False), *plain[1:]]), "none"
    for name in (".data/serialization_id", "extra/model_info.pkl", "extra/x.bin", "other.pkl", "code/x.pkl", "data/0.pkl"):
        yield f"pickle in {name}", "model.pt", joined([*members(GOOD), Member(f"archive/{name}", evil)]), "none"
    yield "pickle beside the root", "model.pt", joined([*members(GOOD), Member("model2/data.pkl", evil)]), "none"
    yield "pickle in the root above", "model.pt", joined([*members(GOOD), Member("data.pkl", evil)]), "none"
    yield "torch in torch", "model.pt", joined([*members(GOOD), Member("archive/extra/model.pt", joined(plain))]), "none"
    yield "two pickles in data.pkl", "model.pt", joined(members(GOOD + evil)), "none"
    yield "no version", "model.pt", joined(plain[:1]), "none"
    yield "root of two folders", "model.pt", joined(members(evil, "x/y")), "none"
    yield "junk after the pickle in data.pkl", "model.pt", joined(members(evil + b"\x00" * 64)), "torch"
    yield "truncated pickle in data.pkl", "model.pt", joined(members(evil[:-1])), "torch"
    yield "compressed by bzip2", "model.pt", _zipfile(plain, zipfile.ZIP_BZIP2), "none"
    yield "compressed by LZMA", "model.pt", _zipfile(plain, zipfile.ZIP_LZMA), "none"


def _zipfile(found: list[Member], compression: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for member in found:
            archive.writestr(zipfile.ZipInfo(member.name), member.data, compression)
    return made.getvalue()


def pickles(p: Payload) -> Iterator[tuple[str, bytes]]:
    """What data.pkl may do with what torch allows, and around it."""
    storage = ("storage", at("torch:FloatStorage"), "0", "cpu", 1)
    by_id = opcodes_of(storage, 2) + b"Q"
    tensor = call("torch._utils:_rebuild_tensor_v2", Raw(by_id), 0, (1,), (1,), False, call("collections:OrderedDict"))
    yield "payload beside a tensor", pickled({"w": tensor, "x": p.system}, 2)
    yield "payload as the hooks of a tensor", pickled(then(p.system, tensor), 2)
    hooks = call("torch._utils:_rebuild_tensor_v2", Raw(by_id), 0, (1,), (1,), False, p.system)
    yield "payload in the place of the hooks", pickled(hooks, 2)
    located = opcodes_of(("storage", at("torch:FloatStorage"), "0", p.system, 1), 2) + b"Q"
    yield (
        "payload in the place of the device",
        pickled(call("torch._utils:_rebuild_tensor_v2", Raw(located), 0, (1,), (1,), False, None), 2),
    )
    kind = opcodes_of(("storage", at("os:system"), "0", "cpu", 1), 2) + b"Q"
    yield "payload as the type of a storage", pickled(then(p.system, Raw(kind)), 2)
    yield "persistent id that is no tuple", pickled(then(p.system, Raw(b"Vmodule\nQ")), 2)
    parameter = call("torch._utils:_rebuild_parameter", tensor, True, p.system)
    yield "payload as the hooks of a parameter", pickled(parameter, 2)
    state = call("torch._tensor:_rebuild_from_type_v2", at("os:system"), at("torch:Tensor"), (p.shell,), None)
    yield "_rebuild_from_type_v2", pickled(state, 2)
    set_state = call("torch._utils:_set_obj_state", call("types:SimpleNamespace"), {"__setstate__": at("os:system")})
    yield "_set_obj_state", pickled(Build(set_state, p.shell), 2)
    yield (
        "_rebuild_device_tensor_from_numpy",
        pickled(
            then(
                p.system,
                call("torch._utils:_rebuild_device_tensor_from_numpy", call("numpy:zeros", 1), at("torch:float32"), "cpu", False),
            ),
            2,
        ),
    )
    hooked = Build(call("torch.nn.modules.module:Module"), {"_forward_hooks": {1: p.system}})
    yield "module with a payload in its hooks", pickled(hooked, 2)
    ordered = call("collections:OrderedDict", [["a", p.system]])
    yield "payload in an OrderedDict", pickled(ordered, 2)
    yield "payload as the state of an OrderedDict", pickled(Build(call("collections:OrderedDict"), {"_metadata": p.system}), 2)
    odd = Put(call("collections:OrderedDict"), p.system, 1)
    yield "payload as a key", pickled(odd, 2)
    bound = method(call("torch:device", "cpu"), "__reduce__")
    yield "payload after a device", pickled(then(bound, p.system), 2)
    nested = call("torch.storage:_load_from_bytes", legacy(p, 3))
    yield "_load_from_bytes of a torch file", pickled(nested, 2)
    yield "getattr through torch", pickled(method(call("torch._utils:importlib.import_module", "os"), "system", p.shell), 4)
    yield "torch.jit.frontend, a module of it", pickled(call("torch.jit.frontend:inspect.os.system", p.shell), 4)
    yield "NEWOBJ of a map in a Size", pickled(new("torch:Size", new("builtins:map", at("os:system"), [p.shell])), 4)


def legacy(p: Payload, place: int) -> bytes:
    """Return the older format: five pickles, of which the one at a place runs the payload and then is what it should be."""
    values = [MAGIC, PROTOCOL, SYSTEM, {"a": 1}, []]
    return b"".join(pickled(then(p.system, value) if here == place else value, 2) for here, value in enumerate(values))


def tars(p: Payload) -> Iterator[tuple[str, bytes]]:
    """The format of torch before 0.1.10. Each of its members is read by pickle."""
    evil = pickled(then(p.system, 0), 2)
    nothing = {"sys_info": pickle.dumps({}, 2), "storages": pickle.dumps(0, 2) + pickle.dumps([], 2)}
    for name in ("storages", "tensors", "pickle"):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for member in ("sys_info", "storages", "tensors", "pickle"):
                entry = tarfile.TarInfo(member)
                data = evil if member == name else nothing.get(member, pickle.dumps(0, 2))
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        yield name, made.getvalue()


SCRIPT = """class Model(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
  def forward(self: __torch__.Model) -> Tensor:
    x = torch.ones([2])
    torch.save(x, "MARKER")
    return x
"""


def script(p: Payload) -> bytes:
    """Return a TorchScript archive whose method writes a file by aten::save."""
    data = pickled(Build(new("__torch__:Model"), {"training": True, "_is_full_backward_hook": None}), 2)
    code = SCRIPT.replace("MARKER", p.marker).encode()
    root = "model"
    found = [
        Member(f"{root}/data.pkl", data),
        Member(f"{root}/code/__torch__.py", code),
        Member(f"{root}/constants.pkl", pickled((), 2)),
        Member(f"{root}/version", b"3\n"),
    ]
    return joined(found)


def samples(p: Payload) -> Iterator[Sample]:
    for name, file, data, loader in zips(p):
        yield Sample(f"torch, ZIP: {name}", file, data, loader)
    for name, file, data, loader in contradictions(p):
        yield Sample(f"torch, ZIP: {name}", file, data, loader, sure=False)
    for name, data in pickles(p):
        storage = {"data__0": struct.pack("<f", 1.0)}
        yield Sample(f"torch, pickle: {name}", "model.pt", joined(members(data, **storage)), "torch")
    for place, name in enumerate(("magic number", "protocol", "system", "object", "keys of storages")):
        yield Sample(f"torch, legacy: {name}", "model.pt", legacy(p, place), "torch")
    yield Sample("torch, legacy: magic number as an address", "model.pt", p.pickle + legacy(p, 9), "torch")
    for name, data in tars(p):
        yield Sample(f"torch, tar: {name}", "model.pt", data, "torch")
    yield Sample("torch, plain pickle", "model.pt", p.pickle, "torch")
    yield Sample("torch, TorchScript that saves a file", "model.pt", script(p), "torch")

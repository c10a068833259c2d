"""Plain files: text and what is none, programs, markup, YAML, and the boosters' own formats."""

from __future__ import annotations

import base64
import py_compile
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.scan import plain
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Part, Scan
from airflow_pipesec.scan.views import Memory

NOTHING = AllowList()


def looked(data: bytes, name: str = "", form: str = "text", depth: int = 0) -> list[str]:
    """Return what is wrong, as the words of the faults."""
    scan = Scan(NOTHING)
    part = Part(Memory(data), scan, name if depth else "", depth, "" if depth else f"file:{name}")
    part.look(getattr(plain, f"look_{form}"))
    assert not [each for each in scan.problems if "cannot be parsed" in each.why], scan.problems
    return [str(each.fault) for each in scan.problems]


@pytest.mark.parametrize(
    "head",
    [
        b"\x7fELF\x02\x01\x01" + bytes(20),
        b"MZ\x90\x00\x03" + bytes(60) + b"PE\0\0",
        b"\xcf\xfa\xed\xfe" + bytes(20),
        b"\xca\xfe\xba\xbe\x00\x00\x00\x02" + bytes(20),
        b"\x00asm\x01\x00\x00\x00",
        b"dex\n035\0",
        b"BC\xc0\xde\x35\x14",
        b"!<arch>\nmodel.o/",
        b"#!/bin/sh\nrm -rf x\n",
        b"#! /usr/bin/env python3\n",
        b"\xef\xbb\xbf#!/usr/bin/python\n",
        b"\x1bLuaR\0\x01",
        b"\x03\xf3\r\n" + bytes(20),
    ],
)
def test_a_program_is_told_by_its_first_bytes(head: bytes) -> None:
    assert plain.is_executable(head)
    assert looked(head, form="executable") == ["unsafe"]


def test_python_bytecode_of_this_very_python_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("x = 1\n")
    compiled = py_compile.compile(str(tmp_path / "x.py"), cfile=str(tmp_path / "x.pyc"), doraise=True)
    assert plain.is_executable(Path(compiled).read_bytes())


@pytest.mark.parametrize(
    "head", [b"", b"MZ,name\n1,2\n", b"#version: 0.2\nt h\n", b"#!\n", b"# !/bin/sh", b"tree\nversion=v4\n", b"a\r\n\r\n" * 9]
)
def test_what_is_no_program_is_not_taken_for_one(head: bytes) -> None:
    assert not plain.is_executable(head)


def test_text_is_utf_8_without_control_characters() -> None:
    assert plain.is_text(Memory("naïve\ttext 文\r\n".encode()))
    assert plain.is_text(Memory(b"\xef\xbb\xbfmarked"))
    for data in (b"a\0b", b"\xff\xfe", "Latin-1: ä".encode("latin-1"), "cut: ä".encode()[:-1], b"bell\a", b"\x1b[31m"):
        assert not plain.is_text(Memory(data))


def test_a_character_across_two_windows_is_one() -> None:
    assert plain.is_text(Memory(b"x" * ((1 << 20) - 1) + "文".encode() * 5))


class _Large:
    """A text of 5 GiB, but for one place."""

    size = 5 << 30

    def __init__(self, place: int) -> None:
        self.place = place
        self.count = 0

    def read_at(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        self.count += length
        data = bytearray(b"\xc3\xa4" * (length // 2 + 1))[offset % 2 :][:length]
        if offset <= self.place < offset + length:
            data[self.place - offset] = 0
        return bytes(data)


def test_of_a_very_large_text_the_ends_and_samples_are_read() -> None:
    view = _Large(-1)
    assert plain.is_text(view)
    assert view.count < 64 << 20
    assert not plain.is_text(_Large(10))
    assert not plain.is_text(_Large(_Large.size - 1))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("README.md", "# A model\n\n<p align='center'>\n\n```python\nimport os\n```\n"),
        ("vocab.txt", "[PAD]\n[UNK]\n##ing\n"),
        ("merges.txt", "#version: 0.2\nĠ t\n"),
        ("data.csv", "a,b\n1,2\n"),
        ("requirements.txt", "numpy==2.0\n"),
        ("model.txt", "tree\nversion=v4\nnum_class=1\n"),
        ("conda.yaml", "channels: [defaults]\ndependencies:\n  - python=3.11\n  - pip: ['mlflow']\n"),
        ("config.yml", "a: !!float 1\nb: !!binary aGk=\n"),
        ("setup.cfg", "[metadata]\nname = x\n"),
        (
            "MLmodel",
            "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    code: null\n    model_path: model.pkl\n",
        ),
        ("model.pmml", '<?xml version="1.0"?>\n<PMML version="4.4"><TreeModel functionName="regression"/></PMML>'),
        ("picture.svg", "<svg><path d='M0 0'/></svg>"),
        ("page.html", "<!DOCTYPE html><html><p>only text</p></html>"),
        ("LICENSE", "Permission is granted\n"),
    ],
)
def test_text_that_is_data_has_no_problem(name: str, data: str) -> None:
    assert looked(data.encode(), name) == []


@pytest.mark.parametrize(
    "name",
    [
        "modeling.py",
        "A.PY",
        "run.sh",
        "x.bash",
        "x.ps1",
        "x.bat",
        "x.cmd",
        "x.js",
        "x.vbs",
        "x.pl",
        "x.rb",
        "x.php",
        "x.jl",
        "x.R",
    ],
)
def test_what_is_named_like_a_program_is_unsafe(name: str) -> None:
    assert looked(b"x\n", name) == ["unsafe"]
    assert looked(b"x\n", f"archive/code/{name}", depth=2) == ["unsafe"]


def test_a_name_that_only_looks_like_an_ending_is_none() -> None:
    assert looked(b"x\n", "py") == []
    assert looked(b"x\n", "happy") == []


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "model.textproto", "net.prototxt", "model.onnxtxt"])
def test_protobuf_as_text_is_unscannable(name: str) -> None:
    assert looked(b"x: 1\n", name) == ["unscannable"]


@pytest.mark.parametrize(
    "data",
    [
        "a: !!python/object/apply:os.system ['x']",
        "a: !<tag:yaml.org,2002:python/name:os.system> x",
        "%TAG !e! tag:yaml.org,2002:python/\n---\na: !e!object/apply:os.system [x]",
        "a: !!%70ython/name:os.system x",
        "- !mine {a: 1}",
    ],
)
def test_yaml_that_makes_objects_is_unsafe(data: str) -> None:
    assert looked(data.encode(), "config.yaml") == ["unsafe"]


def test_yaml_that_is_none_is_unscannable() -> None:
    assert looked(b"a: [1, 2", "config.yaml") == ["unscannable"]


@pytest.mark.parametrize(
    "line", ["loader_module: evil", "loader_module: [a]", "code: code", "model_code_path: agent.py", "'loader_module': 'os'"]
)
def test_an_mlflow_model_that_brings_its_own_code_is_unsafe(line: str) -> None:
    assert looked(f"flavors:\n  python_function:\n    {line}\n".encode(), "MLmodel") == ["unsafe"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ('<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><PMML>&e;</PMML>', "unscannable"),
        ('<?xml version="1.0"?><!DOCTYPE x SYSTEM "http://example.com/x.dtd"><PMML/>', "unscannable"),
        ("<svg><script>alert(1)</script></svg>", "unsafe"),
        ("<html><img onerror = alert(1)></html>", "unsafe"),
        ("<html><a href='JavaScript:alert(1)'>x</a></html>", "unsafe"),
        ("<svg xmlns:s='x'><s:script/></svg>", "unsafe"),
    ],
)
def test_markup_that_runs_or_reads_something_is_told_whatever_its_name(data: str, fault: str) -> None:
    assert looked(data.encode(), "notes.txt") == [fault]


def test_a_script_across_two_windows_of_markup_is_found() -> None:
    data = b"<html>" + b"x" * ((1 << 20) - 10) + b"<script>alert(1)</script></html>"
    assert looked(data, "page.html") == ["unsafe"]


def test_a_template_is_judged_by_what_it_does() -> None:
    assert looked(b"{% for m in messages %}{{ m['content'] | trim }}{% endfor %}", "chat_template.jinja") == []
    assert looked(b"{{ ''.__class__ }}", "chat_template.jinja") == ["unsafe"]


def key(name: str) -> bytes:
    return b"L" + struct.pack(">q", len(name)) + name.encode()


def text(value: str) -> bytes:
    return b"S" + key(value)


UBJ = (
    b"{"
    + key("learner")
    + b"{"
    + key("attributes")
    + b"{"
    + key("note")
    + text("hello")
    + b"}"
    + key("weights")
    + b"[$d#"
    + b"L"
    + struct.pack(">q", 3)
    + bytes(12)
    + key("trees")
    + b"[#L"
    + struct.pack(">q", 2)
    + b"{}"
    + b"{"
    + key("id")
    + b"l"
    + bytes(4)
    + b"}"
    + b"}"
    + key("version")
    + b"[#L"
    + struct.pack(">q", 3)
    + b"i\x03i\x02i\x00"
    + b"}"
)  # fmt: skip - one line of the file each


def test_an_xgboost_model_in_ubjson_has_no_problem() -> None:
    assert looked(UBJ, form="xgboost") == []


@pytest.mark.parametrize(
    "data",
    [
        UBJ + b"x",
        UBJ[:-1],
        b"{" + key("learner") + b"{}}",
        b"{" + key("learner") + b"{}" + key("version") + b"Z" + key("more") + b"Z}",
        b"{" + key("learner") + b"{}" + key("learner") + b"{}" + key("version") + b"Z}",
        b"{" + key("learner") + b"[#L" + struct.pack(">q", 1 << 50) + key("version") + b"Z}",
        b"{" + key("learner") + b"[$d#L" + struct.pack(">q", -1) + key("version") + b"Z}",
        b"{" + key("learner") + b"[" * 5,
        b"{" + key("learner") + b"[#i\x01" * 100,
        b"{" + key("learner") + b"H" + key("12"),
        b"{L" + struct.pack(">q", 1 << 60),
    ],
)
def test_broken_ubjson_is_unscannable(data: bytes) -> None:
    assert looked(data, form="xgboost") == ["unscannable"]


def words(*values: int, size: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values).ljust(size, b"\0")


def length(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def binary(booster: bytes, body: bytes, attributes: int = 1) -> bytes:
    return b"binf" + words(0, 4, 0, attributes, 0, 2, 1, 1, size=136) + length(b"reg:squarederror") + length(booster) + body


TREES = words(1, size=160) + words(1, 3, 0, 0, 4, 0, size=148) + bytes(3 * 36) + bytes(4)
ATTRIBUTES = struct.pack("<Q", 1) + length(b"objective") + length(b"{}")


def test_old_binary_models_of_xgboost_have_no_problem() -> None:
    for data in (
        binary(b"gbtree", TREES + ATTRIBUTES),
        binary(b"gbtree", TREES, attributes=0),
        binary(b"dart", TREES + struct.pack("<Q", 1) + bytes(4) + ATTRIBUTES),
        binary(b"gblinear", bytes(136) + struct.pack("<Q", 5) + bytes(20) + ATTRIBUTES),
    ):
        assert looked(data, form="xgboost") == []
        assert looked(data + b"x", form="xgboost") == ["unscannable"]
        assert looked(data[:-1], form="xgboost") == ["unscannable"]


def test_an_old_model_that_says_it_has_more_than_there_is_is_unscannable() -> None:
    assert looked(binary(b"gbtree", words(1 << 31, size=160)), form="xgboost") == ["unscannable"]
    assert looked(binary(b"custom", b""), form="xgboost") == ["unscannable"]


# Made by CatBoost 1.2.10: three trees of depth 1 on one numeric and one categorical feature.
CATBOOST = zlib.decompress(
    base64.b85decode(
        "c-rk*%a0sK8Sjl9SgeRR$ble5VrUr&q20~&ymn?3Vei^;Y+)NKYbPSc>Qr}E&s4TwsqUWLv9sbBF5GhBLc$494j>^R!oe3p5Pv}q95^6AD2Lp_0crSsRn<Mc"
        "YsU!+9FQ2Pw!5q9`|5i?YR_$7ao+f{Wu3Gv>k;deb=+FT^CX64^)TN0l3qKGv4Szg_zcFMAIIEdmUaFMmi08gU&r?l-}tmHM9eG0kjwl^8t}-SIeI=XSRs5j"
        "lj%$ZT&nr^|FT&8{G`VJCZ2cffEP?eJfM9cUhHwmqMWbUUYh2GNG5KY6(UV?dwj=^)dBfbie%TN4|{B%!&<?T!d|mk1|<7#nz&&ZMebDOMJnet#xRWnH{yvK"
        "mr)_INN{P7J7zxPGA@Z?KzmW@@7m+`nw^0LE=4NcoW+1hCil`;%rm0nTEs*GA_M@Kp}4ztm}D$)g*OdcKTSe0A+GkADBLDk2RjVbt7*c46pUnUHe*pq@CW8}"
        "H<W4YvKb&Jm@i}rx|)pmX$irMduw*YnM{aUL&8S?fVfK|HzoxnVcL{)!6x)Pz#c41;j7uydzt%%m~mH6s-2q5=dSEL12QuvSzJMKko(DY`X%^_-TJ7TxAeg*"
        "U<IQ+*uuaqXGJNwTf>rA@Xes>TtGeC^$S@m2=CA~3$+y7NW=oNaE86!V6)e2Z+17^qki8RIDN>s2B+iiC|FM<Op4n|l607tN-|?3Q-U%xhO--q2vZr`ptfLg"
        "!i$f?a1_B6kvx+WGR@|MBU5I_VPmmD0AsMtJW+YGz2@9ny9rgQr-Q$@G}i{-w!)qR*{5dclM!?H_;Z98E_OiE`rY+e<ddGKX@DI&yCS;|q(B5Scc*FL#%v$D"
        "yv>zk(gz{*Q_{}9DCSCP_#{@8wf<ja|1FjMM+Aa}%4@Zvl)p#mWJ0kh;xitR9U$(j08ai+iNNQ1ekAmZNdjLFDs(DJAaqCRGBD&HLu{vyKp60uHnP&o!5-O~"
        "3z4~ADUby`BY%Wo`mNasOR7Y3MTPgn>^>_w59XKC$xf++K4rNJfiJTd9hW0u<p@(!vbigg0G3R7#J-dS0-RFfilTInG6G^cvMC9r0Uz*?A!E5J{3GTwUj=uf"
        "TBD|TKJ1L>H|%zu_Fy!EW%v=xb2njeB`h9$JP1gx_ZRW~)@k0H4<z>G^IIVITUW2zw@8sh-9)Bk)=-NfTt)wiR+aM<Jy4R-Mq7hZgx(VnPwuC(nO|91q^{;+"
        "kBiB)$d~D`vQ4E6dz>KKQyP~(cgqCHRKaFU$R()3TJZhiBiOIg%SSMeccHj}iSeai?QQWa@)4+d0p!?Zl$FIJ*ePSep7aG;Dbih@z~W>Bd?#Z*hd3$cH4jiH"
        "qOy^NtH4}AA+t@f()UX#c>-=>HZVpH5~W3lDh0$;7ez~EHuEHK)6m@mZ3a)4M#7&f`^&i`x6|{=8!N+BywuP++*6%*1Oo+d?3#do*XY9T*gA06yv$8NxBKK$"
        "c7w~g=E(?<V&4BCzs|qSuR81CkU1!2CnX$E>NBzJgCD*A<BCBZXO#TZVP=~#(<O12IV!=e{8DZ=FzXYwja7^j%gXewDomKak?bbvUed5(6s=S*DGpnhk61D("
        "QDvG?67iU_%55FUh{+t)F+38?^TJFiW%(>`Y$`oPLWAlZtVaC0;u#w_6?drW>V!ByUsIx7<VZvyVpNuCCIa`B5)HvJ59pi&u&_-0DmOf!9xV{nT~#py^S$i{"
        "r3}d@s)`25rZGUU<FAyk8sh32m)C)W@&%joTu>HasBZTwK&P#LPH)t9P=lh{p#aDmBqAF_bc7>LleC};No5F$a=plPS*+^YWsYB#R#*8RAZ(L>6lPU>p@!G("
        "jWN=G+ax-K@x6vt=CQ8E4HvOUT$P+fq9V4+{E{UB%63r1lSwgEb95XJJ(Xg;(%<DosnhOI3)0c$xRO9uwJ-&7lPS^8a=oBqIb~;(D_2OX+T!^gTP2;$97cyk"
        "Wc9f!7mo_VWBxAi`@7lzx03m#n7UCO>uN*haZPibhI9|vNMspL7}`ayEPzZ+w?WHpq_Ga_LLu|zVwvB&!7SA#eCMEX2vp3&Q22tY^6FqIWu?QqE0i&dUJ%7p"
        "wcI;U<$3N)&T>-LQ8_eQONTsFl_Pc0M2#raUNp0{Dv0ylx-PtS!=_>jF1BpGbkVXWh3bN-ch4JTOQj<;r(T-tuJ=f5e8eTSD>gVrX{EsOIpTYKs6U;8*PyQJ"
        "Nb2a`_8<>55xJ@q)N`ZQCq*X^QpJjnHy6{qUdU3Z%MmCma4EE#R?)T(4$S?B=GwB}`f#ymoBNTkVgy64%?It#x)XM~ov<@lcZPny!`kb^&>w7a+Is>+M~+D;"
        "0?YaUINmon{%Fx1NTbJAQOEV5J(o+FN}5x0p_nlow7dOLe}J($><*}fFKDNMUtW0V5KWlwU0UMn_1i<$4dXE!^*cSvz|~@Bh~>c$p4)RqgTZEV?OsA|8A_Uj"
        "ql+i;S*sW-XhHJy{lPyLi?hcx|IRVupK2k9oA1NDgmKQM-4r!e6aeJP%ZZI5pJDgQIqY1o`K-{FBh{H3v`FsGbE=}XD)d#8j_9<O`qh+O)vjbxhB8|jhvrU$"
        ")K%&OoFGHLqEo*yzMJ-QZ0`bmw~W~HEK;>1A|Qe)93x>-gM_p!va*1MM`fJoI#I>LOH`#C#<FH#RxJat<q6AjYNHiKaAA)J6x^vLL5K^BN`BS15uc*MILHMZ"
        "7Z57p7c5bAgSneKDq%CdLDQ5q8D$9}n_K8+$*zpCslvvLA)?Y(<>(D*)O?w#rKN26UbRU3kPF=UyV8TvIK@oW#GEt4ZBw^6S6UEC`iJUvb?Z=Fq?s1*ylDoi"
        "YcaYt6qIkBT4QwwNpx$x)fL7^B3s&(ONo}s4;`wNUXT`{X<3Vdoa*x!=0GDY%ewf_#p1MyE2l6zZ3;)udZ&Ng8H{_KaeMe8`QKxeKLTSS@~LWAG53AIPggYj"
        "i+DaOiWaGFe4>Tlxim&l9Jf5j3p#8NY;Ja(5g&G#!~D?aLFoJ5kPpIv?{MB8_7u=ILb*R3x9C3cshP9ULEWPkwo23~a@=COQ<-Mzto3yDc6QFFLtZa9i#H&("
        "Z>s%huVd(H+=A}5Np~&DBT9EIjdY{sEBahC;L~w9<n4BM=sBZ)zaMl5Y~-;`Z|Hb~&2GEX?|I#RXEbOB3iU)3>-j8cuzHyR|G6nDULLfb<Fj#V)ERZ#!~TgA"
        "-!7(HHnwiltwGBJVWxy`Ax=oObUn>lx%69bh;i#FyggMp1royJka6uJ2z9y2(?Dx|!@5}C%Ac~Hu%5J9)@keO)|%C}dg?x&Zs5;a=dn}Y(NhljJ;pET{vH#r"
        "VvrvHhVKZ2a?pDiWE<bb{IwNJ-S^Y}iz^z3{{88UW%8Z=ZJgE5Q|5X4flq>yPrm!glkfiGuAcwxnV-IP`zNp6{@t0=JDsoXbl$leeeUAx-}~8b&fEy!_|*@-"
        "`1ajn<|LxwA&g_@y&Bc}Lx;at@cvLm`iimni;JcG)BeTc(XGYe%ohE3<9N-}s`~%NN%fv>t-_O5t<S0)MWA~A1lF|<P8eT$#Nf3W^xp5cVpacJ(f>su9FH{C"
        "j@Pg+on0|_R~3D$6%F;?_pJN>pXLeDBk^l$i%-h~%|C2#(eovY)}vo}=hr{%u4_5!AMO47n-^|8Kl;vJSB}g#-yi<)Abj}!KfG!^V9&n*KE{48"
    )
)


def test_a_catboost_model_has_no_problem() -> None:
    assert looked(CATBOOST, form="catboost") == []


@pytest.mark.parametrize(
    "data",
    [
        CATBOOST[:-1],
        CATBOOST + b"x",
        b"CBM1",
        b"CBM1" + struct.pack("<I", 1 << 31) + CATBOOST[8:],
        CATBOOST.replace(b"FlabuffersModel_v1", b"FlabuffersModel_v9"),
        CATBOOST.replace(b"static_provider_v1", b"static_provider_v9"),
    ],
)
def test_a_catboost_model_that_is_not_as_long_or_of_the_kind_it_says_is_unscannable(data: bytes) -> None:
    assert looked(data, form="catboost") == ["unscannable"]


@given(st.sampled_from([("xgboost", UBJ), ("xgboost", binary(b"gbtree", TREES + ATTRIBUTES)), ("catboost", CATBOOST)]), st.data())
def test_a_model_that_is_changed_or_cut_off_raises_nothing(given_: tuple[str, bytes], data: st.DataObject) -> None:
    form, whole = given_
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        made[data.draw(st.integers(0, min(len(made), 400) - 1))] = data.draw(st.integers(0, 255))
    looked(bytes(made[: data.draw(st.integers(0, len(made)))]), form=form)


@given(st.binary(), st.sampled_from(["x.yaml", "MLmodel", "x.html", "x.jinja", "x.txt", "x.py"]))
def test_bytes_of_any_kind_raise_nothing(data: bytes, name: str) -> None:
    plain.is_executable(data)
    if plain.is_text(Memory(data)):
        looked(data, name)

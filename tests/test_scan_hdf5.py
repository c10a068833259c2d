"""HDF5 files: what h5py writes passes, and no file refers to another, loads a plugin, or hides a pickle or a Lambda layer.

The files were written by h5py 3.16 and PyTables 3.11; the tests change them where one is to be wrong.
"""

import base64
import json
import pickle
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.hdf5 import look_hdf5
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan
from airflow_pipesec.scan.views import Memory

FILES = {
    "older": (
        "c-rk<O-vg{6rSC+={j*?Nr*5g4Nhr^kq9vuh$E-Ll#p6#N>GwUoRAIp2i1b8P?c6~f>cFnE|GiV6uDIoz7)|^RXIgI_L2m8GCf2bb4odK3iW#4tUVJik(Q"
        "rrn)gZMdEUOAH@o}I+c&ejle>|Nm)<_qe2C~!RpKBTsl+xQm*UH8dlaMu@_Udundv2>|MY;q9_knEu3sG*B1P}p0+^o-C+~0M43!H|UJOy`g>vB?Dwhf3|"
        "A5HQz)0!(1JUxJ&-RyjCRO2?w}qC&CwI16f$fD>-mjT`M4{!Bvy#8Wl)nh%uP#TStg?9N6!`}6ZIAq38@_T;D#lgj&#Ul$L>{x~?|VyV50r1ZsAR{nDf4z"
        ">KQiL=d%WE|lo#7xkLza^2gLJ2<A7uu2ec3Q>yLP|;{fAR#>LxBf*g-cd{)_S!h6hLjb?tt@5cKW!uow|#J#`wF*E+Ig5S+r<S)WHf3-S$_?rR0%k{`#gm"
        "wO|*4xA1kt2}*HXwfy*7=)hu!q0eG01-#k-vyt<iCwJ<-g!}vkCc&*hT)^Y*YRVewU9Ue-XRLe~<4kf8E3f_0|-9sw6QrAJ^yTjuss$75-x56JQ?(dnaiq"
        "+Rw%3=k#)uB$b%28T+VQd-Z9+^&915a1%fLmW#htGR^v{%JvL%`?JRhblzWuRuht{<IjsY?(~D+cSJaULVh0v{j&z%PRygipwBh(cH;di!rIp?v`>f&>^l"
        "A_JZ})6@8#J3pX_`+*>hnQU!YpDBG_R(LRg7M(UbcdkC2xLE4<ulwI|OLpZ6kv5mxxS(q<2TgQsYDv>o}2u+HE4c6<1{1%5pp$X|qY{suej;qMCgEp#G(5"
        "xdBLJNK8r?0w4=n-@97`w{bqn`~aBowpO?^*o!`=-}<dez5@hML%zshw?`E>v8?e;(&M@7zYqm;s6QQb01p(zu8{oFTy&1^S$=)H{3_d(ID~{VV%DVL3{X"
        "1&QakFA%79p`5O)$#5khH_)c~-!21#Nhz#gGeY~9*uNOgI2=aDfzsQ1m<2-Mten6!UzPn`o>zRwU6Td6*f<EWw?Zo%@4{97C9tXw&gq1iD>EGWtz>tJ-Z?"
        "X#{jDM352a-J?As!^5-zU$4g#Mm9$LjHe>;l;hG61p%WG~1*kY_;#LDCA-(9YSJMCm=3Gtf|WKC=JWc?ONPQDS9y&qtQH>ue@9h$rg_h_@17zq4qmt7L^%"
        "c(}+6{f7kK-O8oy5}8eXkw~QDM!gc~C*z59Y%We5pjW_O(ROYk75_ZY&DujFoFXfugH+{!Kee)*zL(ZTP^;W`WaB&FsK9G+-3DXt0gMrq(C;TwmGvxIU$I"
        "{kOdP%|=p91&JlMT&vYlbf#7?yTE>+#1qbf@f2m}IwKp+r%Hy)`G#v?SZmn5oS%Y?X$@qnjfTJP;Qz6a<zOnSBzv+;+Ijz3sJ|E<1VA?dFZM!x5i%J1cu#"
        "}#sRxa_(j9UMJ?Jo@GJbX+F(t2g+v3-eb50)apv-hljxY=rcGKN`Gpxs>B*#s)4SNY6|sz3i(@JwYP8-MEop@%otHFk6Qw9f3d~5C{YUfj}S-2)ppA2P1B"
        "HwTUj!<RR&)*_{_?f+r?&mH7g;V3Q)0Wx_Au)Ic004*S)6Tj1pyFKJXs<Lz?2GHsvF*iT<@Y6i9+gL;ksNZ~7XJQ2gbt!U5YFFZ1})fbFn$8%}m@-_W!*X"
        "vh59byL|RUA*L-m!^jwreY&|1taXPl;%1G98<WKZ^ddAd~cZ&E}J(J1r%X)0*}}W^MJawLn*I;E!K_|Lx1LLMDPWYlGk1E|e^~Q{g+cwfF9Ib}lWQIC1~}"
        "g$oZK)}{zK9db|olJn#Zqv7GlkEf@fKOY-=`t;VV7cX=p|HtmT5B?4u{TInZy>$"
    ),
    "newer": (
        "c-rlod2Ccg9LImV`*yo+w|7eqdO;7$;ksuJ6p6LnmI|fP;*m5|D_RMHP)b}B2ud&rYPh5!5gUXUNlKe27!ENZq~#C=Q4@{?6Qqy;S}|z@YJ+c%-#n&5vc@"
        "3A%&&jU{60IsncsUe^WNL<zP?>q7Kn;Si?G=3fOeBx{{-f{IJZ?yJUX?qY?|4z(>#(AO9B6=$;QeXyvzz?WrP__q)bW&jkI?_yqkTJtFf|&mrxIP*)APi("
        "M!{ZpgI25<3!`hK7IF6=-P9*U8SH>z!U<twdGLG_lhYFpqC74Y5>?`(JS2#yncQNWLa8QSq6461LzsT%z}Qtg&q1IvySF1ckE%P96&fZfGBnV-oXd(_=df"
        "khVTK<b+V10c2m#<E6wz(yR0fEgdT>%0Zgl`0kY1`5DS01(FFKC0Cxi5y-1VGf)Gd4$T-~S?FX{;vgJV}S39O$p=-iQ+C|be(He$h;3(!pmsu+tX%(Z#%`"
        "9k4!9K8+wPx-sfm*#4%)_`rrIA$)1occXr==Fgb3iWFU7L_wS~ocW)~>Z#W@y!04}<QD8!a%&LaLUfTWv7bOsa30&cs0%t-e37Clf9KsYV_dp95zpeKiow"
        "g$x?zYu}Lz3AD3@&Q>4HBDZDG`dSKMHEpnHReli+&>nv3?+ic#rCn=&3BY>V_G(OXHSDL=QDgM#LE2f;sh(>1gwlum*40BN9r(<J^YyTh_HaFK{A?Ia+g?"
        "6!<7Ie*R<|XlHp4aAwqwqS1yDzO`0}$E3t%a&Ru6o&9LCUUMKEd=%%N=;KD+BZc#2lD7986IVRVS@cgB4Pr)j_QSDM;j2dyq?8)$>&wC#-Jl^=nZw!KvTZ"
        "YOM_H2Q}Xdtf$g+dHP=pgs~A&Gzf>#~_I|__J;P37AeB99h2eTR2G@e19e5EKH;{A^5~Om`Lf*izoNNqcrSAOY*6Iw`b`5+l0#!Goj1QidbK4d<(klOybt"
        "z^K3<zom|m1n_1j<d>+N4Ae-!PblKrYhzBaR+R$Z72d}7nsYRj77C^MfnY!ZY#m@1RDvuwO4UJ2-N<pQdQcx+V6jTZ-1(kwIL8YKlP$~R#@oiEy*o5lCzH"
        "Ybj@078PX{?f5uy5^R^}X+ZXiUn8Lzk&P@#r#jD*;_5+$5sQ6()3<!ZS>$B2;WiMwdxqDd;jOCKX+#8Kt4i)TH6)GL<MDT_z7@pvxq!OtGq&{Ddx3+OpAQ"
        "n$`$(nLsrXU8cpM)W;>MTy&YhmxnG>;PTOBa@r_#nQHfZ!{|jy%1{?#mBM|KLd9cKCsQpq7Jp3OmkM6Cybx^3b~%N>D{;3|D7_N*IECaZaj#QozY_O3g$O"
        "Khzf<@UFLVl7SmH%ap$|*E*eQf!iI+HqVr-X=%jI<3mg@)1?L@S?n<`VLOqnue%9JTnrc9Z#`^N&6lS;)K^Thfe;$;ad2g?$@XEuMMPTPMqJLFYWB0=2tR"
        "n;IDYw%^<!LO*IIYJywyCsr!U7(l!;x)K=ho_!nub1M;CXh>`C-Qn}f%xQOF8iRyjb&cW-UO=2+u<^4=>sa@>?==Bgf}@LicN2FO%8oqkN_e@eNc7N51(>"
        "CG^qAj3nxG(`AAQfh&|EWEfrA90a1CpuUYG$iieQCH)d^^4rzQ8l3>r#>r0rT?_=q0-M{P$_?)*O)3AH>@xySDw;<>0Q0myLP|aJAU9@Y>_M1oAE03$S8>"
        "-Ry50}onG)>aHOLH#Ggfx@Vlt?Q{noeoaNvlU%IkhR7ZZ%JL?+#Q}D*h9TnzO(3H;X>QiDY7*b3v-fL@$4_;(9{=0ff$HOO|m3GGg2z#h9fSPe?HqDaIR8"
        "j3&kSLW;3UG5(NZY*I{NNHJkjOi@TNb}6Pfq?m9irX-}82pXf|oZfjM*l!7nl!M$M1v%6<ytn&bJb~&nv-;%v-6joxS+_KKJdg07=uKL(LA?hAO);piECF"
        "e%LH&mWO*3d=RU*>i1}*wp&~$?q*CZj$Flfnlf@TWpbv-!@X_i6Vrv=S6sHZ*|=?H^*e-w12L4A$sNOKJ8?-4ZDpoK4GAk8yq(G@}S4O%=m6X_^}mR!rc2"
        "lKC6M?>Q?Ch;I@ZgTbFQ>JDT(A|uWpqls}rzTIIfEEG0K{G;4K;It%S_SlPu^<%7v8k|8Ll`DtQH~X%UBKcC0)`7%(i({{LY!N-E6ss4(xC3mf;tT9$&Nx"
        "AWl--{L8A@o%a2AHV^IHgL1PVCI4%ZhoI#5^1&udou?K%1))EX_vP;lJV^6q><B%p9)V(k64)gyPUe@b3"
    ),
    "config": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfPH>{~Ve$!3nh{EOK<O1sFmYzEoCH){0BXJhGlXx!0--~KTwOt`|DyqzJsBJjnuB2!j6~q!>KFi`BjD)>0!}cYsw+"
        "oJj~*1-D+sj-JzeuKNU%Wc;RU8i4u;(Pl+>K~<ovv}%yf{rFwg<7m=W%%u2mQXqhJ&adjKncSRr|z5ypqqfQ*a~0ciDyL`#5`3M$w`>o^An6K)2R|4;?2K"
        "v9r96B837q#lHr$IQ3^S~E+am0TTzs{9W2^LJqc`T$mcN3f69Y19M&wYRiy"
    ),
    "external link": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfDwt9EF!=;1%?PDCp!5nRm^ceqP68?}05x9$YF-3XJS51~71?}rdq%;?1|F`C0m$iv14^G@LRAM#hXGWwmkFM7v8P"
        "Nfpi3B$)Uz=tK-|IMz*r%~z@T4}TcDp`l95`Zmto4Fp9oV20D^KpZU"
    ),
    "external link in a heap": (
        "c-rgqaB<`1lHy|K;9!7(|4=ZU7s5Ayihp%D;pOk)62!!_g-Ho4!psGgN@s)6KcTcdJA~$9VqgR_>KFzb%=56l2X;O~1(Oi6KVbms*a+G=;pom2Yet<g>I9"
        "e*+=7E$8C;=xg^`z$;WLP#$MxzQT-hLSC1oazdSKK8Yuti70vJH)oQXkz0i&Yfh13!7oB&jXN<#q`kv6g*>4X@q0HmjL!^C#YHoo8#;^D%;3Q`9WPSKbSt"
        "Fhp=Y;X&_30B1hQpFEZ#fh%Uf45DWTQE=+1I!nU45&21RRIhYK$pN|>X;$oQVghcO^Y6*Q;3fn18e;H=_U-BKp|0vqZ8h_F-!(C-|!dtG3*61MQ=RyV^{%"
        "ZuFF*{W(WZ@_ic_V23NSE41Rx4H#2B~neVmY4+AL>Q@A4V9)mrYxx97FFNRA%rXqu3$trz@Q7|X~IR4q-Tu8LR6BHyu;Yl14lguzKBoVN{xRCV23gbf31>"
        "9&zl7i(sXj+0d1tF=76UK$46K4Ul1*0)UTj1v5;skG0gNqrt{ZfqZIAuyVcn>ROSQz1ghDER<hy`APrW<{Q3o^q6jVqX7f-G=BlizSbR=A+)LS~pC8(h#V"
        "i3KJIFS66km04ke9B@I4Con-C2Ut2{tN_+T`X#vq`uQapsYQAjrVRRtqj8Q506n`XMg"
    ),
    "external values": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfHn5`dVe$!3nh{EOK<O1sFmXn(oCH){5NbZUx{x4OSCH!eXaHtU1`CAdU>F4>5qP*d27u@YC?A$ePcWgXt3XSS9u("
        "Tk$iN0MixI|$q+~`$hyWK<9gJoMx{ML(K1QSz%L=4Hd?qF)urND=2AIzX%_9al(l^Xp4ye7%jIf-+g{CrruJIs&7R~`IsOt1nOOo{q5{rw=Q^5RSKYtgHK"
        "Vkk;U>;4=<NyHUZ916"
    ),
    "virtual": (
        "c-rgqaB<`1lHy|K;9!7(|4?vV5W+WriXS=u)X3k%C5VZkf=LKjAq;RaF)%VPu<<YeDaNwRF!MYZs0P|f)b4<tpvWb}o{fwd7#T$v7?>Ct8M&ZpVKlP{1EZ"
        "jVJOc}ur@$c2!604_WU&HW%goKe$H2hCe4Y`a7EEnn7?Qy3_M8NFXMZ2C9|Vy60|fRkMKA&VlH3CQ3cU<dh7<;7BykX60tFgKjENDdhY=W<$9{#D!IdoFX"
        "BY*eU=)mkQ7{Td!6+C7qhJ(_f>AIEM!^690EZqkas"
    ),
    "attribute": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvf9<ZbGVe$!3nh{EOK<O1sFmXn(oCH){5NbZUx{x4OSCH!eXaHu<16Byl!7vI&BJgl^3;@v)P(Cb`o?t>%myVVmJt("
        "x7k%1W{{R%*B)_~@R9Sq3nmjP$`9R;K57didH%CQbs^z;S+0aUU#*w5buR06~7Q(#8RA5eY<>u4O|1F(7vJ-m1rW<bM}2^hv43>8rI!oUEoK#tD=0ss~4X"
        ">b"
    ),
    "array": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvf8dy>JF!=;1%?PDCp!5nRm^dR?P68?}2sIyFT}Y6tD@gT!Gyt>5fCWNxFpPqc2s~UJ13+{Hln+a#Czw#xm7%3a4+`"
        "yNWMGGw#R%hbpqS4LbP0$pzyV8}4q%cM$ODNpF)=Yh(k&zhFf&%LVoS+93>r{#*?=+}49-4|!NEYjFi<x;l6_%5jzK|=kwEnZQ1#qk^#Q@Ip)UT8A^yG)b"
        "s&9gNc!@VvQm>vKr9Q2!Xwzv--Qt#3JeSi%%f?OymSQt0Avp~W&"
    ),
    "page": (
        "c-rgqaB<`1lHy|G;9!6O0~kXALY;te?_V`*XJi0D28Ir(m^ecNg9wmj1Ok{g0R}V!LfIhne<*msipr-Hfb565O9E=MAk-BfU~XcD&>=ytt{~M|i~xffED#"
        "zI8lzw&0S{Nl01zF4mX-~eQPovIX;`B7pwM1M23Ck!j4(b2iuueymw?y;9I&+M047<1JdijO6B8pO-9mBzGb7CD=qY)@kcfw1KYtfScqjnN8|KlpNe*xe_"
        "Hbcf{K1c!S{cz)F*5`JQ?xy-RIE3G7TC%RsC3@auib9J!LAIj5*%(a2Q;-Y@>z5+K`b@nB+b(0I4m_!NoogM3aduoCZB={nD6Y|JsQ`eU=)mkQ7{Td!6+C"
        "7#PvHy!6+C7qhJ(_f>AIEM!_f;1*2dTjDk@x+yMZXUz0@"
    ),
    "filter": (
        "c-rk)%}&BV5Z)iCn}ViA55!XwFCGj5<={;#6d^%M+G^m0k)tLaym;}hcaJ`RkK)ls@DY52+TERnwh>I!lkNwbVWwZ1$;Zqt@X&2{R?STlaWIAo$U<qvfTv"
        "2<SJ%(MVzBpMpNWba;#w8r7QDYhrT+%;DDXVaj&o3XtfI6GY5YfYJ$K0MXx2v(FC@#G=K8Vw!@M?R%J+2{IkW!eQxo-~e$v2b-IBS9cyiu$ipNl^?}j1pi"
        "m5t}1OIfG;WP0#^MbJF4+Nj4_>Ec}>evT<Rq%)7$UW+N;iTgSCvG%ZbpLLx0r!<<3@hCrKal|w_{#3ltgq&IWJv!ur(ZFtN$5dkh7zia7g*)HV?vvYtLvM"
        "o)J-ft=kM`cBL+JNCG^#pmtv|dp#nPt=Q`HP<wD()Wu$ayxk2EL=k<mIzm0|ZfP$XA?|>$s7uVQ!4nWI8)GVQ9Ox64>=yR0s^TzUdL)m%b=Lr7f9C^gc>t"
        "%M<&-b}LcQiCKG&D3cH2xL{#*F{o;ER7(+(=?O$=VWsQp8_ijS|iOb^Zr_N^jf"
    ),
}


def file(name):
    return zlib.decompress(base64.b85decode(FILES[name]))


def looked(data, allow=None, limits=None):
    scan = Scan(AllowList.load() if allow is None else allow, limits)
    Part(Memory(data), scan).look(look_hdf5)
    return scan


def changed(name, old, new):
    """Return a file with some bytes replaced by others, of the same number."""
    data = file(name)
    assert data.count(old) == 1
    return data.replace(old, new.ljust(len(old), b"\0"))


def with_config(config):
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return changed("config", b"{}" + b" " * 1000, text.ljust(1002))


@pytest.mark.parametrize("name", ["older", "newer", "page", "config"])
def test_a_file_that_h5py_writes_has_no_problems(name):
    scan = looked(file(name))
    assert scan.problems == []
    assert scan.formats["hdf5"] == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("external link", "has a link /x to another file"),
        ("external link in a heap", "has a link /x to another file"),
        ("external values", "has a dataset /x whose values are read from other files"),
        ("virtual", "has a virtual dataset /v"),
        ("filter", "with the filter 32001, a plugin to be loaded"),
    ],
)
def test_what_reaches_beyond_the_file_is_unsafe(name, why):
    scan = looked(file(name))
    assert [problem.fault for problem in scan.problems] == [Fault.UNSAFE]
    assert why in scan.problems[0].why


def test_a_link_that_a_plugin_defines_is_unsafe():
    # A link message: version 1, with a type, which is external, and a name of one byte.
    data = changed("external link", b"\x01\x08\x40\x01x", b"\x01\x08\x41\x01x")
    assert [problem.why for problem in looked(data).problems] == ["has a link /x of the type 65, which a plugin defines"]


class Runs:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_in_an_attribute_is_looked_at(protocol):
    scan = looked(changed("attribute", b"P" * 120, pickle.dumps(Runs(), protocol)))
    assert Fault.UNSAFE in scan.totals
    assert "print" in scan.problems[0].why
    assert scan.problems[0].part == "g@x"


def test_a_pickle_that_is_followed_by_more_is_looked_at_for_it_runs_before_that_is_found():
    scan = looked(changed("attribute", b"P" * 120, pickle.dumps(Runs(), 0) + b"more."))
    assert Fault.UNSAFE in scan.totals


def test_a_harmless_pickle_and_a_text_that_ends_with_a_full_stop_are_fine():
    for text in (pickle.dumps({"a": [1, "b"]}, 0), b"A sentence.", b"(a sentence in brackets.", b"0."):
        assert looked(changed("attribute", b"P" * 120, text)).problems == [], text


def test_an_array_of_pickled_objects_is_unscannable():
    scan = looked(file("array"))
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert "pickled objects" in scan.problems[0].why


def dense(**more):
    return {"class_name": "Dense", "config": {"name": "d", "units": 1, **more}}


def test_the_configuration_of_a_keras_model_is_judged():
    scan = looked(with_config({"class_name": "Sequential", "config": {"name": "s", "layers": [dense(activation="relu")]}}))
    assert scan.problems == []
    assert scan.formats == {"hdf5": 1, "keras": 1}


def test_a_lambda_layer_in_an_h5_file_is_unsafe():
    """CVE-2025-9905: Keras' safe mode does not apply to such files."""
    layer = {"class_name": "Lambda", "config": {"name": "l", "function": ["4wEAAAA=", None, None], "function_type": "lambda"}}
    scan = looked(with_config({"class_name": "Sequential", "config": {"name": "s", "layers": [dense(), layer]}}))
    assert [problem.why for problem in scan.problems] == ["holds a Lambda layer, which runs code from the file"]
    assert scan.refused == {":Lambda"}


def test_a_configuration_that_is_no_json_is_unscannable():
    assert looked(with_config(b"{'class_name': 'Dense'}")).totals == {Fault.UNSCANNABLE: 1}


def place(data, what):
    found = data.find(what)
    assert found >= 0
    return found


def put(data, where, value):
    return data[:where] + value + data[where + len(value) :]


BROKEN = {
    "unknown version 9": lambda data: put(data, 8, b"\x09"),
    "other than eight bytes": lambda data: put(data, 13, b"\x04"),
    "do not start with it": lambda data: put(data, 24, b"\x08"),
    "is cut off": lambda data: data[:-1],
    "bytes behind its end": lambda data: data + b"x",
    "spread over several": lambda data: put(data, 48, bytes(8)),
    "two readers find in different places": lambda data: put(data, 80, b"\x01"),
    "no names of a group": lambda data: put(data, place(data, b"HEAP"), b"PEAH"),
    "no node of a group's tree": lambda data: put(data, place(data, b"TREE"), b"EERT"),
    "no table of a group's members": lambda data: put(data, place(data, b"SNOD"), b"DONS"),
    "not reached from its root": lambda data: put(data, place(data, b"TREE") + 8, bytes(8)),
    "no text of an attribute": lambda data: put(data, place(data, b"GCOL"), b"LOCG"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_is_wrong_with_the_structure_is_unscannable(why):
    scan = looked(BROKEN[why](file("older")))
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert why in scan.problems[0].why


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        (b"FRHP", "fractal heap of an unknown version"),
        (b"BTHD", "B-tree of an unknown version"),
        (b"BTLF", "no node of a B-tree"),
        (b"FHDB", "lies in no block"),
        (b"FHIB", "no block of a fractal heap"),
    ],
)
def test_what_is_wrong_with_dense_storage_is_unscannable(signature, why):
    data = file("newer")
    scan = looked(put(data, place(data, signature), b"????"))
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert why in scan.problems[0].why


def test_an_index_that_leaves_objects_out_is_unscannable():
    data = file("newer")
    where = place(data, b"BTHD")
    fewer = put(put(data, where + 24, b"\x01\0"), where + 26, b"\x01" + bytes(7))
    assert "does not name all objects" in looked(fewer).problems[0].why


def test_a_group_that_holds_itself_is_visited_once():
    # The file "older" has a link from /g1 back to the root; what makes a walk of it end is not a limit of depth.
    assert looked(file("older"), limits=Limits(depth=1)).problems == []


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(["older", "newer", "external link in a heap", "attribute"]), st.data())
def test_any_change_is_told_or_harmless(name, data):
    raw = bytearray(file(name))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    scan = looked(bytes(raw), AllowList())
    assert "cannot be parsed" not in " ".join(problem.why for problem in scan.problems)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["older", "newer"]), st.data())
def test_a_file_that_is_cut_off_is_unscannable(name, data):
    raw = file(name)
    assert looked(raw[: data.draw(st.integers(0, len(raw) - 1))]).totals == {Fault.UNSCANNABLE: 1}

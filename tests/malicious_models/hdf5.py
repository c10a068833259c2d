"""Two HDF5 files that h5py 3.16 wrote, compressed by zlib, in base85."""

# An attribute model_config of 1,500 bytes "~", keras_version 2.15.0, and one dataset.
WITH_CONFIGURATION = (
    "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvf6a-NDF!=;1%?PDCp!5nRm^dp~P68?}05xBM8N#2z2BAZOTwOt`|DyqzJrz6<nuB2!j6~q!>KFi`BcOa("
    "dOE>`sxCJ_B{e6$JT)^tqof!qT{@6yuOKwNqNi&f1`akz`sM|uNe-yJ$@zI{ndu;LVW7o#SP}Nuje=1y3P!;w7<K?s9~eN}JAB~!AUm}vu{gdg"
    "wWv5VKMz_Tup!k)MtX*(dIre)IKVI|F*!RmF9ocg3rT%RYF=@EQCd!ZIjmj9h|;ct)l&~R8DJF@QSGV=e538E(RLN0T?K3XEAXJID@SYRdr)X^"
    "u%EvRBRJJVzz$AS^U>4sD8LS2{VQ0&F+xiOMn;GLta%KhnSt^k89@bkU|$a$(+uJq4C3`rc~)SIfaIB&m>41D0>nIKMhOAzB}K=e3J>&jb%1v?"
    "jZgvrm2^X="
)
# A link to /etc/passwd as HDF5, and a dataset whose bytes are those of /etc/passwd.
EXTERNAL = (
    "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfKCqzjVe$!3nh{EOK<O1sFmZOUoCH){0BXJhGlU-i6%Pq=bwxHG-JVe}vVn)IBRHu<K=~X{`UDfII#@ak"
    "ppv~z@RW-^WpV*s!ic0EmcDmD^NR%oy8GB5>KS2ti200+j41ws(ab>e7{TVkv_NE7q4qK{F@c5I88pCr2xeqxU_mv90nJ<vsJ+aLF#n*dOrUGL"
    "N}$Ex0v1$t`l%(!`UQ!_#pNkrJ{v6DI2;%&1W@JmD?suBQ1cio3z!k+00530P+$"
)

"""``python -m benchmarks``: all of them; arguments go to the one for hashing."""

from benchmarks import encryption, evidence, hashing, imports, scanners, ui, weaving

imports.main()
hashing.main()
encryption.main()
evidence.main()
scanners.main()
weaving.main()
ui.main()

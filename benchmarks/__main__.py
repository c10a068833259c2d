"""``python -m benchmarks``: all of them; arguments go to the one for hashing."""

from benchmarks import encryption, evidence, hashing, imports, ui, weaving

imports.main()
hashing.main()
encryption.main()
evidence.main()
weaving.main()
ui.main()

"""``python -m benchmarks``: all of them; arguments go to the one for hashing."""

from benchmarks import encryption, hashing, imports

imports.main()
hashing.main()
encryption.main()

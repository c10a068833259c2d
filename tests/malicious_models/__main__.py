"""``python -m tests.malicious_models prove``: load every sample for which the libraries are here, and count."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.malicious_models import malicious
from tests.malicious_models.proof import can_be_proven, missing, prove_all
from tests.malicious_models.sample import LOADERS


def main() -> None:
    if sys.argv[1:2] != ["prove"]:
        raise SystemExit(__doc__)
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        samples = [sample for sample in malicious(marker) if wanted in sample.name]
        absent = prove_all(samples, Path(folder), marker)
    tried = [sample for sample in samples if can_be_proven(sample)]
    lacking = Counter(missing(sample) for sample in samples if sample.loader in LOADERS and missing(sample))
    print(f"{len(samples)} samples; loaded {len(tried)}, of which {len(tried) - len(absent)} made their marker")
    print(f"without a loader here: {sum(sample.loader not in LOADERS for sample in samples)}", dict(lacking))
    print(f"not to be proven: {sum(bool(sample.unproven) for sample in samples)}")
    for name in absent:
        print(f"no marker: {name}")


main()

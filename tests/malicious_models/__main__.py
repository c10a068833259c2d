"""``python -m tests.malicious_models prove`` loads every sample for which the libraries are here, and counts.

``watch`` has every sample scanned, and prints what that did besides reading.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.malicious_models import malicious
from tests.malicious_models.proof import can_be_proven, missing, prove_all
from tests.malicious_models.sample import LOADERS
from tests.malicious_models.watched import watch


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.malicious_models", description=__doc__)
    options.add_argument("what", choices=("prove", "watch"))
    options.add_argument("--named", default="", help="only samples whose name has this in it")
    options.add_argument("--every", type=int, default=1, help="only each so-manieth of those that can be proven here")
    options.add_argument("--without", default="", help="only samples whose proof takes none of these modules")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        if chosen.what == "watch":
            print("\n".join(done := watch(marker)) or "nothing")
            return 1 if done or marker.exists() else 0
        samples = [sample for sample in malicious(marker) if chosen.named in sample.name]
        provable = [sample for sample in samples if can_be_proven(sample)]
        without = set(chosen.without.split())
        tried = [sample for sample in provable if not without & {*sample.needs.split(), sample.loader}][:: chosen.every]
        absent = prove_all(tried, Path(folder), marker)
    print(f"{len(tried) - len(absent)} of {len(tried)} made their marker; {len(samples)} samples, {len(provable)} provable here")
    lacking = Counter(missing(sample) for sample in samples if sample.loader in LOADERS and missing(sample))
    print(f"without a loader here: {sum(sample.loader not in LOADERS for sample in samples)}", *map(str, lacking.items()))
    print(f"not to be proven: {sum(bool(sample.unproven) for sample in samples)}")
    for name in absent:
        print(f"no marker: {name}")
    return 1 if absent else 0


sys.exit(main())

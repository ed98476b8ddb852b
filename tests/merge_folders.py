"""One merge from adapter folders to a folder; as a script, for a process remembers what it once needed.

    python -m tests.merge_folders FOLDER OUT OPTIONS

FOLDER holds the adapters, OPTIONS is JSON: those of `knots.merge`, and perhaps `max_rank`. Prints JSON: the
most memory that the process held in bytes, what it held before, and the relative error.
"""

import json
import sys
from pathlib import Path

import knots
from benchmarks._measuring import peak_memory


def main(folder: str, out: str, text: str) -> None:
    options = json.loads(text)
    max_rank = options.pop("max_rank", None)
    before = peak_memory()
    adapters = [knots.load_adapter(path) for path in sorted(Path(folder).iterdir())]
    error = knots.save_adapter(knots.merge(adapters, **options), out, max_rank=max_rank)
    sys.stdout.write(json.dumps({"before": before, "peak": peak_memory(), "error": error}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

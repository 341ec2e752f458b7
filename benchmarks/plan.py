"""Time `inspect plan` of an 8 B model against one cold `inspect` of it, without and with the search in each row.

Run it with the Python that the inspector is installed in; the figure is the ratio to the median of three cold runs:

    python benchmarks/plan.py [GPU]

All run without network (HF_HUB_OFFLINE=1): a download depends on the Hub, not on this program.
"""

from __future__ import annotations

import statistics
import sys

from startup import seconds

MODEL = "meta-llama/Meta-Llama-3.1-8B"


def main() -> None:
    """Print the times and the ratios."""
    gpu = sys.argv[1] if len(sys.argv) > 1 else "h200"
    inspect = [sys.executable, "-m", "inspector"]
    plan = [*inspect, "plan", MODEL, "--gpu", gpu]
    cold = statistics.median(seconds([*inspect, MODEL]) for _ in range(3))
    print(f"inspect            {cold:6.1f} s", flush=True)
    for name, options in (("plan --fit none", ["--fit", "none"]), ("plan", [])):
        time = seconds([*plan, *options])
        print(f"{name:18} {time:6.1f} s   {time / cold:.1f} times", flush=True)


if __name__ == "__main__":
    main()

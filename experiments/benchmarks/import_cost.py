"""What `import tweedie_diffusion` costs beyond `import jax`: python -m experiments.benchmarks.import_cost."""

import statistics
import subprocess
import sys

CODE = """
import time, jax
start = time.perf_counter()
import tweedie_diffusion
print(time.perf_counter() - start)
"""


def main():
    seconds = [
        float(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
        for _ in range(9)
    ]
    print("| import tweedie_diffusion, after jax | seconds |\n|---|---|")
    for name, value in [("fastest", min(seconds)), ("median", statistics.median(seconds)), ("slowest", max(seconds))]:
        print(f"| {name} of {len(seconds)} | {value:.3f} |")


if __name__ == "__main__":
    main()

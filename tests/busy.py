"""Run all tests beside processes that do nothing but compute, several times: `make test-busy`, or with --help."""

import argparse
import os
import shutil
import subprocess
import sys
import time

BURN = "while True: pass"


def main() -> int:
    """Return 0 if every run passed; print the wall time of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--burners", type=int, default=4)
    parser.add_argument("--cores", help="Cores to share, as taskset -c takes them; all by default.")
    parser.add_argument("command", nargs="*", default=["make", "test"], help="Default: make test.")
    options = parser.parse_args()
    if options.cores and shutil.which("taskset") is None:
        parser.error("--cores needs taskset")
    pinned = ["taskset", "-c", options.cores] if options.cores else []
    burners = [
        subprocess.Popen([*pinned, sys.executable, "-c", BURN]) for _ in range(options.burners)
    ]
    failed = 0
    try:
        for number in range(options.times):
            started = time.monotonic()
            code = subprocess.run([*pinned, *options.command], env=os.environ).returncode
            failed += code != 0
            seconds = time.monotonic() - started
            print(f"run {number + 1}: {seconds:.0f} s, exit code {code}", flush=True)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    print(f"{options.times - failed} of {options.times} passed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

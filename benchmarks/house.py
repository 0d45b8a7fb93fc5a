"""Figures of the package itself: how many lines, files and names, and how far it is from a command to the inner loop.

    python benchmarks/house.py [ROOT]

ROOT is the folder that holds `raypixel/`, by default this repository: another commit is measured in a worktree of its own. The
walk of `raypixel train` is counted with sys.setprofile in a small training on digits without Ray (data are prepared in a
temporary folder first): distinct files of raypixel that are entered by a call, until the first optimizer step begins.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

WALK = """
import sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
from raypixel.cli import main
package, entered, importing, done = sys.argv.pop(1), [], [], []
def note(frame, event, argument):
    code = frame.f_code
    if code.co_name == '<module>' and event in ('call', 'return'):  # what an import does is no step of the way
        importing.append(code) if event == 'call' else importing.pop()
    elif event == 'call' and not importing and not done and code.co_filename.startswith(package):
        entered.append(code.co_filename.removeprefix(package))
register_optimizer_step_pre_hook(lambda *_: done.append(True))
sys.setprofile(note)  # of this thread
try:
    main(sys.argv[1:], standalone_mode=False)
finally:
    sys.setprofile(None)
    print('ENTERED', *dict.fromkeys(entered))
"""

TRAIN = [
    "train",
    "digits_pixelcnn",
    "--set",
    "scaling.num_workers=0",
    "--set",
    "training.max_steps=2",
]


def texts_of(package: Path) -> dict[str, str]:
    return {str(p.relative_to(package)): p.read_text() for p in sorted(package.rglob("*.py"))}


def repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def in_files(counts: dict[str, int]) -> str:
    return f"{sum(counts.values())} in {sum(map(bool, counts.values()))} files"


def figures_of(texts: dict[str, str]) -> dict[str, str]:
    places = re.compile(r"isinstance\([^()]*(?:\([^()]*\)[^()]*)*,\s*\(?[^()]*\b(?:Path|Remote)\b")
    asked = {file: len(places.findall(text)) for file, text in texts.items()}
    apart = {f: n for f, n in asked.items() if not f.startswith(("storage/", "runs/", "cli/"))}
    classes = repeated(
        [name for t in texts.values() for name in re.findall(r"(?m)^class (\w+)", t)]
    )
    files = repeated([Path(f).name for f in texts if not f.endswith("__init__.py")])
    private = re.compile(r"\bray(?:\.\w+)*\._[a-z]|from ray\b.* import .*\b_[a-z]")
    uses = {
        file: len(private.findall(text)) for file, text in texts.items() if private.search(text)
    }
    return {
        "lines, files": f"{sum(len(t.splitlines()) for t in texts.values())}, {len(texts)}",
        "isinstance of Path or Remote": in_files(asked),
        "the same outside storage/, runs/ and cli/": in_files(apart),
        "class names used twice": f"{len(classes)} {' '.join(classes)}",
        "file names used twice": f"{len(files)} {' '.join(files)}",
        "cast(PixelModel": str(sum(t.count("cast(PixelModel") for t in texts.values())),
        "private uses of Ray": f"{sum(uses.values())} in {len(uses)} files: {' '.join(uses)}",
    }


def walk_of(root: Path) -> list[str]:
    """Return the files that `raypixel train` enters, in order."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        python = [sys.executable, "-W", "ignore"]
        prepare = ["-m", "raypixel", "data", "prepare", "digits", "--root", f"{folder}/data"]
        subprocess.run(
            [*python, *prepare], cwd=folder, env=environment, check=True, capture_output=True
        )
        command = [*python, "-c", WALK, f"{root / 'raypixel'}{os.sep}", *TRAIN]
        command += ["--set", f"data.root={folder}/data", "--runs", f"{folder}/runs"]
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if "ENTERED" not in run.stdout or run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout.partition("ENTERED")[2].split()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parents[1])
    root = parser.parse_args().root.resolve()
    for name, figure in figures_of(texts_of(root / "raypixel")).items():
        print(f"{name}: {figure}")
    walk = walk_of(root)
    print(f"files that `raypixel train` enters: {len(walk)}\n  {' '.join(walk)}")

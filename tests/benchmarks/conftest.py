import sys
from pathlib import Path

# The benchmarks are scripts that import each other; they are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

"""The page of all variables is made from the roles' specs, and is never behind them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_says_what_the_specs_say() -> None:
    checked = subprocess.run([sys.executable, ROOT / "tools/reference", "--check"], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr

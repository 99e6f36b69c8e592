"""The API reference, from the docstrings: `python -m pip install '.[docs]' && python .ci/reference.py [FOLDER]`.

It is written to build/reference (which git ignores): open build/reference/index.html.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc
import pdoc.render

ROOT = Path(__file__).parent.parent
MODULES = (
    "qfpay_preauth",
    "qfpay_preauth.errors",
    "qfpay_preauth.instrumentation",
    "qfpay_preauth.ledger",
    "qfpay_preauth.notifications",
    "qfpay_preauth.testing",
)


def main(folder: Path) -> None:
    """Write the pages; the template shows what a public class has from a private base as its own."""
    sys.path.insert(0, str(ROOT))  # this tree's modules, not an installed copy of them
    pdoc.render.configure(docformat="google", show_source=False, template_directory=Path(__file__).parent / "pdoc")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference")

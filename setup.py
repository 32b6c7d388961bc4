"""The one thing that pyproject.toml cannot say: a README whose links work on a package index."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/graphtheta/graphtheta"
IMAGES = "https://raw.githubusercontent.com/graphtheta/graphtheta/main"

text = Path("README.md").read_text(encoding="utf-8")
text = re.sub(r"(!\[[^\]]*\])\((?!\w+://)([^)]+)\)", rf"\1({IMAGES}/\2)", text)
text = re.sub(r"(?<!!)(\[[^\]]*\])\((?!\w+://|#)([^)]+)\)", rf"\1({REPOSITORY}/blob/main/\2)", text)

setup(long_description=text, long_description_content_type="text/markdown")

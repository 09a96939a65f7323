"""Print pip constraints: every dependency at the lowest version that pyproject.toml admits."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
wanted = [*extras["train"], *extras["mat"], *extras["geo"], *extras["video"]]
for requirement in [*project["dependencies"], *wanted]:
    name, version = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
    print(f"{name}=={version}")

"""README and pages: their Python blocks run, and their links and named files exist."""

import re
import shlex
import types
from pathlib import Path

import pytest
import torch

import pna
from pna import cli
from pna.__main__ import main
from pna.lab import cli as lab_cli

ROOT = Path(__file__).parents[1]
FILES = {
    str(file.relative_to(ROOT).with_suffix("")): file
    for file in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
}
PAGES = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}
BLOCKS = {  # a block that needs data is marked `python no-run`
    f"{name}-{number}": block
    for name, text in PAGES.items()
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M), 1)
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder from which the paths of the pages lead into the checkout, and outputs stay here."""
    (tmp_path / "src").symlink_to(ROOT / "src", target_is_directory=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.usefixtures("checkout")
def test_python_runs(block):
    torch.manual_seed(0)
    exec(compile(block, "block", "exec"), {"__name__": "__main__"})


def commands(text):
    for block in re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("pna ") and "..." not in line:
                yield " ".join(line.split())


COMMANDS = sorted({line for text in PAGES.values() for line in commands(text)})


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    lab = {
        name: cli.Command(f"pna.lab.cli.{name}", text) for name, text in lab_cli.COMMANDS.items()
    }
    words = shlex.split(line, comments=True)[1:]
    cli._parse(words, cli.library_commands() | lab)


@pytest.mark.usefixtures("checkout")
def test_commands_of_the_readme_run():
    for line in commands(PAGES["README"]):
        assert main(shlex.split(line, comments=True)[1:]) == 0
    assert list(Path("out").glob("astronaut*.png"))


def test_every_library_is_shown():
    for library in ("torchvision", "segmentation_models_pytorch", "transformers", "timm"):
        assert re.search(rf"^(import|from) {library}", PAGES["docs/network"], re.M)


def test_the_api_lists_every_public_name():
    listed = set(re.findall(r"^   (pna\.\S+)$", PAGES["docs/api"], re.M))
    modules = {name for name in pna.__all__ if isinstance(getattr(pna, name), types.ModuleType)}
    assert {f"pna.{name}" for name in pna.__all__ if name not in modules} <= listed


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name):
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = FILES[name].parent / file if file else FILES[name]
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def anchors(text):
    """Names that a link into a page may have: those of its headings and its own labels."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\((.*)\)=$", text, re.M))


@pytest.mark.parametrize("name", PAGES)
def test_named_files_exist(name):
    for file in re.findall(r"`((?:benchmarks|docs|tests)/[\w./-]+\.\w+)`", PAGES[name]):
        assert (ROOT / file).exists(), file

"""The documents that tests read: README and what it links, their tables, and the commands in them."""

import re
import shlex
from pathlib import Path

from example_scripts import load_script

from neumeta_hf import load_recipe
from neumeta_hf.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
MEASURED = DOCS["measured"]

BENCHMARKS = ("whole_network", "text_families", "speed", "startup", "step_times")
SCRIPTS = (
    *("train.py", "stock_resnet18.py", "transfer.py", "ship_example.py", "plain_loop.py"),
    "by_feature/several_processes.py",
    *(f"benchmarks/{name}.py" for name in BENCHMARKS),
)


def blocks(text: str, language: str = "python") -> list[str]:
    """The blocks of code of a document, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def snippet(text: str, part: str, language: str = "python") -> str:
    """The block of code of a document that holds this."""
    (found,) = (block for block in blocks(text, language) if part in block)
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def commands_in(text):
    """Program and arguments of each command in a text, in blocks of code and between backticks."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return commands([*lines, *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))])


def commands(lines):
    """Those of lines that call the command or an example with something to do; others only mention them."""
    found = []
    for line in map(str.strip, lines):
        if not re.match(r"(\w+=\S+ )?(neumeta|python|accelerate launch) ", line):
            continue
        words = shlex.split(line, comments=True)
        for position, word in enumerate(words[:-1]):
            program = word.removeprefix("examples/")
            if program in SCRIPTS or (program == "neumeta" and len(words) > 2):
                found.append((program, words[position + 1 :]))
    return found


def parse(program, arguments):
    """The arguments of a command, parsed; the recipe that it names, with what it overrides, is one."""
    parser = build_parser() if program == "neumeta" else load_script(program).build_parser()
    parsed = parser.parse_args(arguments)
    path = getattr(parsed, "config", None) or getattr(parsed, "recipe", None)
    if path is not None and Path(path).parts[0] == "examples":
        load_recipe(ROOT / path, parsed.overrides)
    return parsed

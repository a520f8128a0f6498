"""The documents that tests read: README and what it links, their tables, and the commands in them."""

import re
import shlex
from pathlib import Path

from example_scripts import load_script

from neumeta_hf import load_recipe
from neumeta_hf.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")

BENCHMARKS = ("whole_network", "speed", "paper_recipes", "startup")
SCRIPTS = ("train.py", "stock_resnet18.py", "transfer.py", *(f"benchmarks/{name}.py" for name in BENCHMARKS))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def commands_in(text):
    """Program and arguments of each command in a text, in blocks of code and between backticks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
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

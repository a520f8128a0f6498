"""Publish a family and use it from the Hub, each step as a user would type it; prints a transcript.

    neumeta train --config examples/recipes/digits_lenet.yaml --set output_dir=outputs/digits
    neumeta evaluate outputs/digits
    python examples/hub_walkthrough.py outputs/digits --repo org/digits

The transcript in docs/hub.md is this script's, run by the tests against a Hub of their own (HF_ENDPOINT points there).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

USE = """\
from neumeta_hf import NeuMetaModel
from transformers import AutoModelForImageClassification

network = NeuMetaModel.from_pretrained("{repo}").morph(width=0.75)   # any size of the family
print(type(network).__name__, network.num_parameters())
half = AutoModelForImageClassification.from_pretrained("{repo}-w50")  # an ordinary checkpoint
print(type(half).__name__, half.num_parameters())
"""


def main() -> int:
    """Run the steps; returns the exit code of the first that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", help="folder of a trained and evaluated run")
    parser.add_argument("--repo", required=True, help="organisation/name to publish it under")
    parser.add_argument("--license", default="apache-2.0", help="of the weights; default: %(default)s")
    arguments = parser.parse_args()
    repo, name = arguments.repo, Path(arguments.family).name
    code = USE.format(repo=repo)
    neumeta = [sys.executable, "-m", "neumeta_hf"]
    with tempfile.TemporaryDirectory() as folder:
        steps = [
            (
                f"neumeta push {name} {repo} --license {arguments.license}",
                [*neumeta, "push", arguments.family, repo, "--license", arguments.license],
            ),
            (f"neumeta push {repo} {repo} --widths 1.0,0.5", [*neumeta, "push", repo, repo, "--widths", "1.0,0.5"]),
            (
                f"neumeta morph {repo} --width 0.25 --output quarter",
                [*neumeta, "morph", repo, "--width", "0.25", "--output", f"{folder}/quarter"],
            ),
            (f"python <<'CODE'\n{code}CODE", [sys.executable, "-c", code]),
        ]
        for shown, command in steps:
            print(f"$ {shown}", flush=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout.replace(f"{folder}/", ""), flush=True)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw the pictures of docs/explanation.md: coordinates of one tensor at two sizes, and its values at four.

    python examples/benchmarks/explanation_figures.py

Reads the family that comes with the package. Writes docs/explanation_coordinates.png and docs/explanation_weights.png.
"""

import argparse
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import neumeta_hf
from neumeta_hf import NeuMetaModel

DOCS = Path(__file__).resolve().parents[2] / "docs"
TENSOR = "conv2.weight"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(DOCS), help="folder of the pictures; default: %(default)s")
    return parser


def draw_coordinates(family: NeuMetaModel, path: Path) -> None:
    """Draw a dot for each pair of channels, where its coordinate lies, at full size and at half."""
    figure = new_figure(8, 4.2)
    for axes, width in zip(figure.subplots(1, 2), (1.0, 0.5), strict=True):
        found = family.coordinates_at(family.size_at(width))[TENSOR]
        ins, outs = (positions.tolist() for positions in (found.in_positions, found.out_positions))
        axes.scatter([x for _ in outs for x in ins], [y for y in outs for _ in ins], s=7, color="C0")
        axes.set(xlim=(-0.03, 1.03), ylim=(1.03, -0.03), aspect="equal", xlabel="c_in / C_in", ylabel="c_out / C_out")
        axes.set_title(f"width {width:g}: {len(outs)} x {len(ins)} pairs", fontsize=10)
    figure.savefig(path, dpi=120)


def draw_weights(family: NeuMetaModel, path: Path) -> None:
    """Draw the centre of each kernel at its pair of channels, at four widths and one scale."""
    figure = new_figure(9, 4.2)
    image, (num_out, num_in) = None, family.generate(1.0)[TENSOR].shape[:2]
    for axes, width in zip(figure.subplots(1, 4, sharey=True), (1.0, 0.75, 0.5, 0.25), strict=True):
        values = family.generate(width)[TENSOR].detach()[:, :, 1, 1].numpy()
        image = axes.imshow(values, cmap="RdBu_r", vmin=-0.6, vmax=0.6, interpolation="nearest")
        axes.set(xlim=(-0.5, num_in - 0.5), ylim=(num_out - 0.5, -0.5), xlabel="c_in")
        axes.set_title(f"width {width:g}: {values.shape[0]} x {values.shape[1]}", fontsize=10)
    figure.axes[0].set_ylabel("c_out")
    assert image is not None
    figure.colorbar(image, ax=figure.axes, label="centre of the kernel", shrink=0.8)
    figure.savefig(path, dpi=120)


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def main() -> int:
    """Draw both."""
    folder = Path(build_parser().parse_args().output)
    family = NeuMetaModel.from_pretrained(neumeta_hf.example("digits-lenet"))
    draw_coordinates(family, folder / "explanation_coordinates.png")
    draw_weights(family, folder / "explanation_weights.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A page that takes any size out of a family: what it costs, what it scores, how it looks, what it makes of an image.

`make space` opens it on the family that comes with the package; `make space FAMILY=org/name` on any other, a folder or
a Hub id. On a Space, `models` in the header of README.md names the family, or the variable NEUMETA_FAMILY does.
"""

import argparse
import base64
import functools
import html
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from family_view import FamilyView, Network, Prediction
from huggingface_hub import metadata_load
from PIL import Image

import neumeta_hf
from neumeta_hf.errors import NeuMetaError
from neumeta_hf.printable import printable

HERE = Path(__file__).parent
START = 0.5
"""Width that the page opens with."""
LEAST_POINTS = 4.0
"""Of percent, that the curve's axis spans."""
THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="sm",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],  # no font comes over a network
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
)
CSS = (HERE / "style.css").read_text(encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", help="folder or Hub id; default: see above")
    parser.add_argument("--port", type=int, help="default: the first that is free, from 7860 up")
    return parser


def find_family(given: str | None) -> str:
    """Find the family to show.

    Args:
        given: On the command line; None: nothing.

    Returns:
        A folder or Hub id: the one given, NEUMETA_FAMILY, that of README.md's header, or the one of the package.
    """
    card = HERE / "README.md"
    named = (metadata_load(card) or {}).get("models") if card.is_file() else None
    found = given or os.environ.get("NEUMETA_FAMILY") or (named[0] if isinstance(named, list) and named else None)
    return str(found or neumeta_hf.example("digits-lenet"))


# ------------------------------------------------------------------------------------------------ pieces of the page


def safe(text: Any) -> str:
    """Text that does nothing on a page, whoever wrote it.

    Args:
        text: Of a checkpoint, say.

    Returns:
        The text, escaped.
    """
    # Braces and dollars are the marks of Gradio's templates.
    return html.escape(printable(str(text))).translate({ord(mark): f"&#{ord(mark)};" for mark in "{}$`"})


def show_message(text: str, kind: str = "note") -> str:
    """A message of the library.

    Args:
        text: The message; "": none.
        kind: "note" or "error".

    Returns:
        HTML.
    """
    return f'<p class="nm-message nm-{kind}" role="{"alert" if kind == "error" else "status"}">{safe(text)}</p>' * bool(
        text
    )


def show_numbers(view: FamilyView, network: Network) -> str:
    """What a network costs and scores.

    Args:
        view: The family.
        network: Of it.

    Returns:
        HTML.
    """
    full = sum(parameter.numel() for parameter in view.full.parameters())
    tiles = [
        ("parameters", f"{network.num_parameters:,}", f"{network.num_parameters / full:.0%} of {full:,}"),
        ("multiply-accumulates", f"{network.macs:,}", "for one sample"),
        ("latency", f"{network.milliseconds:.2f} ms", "one sample, here and now"),
    ]
    if view.sweep is not None or view.test_images is not None:
        if network.score is None:
            how = "not measured at this size"
        elif view.test_images is not None:
            how = f"on {len(view.test_images)} test images, just now"
        else:
            how = "measured" if network.is_measured else "read between measured sizes"
        tiles.append((view.score.label, view.score.format(network.score), how))
    cells = "".join(
        f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd><small>{safe(about)}</small></div>"
        for name, value, about in tiles
    )
    counts = [(group, network.size[group], view.family.space.full[group]) for group in view.family.width_groups]
    rows = "".join(f"<li><b>{safe(name)}</b> {count} of {most}</li>" for name, count, most in counts[:24])
    rest = f"<li>and {len(counts) - 24} more</li>" if len(counts) > 24 else ""
    blocks = "".join(
        f"<li><b>{safe(stack.name)}</b> {network.size[stack.key]} of {stack.full} blocks</li>"
        for stack in view.family.space.depths.values()
    )
    return f'<dl class="nm-numbers">{cells}</dl><ul class="nm-counts">{rows}{rest}{blocks}</ul>'


def show_curve(view: FamilyView, network: Network) -> str:
    """The family's measured curve, with a network on it.

    Args:
        view: The family.
        network: Of it.

    Returns:
        HTML with a picture in SVG.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    if not view.curve and network.score is None:
        return (
            '<p class="nm-empty">Nothing is measured at any size yet: <code>neumeta evaluate</code> adds a curve.</p>'
        )
    percent = 100 if view.score.is_ratio else 1
    sizes = [size for _, size, _ in view.curve] + [network.num_parameters]
    figure = Figure(figsize=(4.8, 2.9), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    if view.curve:
        scores = [percent * score for *_, score in view.curve]
        axes.plot(sizes[:-1], scores, color="#1f5fa8", linewidth=1.6, marker="o", markersize=4.5, zorder=2)
    if network.score is not None:
        known = view.test_images is not None or network.is_measured
        axes.plot(
            [network.num_parameters],
            [percent * network.score],
            marker="o",
            markersize=11,
            markerfacecolor="#c0392b" if known else "white",
            markeredgecolor="#c0392b",
            markeredgewidth=2,
            zorder=3,
        )
    else:
        axes.axvline(network.num_parameters, color="#c0392b", linestyle="--", linewidth=1.5)
    if max(sizes) > 4 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k")
    axes.minorticks_off()
    axes.margins(x=0.06, y=0.15)
    low, high = axes.get_ylim()
    if percent == 100 and high - low < LEAST_POINTS:  # else an image more or less looks like a cliff
        middle = min((low + high) / 2, 100 - LEAST_POINTS / 2)
        axes.set_ylim(middle - LEAST_POINTS / 2, middle + LEAST_POINTS / 2)
    axes.set_xlabel("parameters")
    axes.set_ylabel(printable(view.score.label) + (" (%)" if percent == 100 else ""), parse_math=False)
    axes.grid(visible=True, color="#8a94a3", alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color="#8a94a3")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color("#8a94a3")
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": ["sans-serif"], "svg.hashsalt": "neumeta"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue()
    shown = view.score.format(network.score) if network.score is not None else "not measured"
    title = safe(f"{view.score.label} against parameters; this size: {shown} with {network.num_parameters:,}")
    return f'<figure class="nm-curve" role="img" aria-label="{title}">{svg[svg.index("<svg") :]}</figure>'


def show_picture(image: Image.Image, caption: str, *, is_pixelated: bool = True) -> str:
    """A picture with what it shows.

    Args:
        image: The picture.
        caption: Below it.
        is_pixelated: Whether its pixels stay sharp when it is enlarged.

    Returns:
        HTML.
    """
    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    sharp = ' class="nm-sharp"' if is_pixelated else ""
    return (
        f'<figure class="nm-picture"><img{sharp} src="data:image/png;base64,{data}" alt="{safe(caption)}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


def show_prediction(prediction: Prediction) -> str:
    """What a network makes of an image.

    Args:
        prediction: Of `FamilyView.predict`.

    Returns:
        HTML.
    """
    small = max(prediction.seen.size) < 100
    pictures = show_picture(prediction.seen, "what the network sees", is_pixelated=small)
    if prediction.made is not None:
        pictures += show_picture(prediction.made, "what it makes of it", is_pixelated=small)
    bars = "".join(
        f'<li><span>{safe(name)}</span><i style="width:{100 * share:.1f}%"></i><b>{share:.1%}</b></li>'
        for name, share in prediction.classes
    )
    looks = "nm-prediction" if prediction.made is None else "nm-prediction nm-made"
    return f'<div class="{looks}"><div>{pictures}</div><ol>{bars}</ol></div>'


# --------------------------------------------------------------------------------------------------------- the page


class Page:
    """What the page does when somebody moves, draws or chooses something.

    Args:
        view: The family.
    """

    def __init__(self, view: FamilyView):
        self.view = view
        self.lock = threading.Lock()  # requests come from several threads, and the family keeps what it has built

    def say(self, act: Callable[[], Any], number: int = 1) -> Any:
        """Do something; an error of the library becomes a message on the page, and the rest stays as it is.

        Args:
            act: Without arguments.
            number: Of outputs that it has.

        Returns:
            A message, which is empty where all went well, and the outputs.
        """
        try:
            with self.lock:
                outputs = act()
        except NeuMetaError as error:
            return (show_message(str(error), "error"), *[gr.skip()] * number) if number else ""
        return "", *(outputs if number > 1 else [outputs])

    def take(self, ratios: list[float], depth: float) -> Network:
        """The network of a size, from the last few where it is among them."""
        return self._take(tuple(ratios), depth)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - there is one page
    def _take(self, ratios: tuple[float, ...], depth: float) -> Network:
        return self.view.morph(ratios, depth)

    def show_size(self, layer: str, *size: float) -> tuple[Any, ...]:
        """All that a size decides, but what it makes of an image.

        Args:
            layer: Whose weights are shown.
            *size: Ratios of the sliders, and the depth behind them.

        Returns:
            Message, numbers, curve, weights.
        """

        def act() -> list[str]:
            network = self.take(list(size[:-1]), size[-1])
            numbers = show_numbers(self.view, network) + "".join(map(show_message, network.notes))
            return [numbers, show_curve(self.view, network), self._weights(network, layer)]

        return self.say(act, 3)

    def show_uniform(self, layer: str, width: float, depth: float) -> tuple[Any, ...]:
        """The same for one width in all groups, whose sliders follow."""
        number = len(self.view.sliders)
        return *self.show_size(layer, *[width] * number, depth), *[width] * number

    def show_weights(self, layer: str, *size: float) -> tuple[Any, ...]:
        """The weights of a layer."""
        return self.say(lambda: self._weights(self.take(list(size[:-1]), size[-1]), layer))

    def show_prediction(self, chosen: str | None, drawn: str | None, is_drawing: bool, *size: float) -> tuple[Any, ...]:
        """What the network of a size makes of the image that was chosen, or of the drawing.

        Args:
            chosen: File of an image; None: none.
            drawn: What was drawn, as a browser's canvas gives it.
            is_drawing: Whether the drawing counts, and not the file.
            *size: As of `show_size`.

        Returns:
            Message, prediction.
        """
        if not (drawn if is_drawing else chosen):
            return "", '<p class="nm-empty">Draw something, or choose an image.</p>'

        def act() -> str:
            network = self.take(list(size[:-1]), size[-1])
            image = self.view.read_drawing(drawn) if is_drawing else self.view.read_image(str(chosen))
            return show_prediction(self.view.predict(network, image, is_drawn=is_drawing))

        return self.say(act)

    def _weights(self, network: Network, layer: str) -> str:
        return show_picture(*self.view.draw_weights(network, layer))


def build(name: str) -> gr.Blocks:
    """Build the page of a family; where it cannot be loaded, the page says why.

    Args:
        name: Folder or Hub id.

    Returns:
        The page, not yet served.
    """
    try:
        view = FamilyView(name)
    except NeuMetaError as error:
        with gr.Blocks(title="neumeta_hf", analytics_enabled=False) as blocks:
            gr.HTML(f"<h1>This family cannot be shown</h1>{show_message(str(error), 'error')}", elem_id="nm-failed")
        return blocks
    page, family = Page(view), view.family
    start = min(max(view.least_width, START), view.most_width)
    slider = functools.partial(gr.Slider, minimum=view.least_width, maximum=view.most_width, value=start, step=0.01)
    first = view.layers[-2 if len(view.layers) > 1 else -1] if view.layers else None
    message, numbers, curve, weights = page.show_size(first or "", *[start] * len(view.sliders), 1.0)
    with gr.Blocks(title=f"{view.name}: any size", analytics_enabled=False) as blocks:
        gr.HTML(
            f"<h1>{safe(view.name)}</h1><p>One checkpoint holds every network of this family "
            f"(<code>{safe(family.target_family.name)}</code>, {safe(view.task)}). Choose a size: its weights are "
            "generated on the spot, by a hypernetwork, without training.</p>",
            elem_id="nm-head",
        )
        says = gr.HTML(message, elem_id="nm-says")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                uniform = slider(label="width of all groups", elem_id="nm-uniform")
                with gr.Accordion("each group for itself", open=len(view.sliders) <= 4):
                    groups = [
                        slider(label=printable(entry.name), elem_id=f"nm-group-{number}")
                        for number, entry in enumerate(view.sliders)
                    ]
                depth = gr.Slider(
                    minimum=min(view.least_depth, 0.99),  # which is not shown where depth is no choice
                    maximum=1.0,
                    value=1.0,
                    step=0.01,
                    label="depth",
                    elem_id="nm-depth",
                    visible=view.least_depth < 1,
                )
            with gr.Column(scale=6, min_width=320):
                counted = gr.HTML(numbers, elem_id="nm-numbers")
                drawn_curve = gr.HTML(curve, elem_id="nm-curve")
        with gr.Row():
            with gr.Column(scale=5, min_width=320, visible=view.takes_images):
                gr.HTML("<h2>Try it on an image</h2>")
                is_drawing = gr.State(False)
                with gr.Tabs():
                    with gr.Tab("an image") as choosing:
                        chosen = gr.Image(
                            type="filepath",
                            sources=["upload", "clipboard"],
                            show_label=False,
                            height=220,
                            value=_first_image(view),
                            buttons=[],
                            elem_id="nm-image",
                        )
                    with gr.Tab("a drawing") as drawing:
                        ground, ink = ("black", "white") if view.is_dark else ("white", "black")
                        drawn = gr.HTML(
                            "",
                            html_template=f'<div class="nm-pad" data-ground="{ground}" data-ink="{ink}"></div>',
                            js_on_load=(HERE / "drawing.js").read_text(encoding="utf-8"),
                            elem_id="nm-drawing",
                        )
                predicted = gr.HTML(elem_id="nm-predicted")
            with gr.Column(scale=6, min_width=320):
                gr.HTML("<h2>The weights of a layer</h2>")
                layer = gr.Dropdown(view.layers, value=first, show_label=False, container=False, elem_id="nm-layer")
                shown = gr.HTML(weights, elem_id="nm-weights")
                gr.HTML(
                    "<p class='nm-empty'>Outputs from left to right, inputs from top to bottom, in the frame of the "
                    "full size. Blue is below zero, red above.</p>"
                )
        gr.HTML(
            "<p class='nm-empty'>Method: <a href='https://arxiv.org/abs/2410.11878'>Neural Metamorphosis</a> (Yang and "
            "Wang, ECCV 2024), by the library neumeta_hf.</p>",
            elem_id="nm-foot",
        )
        size = [*groups, depth]
        # The last of many moves counts; a network is small, so that what is shown is as good as live.
        quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
        predict: dict[str, Any] = {
            "fn": page.show_prediction,
            "inputs": [chosen, drawn, is_drawing, *size],
            "outputs": [says, predicted],
            **quick,
        }
        all_shown = [says, counted, drawn_curve, shown]
        moves = [
            uniform.input(page.show_uniform, [layer, uniform, depth], [*all_shown, *groups], **quick),
            *(entry.input(page.show_size, [layer, *size], all_shown, **quick) for entry in size),
        ]
        layer.input(page.show_weights, [layer, *size], [says, shown], **quick)
        if view.takes_images:
            for move in moves:
                move.success(
                    **{**predict, "outputs": [predicted]} | {"fn": lambda *given: page.show_prediction(*given)[1]}
                )
            chosen.change(**predict)
            drawn.input(**predict)
            choosing.select(lambda: False, None, is_drawing, **quick).then(**predict)
            drawing.select(lambda: True, None, is_drawing, **quick).then(**predict)
            blocks.load(**predict)
    return blocks


def _first_image(view: FamilyView) -> str | None:
    """A test image to begin with, where there are any."""
    if view.test_images is None:
        return None
    import tempfile

    pixels = view.test_images.shown(view.test_images.__getitems__([0]))[0]
    path = Path(tempfile.mkdtemp()) / "digit.png"
    Image.fromarray((255 * pixels[0]).byte().numpy()).resize((280, 280), Image.Resampling.NEAREST).save(path)
    return str(path)


def serve(blocks: gr.Blocks, **options: Any) -> str:
    """Serve a page.

    Args:
        blocks: From `build`.
        **options: Of its `launch`.

    Returns:
        Its local address.
    """
    looks: dict[str, Any] = {"theme": THEME, "css": CSS, "footer_links": [], "ssr_mode": False}
    return blocks.launch(max_file_size="20mb", **looks, **options)[1]


def main() -> int:
    """Build the page and serve it until it is stopped."""
    arguments = build_parser().parse_args()
    serve(build(find_family(arguments.family)), server_port=arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

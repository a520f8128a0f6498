"""Whatever names, facts and recipes say, a card has the same shape, and nothing in it acts on its reader."""

import itertools
import random

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from neumeta_hf.hub.card import BEGIN, END
from neumeta_hf.hub.escaping import block, cell, code, literal, plain, words
from neumeta_hf.hub.family_card import FamilyFacts, family_card
from neumeta_hf.hub.merging import merge_card
from neumeta_hf.hub.morph_card import MorphFacts, morph_card

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
HOSTILE = [
    "a|b|c",
    "\\|",
    "\n\n# Owned\n\n",
    "\n## Limits\n\n- none",
    "`code` and ```` more ````",
    "`",
    "```\n# Out of the block\n```",
    "~~~\nx",
    "</details>",
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "<!-- a comment",
    "-->",
    BEGIN,
    f"\n{END}\n",
    f"x\n{END}\n{BEGIN}\nx",
    "[click](https://evil.example)",
    "![](https://evil.example/pixel.png)",
    "<https://evil.example>",
    "https://evil.example",
    "www.evil.example",
    "&lt;b&gt;",
    "\n---\nlicense: mit\n---\n",
    "{% include %} $x$ ~~x~~ **x** _x_",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "a\u2028b\u0085c\rd\te",
    "'\"\\",
    '")\nimport os\nos.system("x")\n("',
    "",
    " ",
    "- x",
    "1. x",
    "> x",
    "    x",
    "|---|---|",
    "\ud800",
    "!!python/object:os.system",
    "x" * 500,
]


def mixtures(number):
    """Hostile strings joined at random, the same every time."""
    rng = random.Random(0)
    pieces = [*HOSTILE, "word", "\n", "`", "<", "|"]
    return ["".join(rng.choices(pieces, k=rng.randint(2, 5))) for _ in range(number)]


def row(text, width):
    return {
        "width": {text: width} if width < 1 else width,
        "accuracy": 0.5,
        "num_parameters": 10,
        "macs": 20,
        "compression_rate": 0.5,
        "trained": True,
        "in_range": True,
    }


def sweep_facts(text):
    names = dict.fromkeys(["dataset", "split", "device", "date", "checkpoint", "command"], text)
    score = {"name": "accuracy", "label": text, "is_ratio": True, "hub_name": text}
    return {**names, "score": score, "versions": {"torch": text}, "num_images": 5, "seed": 0, "calibrated": 7}


def family(text):
    environment = {"device": text, "cores": 2, "date": text, "versions": {text: text, f"{text}2": text}}
    facts = FamilyFacts(
        config={
            "hypernetwork": {"type": text, text: [text]},
            "generated": [text, f"{text}.*"],
            "normalization": "keep",
            "statistics_widths": [0.5],
            "calibration_images": 3,
            "trained_widths": [0.5, 1.0],
            "preparation": {"tv_before": 2.0, "tv_after": 1.0},
        },
        family=text,
        task=text,
        width_groups={text: 4, f"{text}2": 8},
        num_parameters={"hypernetwork": 1, "generated": 2, "static": 3},
        recipe={"data": {"dataset": text, text: text}, "target": {"checkpoint": text}, text: {text: [text, 1]}},
        training={"seed": 1, "seconds": {text: 2.0}, "environment": environment},
        sweep={"facts": sweep_facts(text), "reference": row(text, 1.0), "rows": [row(text, 0.5), row(text, 1.0)]},
        has_figure=True,
    )
    return family_card(facts, f"org/{text}", tags=[text])


def morph(text, **changes):
    fields = {
        "model_class": text,
        "module": text,
        "family": text,
        "task": text,
        "source": text,
        "widths": {text: 0.5, f"{text}2": 0.25},
        "num_samples": 2,
        "noise": 1.0,
        "calibrated": 5,
        "num_parameters": 10,
        "full_num_parameters": 20,
        "is_changed": False,
        "row": row(text, 0.5),
        "sweep_facts": sweep_facts(text),
    }
    return morph_card(MorphFacts(**{**fields, **changes}), f"org/{text}", tags=[text])


def classifier(text):
    return morph(text, task="image-classification")


def split(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def shape(body):
    """What a page is made of, without its words: blocks, and what stands in lines beside text and code."""
    found = []
    for token in MARKDOWN.parse(body):
        if token.type == "inline":
            inside = [child for child in token.children if child.type not in ("text", "code_inline", "softbreak")]
            found += [(child.type, tuple(child.attrs.items())) for child in inside]
        else:
            # Where HTML is ours it is the same on every page.
            found.append((token.type, token.tag, token.content if token.type == "html_block" else ""))
    return found


@pytest.mark.parametrize("make", [family, morph, classifier])
def test_the_shape_of_a_card_does_not_depend_on_what_it_is_told(make):
    expected = shape(split(make("name"))[1])
    assert sum(kind == "heading_open" for kind, *_ in expected) >= 3
    for text in [*HOSTILE, *mixtures(40)]:
        assert shape(split(make(text))[1]) == expected, text


@pytest.mark.parametrize("make", [family, morph])
def test_front_matter_says_no_more_than_it_is_asked_to(make):
    expected, _ = split(make("name"))

    def leaves(value):
        if isinstance(value, dict | list):
            entries = value.values() if isinstance(value, dict) else value
            return list(itertools.chain.from_iterable(map(leaves, entries)))
        return [value]

    for text in [*HOSTILE, *mixtures(10)]:
        card = make(text)
        front, _ = split(card)
        card.encode()  # no halves of characters
        assert list(front) == list(expected), text
        assert front["license"] == "unknown"
        texts = [leaf for leaf in leaves(front) if isinstance(leaf, str)]
        assert all(leaf.isprintable() and "<!--" not in leaf for leaf in texts), text
        assert ModelCard(card).data.to_dict()["tags"] == front["tags"]


@pytest.mark.parametrize("make", [family, morph])
def test_a_card_is_merged_whatever_it_is_told(make):
    benign = make("name")
    by_hand = benign.replace(BEGIN, f"By hand, before.\n\n{BEGIN}") + "\nBy hand, after.\n"
    for text in [*HOSTILE, *mixtures(10)]:
        hostile = make(text)
        merged = merge_card(hostile, by_hand)
        section = hostile[hostile.index(BEGIN) : hostile.index(END)]
        assert merged.endswith(f"By hand, before.\n\n{section}{END}\n\nBy hand, after.\n"), text
        assert merge_card(hostile, merged) == merged
        assert split(merge_card(benign, merged))[1] == split(by_hand)[1]


def test_the_snippet_of_a_card_is_python_whatever_the_name_of_the_repo():
    for text in [*HOSTILE, *mixtures(10)]:
        card = classifier(text)
        (snippet,) = [
            token.content for token in MARKDOWN.parse(card) if token.type == "fence" and token.info == "python"
        ]
        line = snippet.splitlines()[-1]
        names: dict = {"pipeline": lambda task, model: model}
        exec(line.replace("classify = ", "found = "), names)
        if text.isascii():
            assert names["found"] == f"org/{text}"


def test_words_stay_words_and_all_else_is_code():
    for text in ("mnist", "NVIDIA H100 80GB HBM3", "mean IoU", "PSNR (dB)", "2.13.0+cpu", "cifar10_resnet20", "Größe"):
        assert words(text) == cell(text) == plain(text) == text
    for text in ("_x_", "a*b", "a|b", "[x]", "<b>", "www.x.org", "a://b", "`", "#1", "me@example.org", "x&y", "a  \nb"):
        rendered = MARKDOWN.renderInline(f"before {words(text)}, after")
        assert rendered.startswith("before <code>")
        assert rendered.endswith("</code>, after")


@pytest.mark.parametrize("text", [*HOSTILE, *mixtures(10)])
def test_code_and_blocks_hold_all_that_they_are_given(text):
    (paragraph,) = [token for token in MARKDOWN.parse(code(text)) if token.type == "inline"]
    (found,) = paragraph.children
    assert (found.type, found.content.strip()) == ("code_inline", plain(text).strip())
    (found,) = MARKDOWN.parse(block(text, "yaml"))
    assert (found.type, found.info) == ("fence", "yaml")
    assert "\x1b" not in found.content
    table = MARKDOWN.parse(f"| a | b |\n|---|---|\n| {cell(text)} | c |")
    assert [token.type for token in table].count("td_open") == 2
    assert [token.content for token in table if token.type == "inline"][3] == "c"
    assert all(line.isprintable() for line in literal(text).splitlines())

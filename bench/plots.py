"""Plots of the benchmarks' figures, as PNG files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

Cell = tuple[int, int, int]
Figures = Mapping[str, Mapping[Cell, Mapping[str, float]]]

_OWN = "#c2410c"
_OTHERS = ("#1d4ed8", "#0f766e", "#7e22ce", "#64748b", "#a16207")


def servers(found: Figures, path: Path, own: str, machine: str) -> None:
    """Draw texts a second for each cell, a panel for each length of the texts."""
    _panels(found, path, own, machine, "Embeddings over HTTP: texts a second (more is better)",
            lambda cell: f"{cell[1]} x {cell[2]}", "texts a call x clients")


def libraries(found: Figures, path: Path, own: str, machine: str) -> None:
    """Draw texts a second in process, a panel for each length of the texts."""
    _panels(found, path, own, machine, "Embeddings in process: texts a second (more is better)",
            lambda cell: str(cell[1]), "texts a call")


def _panels(found: Figures, path: Path, own: str, machine: str, title: str, label: object, axis: str) -> None:
    assert callable(label)
    lengths = sorted({cell[0] for cells in found.values() for cell in cells}, key=lambda words: words or 1 << 20)
    figure, panels = plt.subplots(1, len(lengths), figsize=(3.6 * len(lengths) + 1, 4.6), squeeze=False)
    colours = dict(zip([name for name in found if name != own], _OTHERS, strict=False))
    for panel, words in zip(panels[0], lengths, strict=True):
        cells = sorted({cell for cells in found.values() for cell in cells if cell[0] == words})
        width = 0.8 / len(found)
        for number, (name, figures) in enumerate(found.items()):
            shift = (number - (len(found) - 1) / 2) * width
            at = [place + shift for place, cell in enumerate(cells) if cell in figures]
            panel.bar(at, [figures[cell]["rate"] for cell in cells if cell in figures], width, label=name,
                      color=_OWN if name == own else colours.get(name))
        panel.set_xticks(range(len(cells)), [label(cell) for cell in cells], rotation=60, fontsize=8)
        panel.set_title(f"{words} words" if words else "mixed lengths", fontsize=10)
        panel.set_xlabel(axis, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False, fontsize=9)
    _save(figure, path, title, machine)


def completions(found: Mapping[str, Mapping[str, Mapping[tuple[int, int], Mapping[str, Sequence[float]]]]], path: Path,
                own: str, machine: str) -> None:
    """Draw the time to the first token, and tokens a second in all, of each model's cells: a row for each model."""
    figure, rows = plt.subplots(len(found), 2, figsize=(11, 3.4 * len(found)), squeeze=False)
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    colours = {own: _OWN} | dict(zip([name for name in names if name != own], _OTHERS, strict=False))
    for (model, each), panels in zip(found.items(), rows, strict=True):
        cells = sorted({cell for figures in each.values() for cell in figures})
        width = 0.8 / len(each)
        for panel, (what, words) in zip(panels, (("first", "seconds to the first token"),
                                                 ("throughput", "tokens a second in all")), strict=True):
            for number, (name, figures) in enumerate(each.items()):
                shift = (number - (len(each) - 1) / 2) * width
                at = [place + shift for place, cell in enumerate(cells) if cell in figures]
                panel.bar(at, [statistics.median(figures[cell][what]) for cell in cells if cell in figures], width,
                          label=name, color=colours[name])
            panel.set_xticks(range(len(cells)), [f"{cell[0]} x {cell[1]}" for cell in cells], fontsize=8)
            panel.set_title(f"{model}: {words}", fontsize=10)
            panel.set_xlabel("tokens of the prompt x clients", fontsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            if what == "first":
                panel.set_yscale("log")
    shown = {name: handle for panels in rows
             for handle, name in zip(*panels[0].get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="lower center", ncols=len(shown), frameon=False, fontsize=8)
    _save(figure, path, "Completions over HTTP, and by the libraries in process", machine)


def growth(clients: Sequence[int], rates: Mapping[str, Sequence[float]], p95: Mapping[str, Sequence[float]], path: Path,
           machine: str) -> None:
    """Draw how texts a second and the 95th percentile of a call's time grow with the number of clients."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6))
    for panel, found, what in ((left, rates, "texts a second"), (right, p95, "p95 of a call, ms")):
        for (name, values), colour in zip(found.items(), (_OWN, *_OTHERS), strict=False):
            panel.plot(clients, values, marker="o", label=name, color=colour)
        panel.set_xscale("log", base=2)
        panel.set_xticks(clients, list(map(str, clients)))
        panel.set_ylim(bottom=0)
        panel.set_xlabel("clients")
        panel.set_title(what, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    _save(figure, path, "How embeddings grow with the clients", machine)


def memory(texts: Sequence[int], megabytes: Sequence[float], path: Path, machine: str) -> None:
    """Draw what the service holds in memory over many texts."""
    figure, panel = plt.subplots(figsize=(7, 4.2))
    panel.plot(texts, megabytes, color=_OWN)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("texts embedded")
    panel.set_ylabel("MB, all processes")
    panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path, "Memory over many texts", machine)


def _save(figure: plt.Figure, path: Path, title: str, machine: str) -> None:
    figure.suptitle(title, fontsize=12)
    figure.text(0.995, 0.005, machine, ha="right", fontsize=6, color="#64748b")
    figure.tight_layout(rect=(0, 0.06, 1, 0.97))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)

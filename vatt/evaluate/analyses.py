"""The paper's analyses of what networks make of clips, each a figure with its numbers.

Of drawn clips (`drawn`): t-SNE by class and by modality, similarities of pairs, how well modalities
are told apart, activations of nodes (VATT section 4.4 and appendix). `analysis_figures` draws them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from vatt.evaluate import analysis_figures
from vatt.evaluate.comparison import Comparison
from vatt.evaluate.drawn import MAX_CLIPS, Name
from vatt.evaluate.features import Clips
from vatt.evaluate.finetuned import TaskResult
from vatt.evaluate.networks import Arrays
from vatt.evaluate.retrieval import DIRECTIONS, SIMILARITY_DECIMALS, Search
from vatt.evaluate.selection import Subset

SPACES: Mapping[str, Mapping[str, str]] = {
    "encoder input": {name: f"{name}_input" for name in ("video", "audio", "text")},
    "features (AGG)": {name: f"{name}_feature" for name in ("video", "audio", "text")},
    "video-audio space": {"video": "video_va", "audio": "audio_va"},
    "video-text space": {"video": "video_vt", "text": "text_vt"},
}
"""What is compared between modalities, and by which arrays."""
EDGES = np.linspace(-1, 1, 51)
"""Those of the bins of similarities."""
MIN_POINTS, MAX_CLASSES, NUM_FOLDS = 10, 20, 5
PERPLEXITY = 30.0


class Analysis(NamedTuple):
    """A figure and the numbers in it."""

    name: str
    """That of its files."""
    title: str
    caption: str
    svg: str
    data: pd.DataFrame


class Points(NamedTuple):
    """Clips by one or more modalities in one space."""

    features: Float[np.ndarray, "M D"]
    modalities: Sequence[str]
    clips: Int[np.ndarray, " M"]
    """The number of the clip of each."""


def analyse(comparison: Comparison, clips: Clips, arrays: Mapping[Name, Arrays]) -> list[Analysis]:
    """Return the analyses that these clips and networks are enough for.

    `arrays` are those of `drawn.draw_inner`.
    """
    own = arrays.get(("", "trained"), {})
    kind = "modality-agnostic (MA)" if "video_nodes" in own else "modality-specific (MS)"
    searches = {name: pair.search for name, pair in comparison.retrieval.items()}
    with threadpool_limits(1):  # several threads would add in any order
        made = [
            analyse_classes(clips, arrays, comparison.finetuned.get("video"), kind),
            analyse_modalities(clips, own, kind),
            analyse_similarities(searches),
            analyse_classifier(clips, own, kind),
            analyse_nodes(clips, own),
        ]
    return [analysis for analysis in made if analysis is not None]


def analyse_classes(
    clips: Clips, arrays: Mapping[Name, Arrays], result: object, kind: str
) -> Analysis | None:
    """Show video features of classifiers from scratch and fine-tuned, by t-SNE, by class."""
    if not isinstance(result, TaskResult):
        return None
    label = result.entry.label
    names = [(own.get(label) or [""])[0] for own in clips.labels]
    is_usable = clips.rows["has_video"].to_numpy(dtype=bool) & np.array(names, dtype=bool)
    counts = Counter(name for name, usable in zip(names, is_usable, strict=True) if usable)
    shown = sorted(sorted(counts), key=lambda name: -counts[name])[:MAX_CLASSES]
    chosen = np.flatnonzero(is_usable & np.isin(names, shown))
    titles = {"scratch": "from scratch", "model": f"fine-tuned from {result.entry.initial}"}
    tables = {
        title: _tabulate(clips, chosen, found, {"class": [names[n] for n in chosen]})
        for name, title in titles.items()
        if (made := arrays.get(("video", name)))
        and (found := reduce(made["feature"][chosen])) is not None
    }
    if not tables:
        return None
    is_cut = len(counts) > len(shown)
    left_out = f" Of {len(counts)} classes the {MAX_CLASSES} commonest." if is_cut else ""
    return Analysis(
        "tsne_classes",
        "Video features by class",
        "Features before the linear layer of the video classifier, in the plane by t-SNE, coloured "
        f"by {label}: {len(chosen)} clips. The pre-trained network is {kind}.{left_out}",
        analysis_figures.draw_points(tables, "class", sorted(shown)),
        _join(tables, "network"),
    )


def analyse_modalities(clips: Clips, own: Arrays, kind: str) -> Analysis | None:
    """Show where the modalities lie before and behind the encoders, by t-SNE."""
    tables = {}
    for space in SPACES:
        points = collect(clips, own, space)
        found = reduce(points.features)
        if found is not None and len(set(points.modalities)) > 1:
            more = {"modality": points.modalities}
            tables[space] = _tabulate(clips, points.clips, found, more)
    if not tables:
        return None
    return Analysis(
        "tsne_modalities",
        "Input and output space by modality",
        "The mean token that enters the encoder, the feature behind it, and both shared spaces, in "
        f"the plane by t-SNE: {len(clips.rows)} clips. The network is {kind}. Narrower tokens are "
        "filled up with zeros; in the shared spaces all lengths are 1.",
        analysis_figures.draw_points(tables, "modality", list(SPACES["encoder input"])),
        _join(tables, "space"),
    )


def analyse_similarities(searches: Mapping[str, Search]) -> Analysis | None:
    """Show how similar videos are to their own sounds and texts, and to those of others."""
    tables, shares = {}, []
    for direction, search in searches.items():
        own, others, share = compare_pairs(search)
        if len(own) and len(others):
            densities = [np.histogram(x, EDGES, density=True)[0] for x in (own, others)]
            edges = {"from": EDGES[:-1], "to": EDGES[1:]}
            columns = edges | dict(zip(("pairs", "others"), densities, strict=True))
            tables[DIRECTIONS[direction]] = pd.DataFrame(columns)
            shares.append(f"{DIRECTIONS[direction]} {share:.1%}")
    if not tables:
        return None
    return Analysis(
        "similarities",
        "Similarities of pairs",
        "Densities of the cosines of videos with their own text or sound, and with those of all "
        f"other clips, of at most {MAX_CLIPS:,} texts and sounds. How often the own one is more "
        f"similar than another (chance 50%): {', '.join(shares)}.",
        analysis_figures.draw_densities(tables),
        _join(tables, "direction"),
    )


def analyse_classifier(clips: Clips, own: Arrays, kind: str) -> Analysis | None:
    """Show how well a linear classifier tells the modality from one feature, in each space."""
    rows = []
    for space in SPACES:
        points = keep_whole(collect(clips, own, space))
        accuracy = tell_modalities(points, [clips.videos[number] for number in points.clips])
        if accuracy is not None:
            chance = 1 / len(set(points.modalities))
            rows.append((space, accuracy, chance, len(points.clips)))
    if not rows:
        return None
    data = pd.DataFrame(rows, columns=["space", "accuracy", "chance", "points"])
    return Analysis(
        "modality_classifier",
        "Telling the modality",
        "How often logistic regression tells of one point whether it is video, audio or text, on "
        f"files that it has not learned from ({NUM_FOLDS} folds), beside chance; of clips that "
        f"have all modalities of a space. The network is {kind}.",
        analysis_figures.draw_accuracies(data),
        data,
    )


def analyse_nodes(clips: Clips, own: Arrays) -> Analysis | None:
    """Show the mean activation of each node of a shared encoder, by layer and modality."""
    has = _find_present(clips, own)
    means = {
        name: own[f"{name}_nodes"][_pick(name, np.flatnonzero(usable), has)].mean(
            axis=0, dtype=np.float64
        )
        for name, usable in has.items()
        if usable.any() and f"{name}_nodes" in own
    }
    if not means:
        return None
    num_layers, width = next(iter(means.values())).shape
    places = {
        "layer": np.repeat(np.arange(num_layers) + 1, width),
        "node": np.tile(np.arange(width), num_layers),
    }
    return Analysis(
        "node_activations",
        "Activations of nodes by modality",
        "What each node of the shared encoder gives on average, over all tokens and clips: the "
        "output of the MLP of each layer, before it is added to its input.",
        analysis_figures.draw_nodes(means),
        pd.DataFrame(places | {name: values.ravel() for name, values in means.items()}),
    )


def collect(clips: Clips, own: Arrays, space: str) -> Points:
    """Return all clips by all of their modalities in one of SPACES.

    Rows are filled up with zeros to one width; in the shared spaces their length is made 1.
    """
    has, parts = _find_present(clips, own), []
    for name, key in SPACES[space].items():
        numbers = np.flatnonzero(has[name])
        if key in own and len(numbers):
            values = own[key][_pick(name, numbers, has)].astype(np.float64)
            parts.append((name, numbers, values.reshape(len(numbers), -1)))
    if not parts:
        return Points(np.zeros((0, 1)), [], np.zeros(0, dtype=np.int64))
    width = max(values.shape[1] for _, _, values in parts)
    padded = [np.pad(values, ((0, 0), (0, width - values.shape[1]))) for _, _, values in parts]
    features = np.concatenate(padded)
    if space.endswith("space"):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(lengths == 0, 1, lengths)
    modalities = [name for name, numbers, _ in parts for _ in numbers]
    return Points(features, modalities, np.concatenate([numbers for _, numbers, _ in parts]))


def keep_whole(points: Points) -> Points:
    """Return the clips that have all modalities that any of them has."""
    num_modalities = len(set(points.modalities))
    counts = Counter(points.clips.tolist())
    kept = [n for n, clip in enumerate(points.clips.tolist()) if counts[clip] == num_modalities]
    modalities = [points.modalities[n] for n in kept]
    return Points(points.features[kept], modalities, points.clips[kept])


def reduce(features: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M 2"] | None:
    """Return points in the plane by t-SNE; None for few of them, or where all are the same."""
    if len(features) < MIN_POINTS or not np.ptp(features, axis=0).any():
        return None
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    reducer = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return np.asarray(reducer.fit_transform(features))


def compare_pairs(
    search: Search,
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " R"], float]:
    """Return the similarities of pairs and of all others, and how often that of a pair is greater.

    The queries are at most MAX_CLIPS, drawn by their names, and the items those of the queries.
    """
    names = [f"{file}\n{text}" for file, text in zip(search.videos, search.texts, strict=True)]
    subset = Subset(MAX_CLIPS)
    chosen = subset.choose(subset.draw_turns(names)) if names else np.zeros(0, dtype=np.int64)
    items, right = np.unique(search.right[chosen], return_inverse=True)
    similarities = search.queries[chosen] @ search.items[items].T
    similarities = similarities.round(SIMILARITY_DECIMALS).clip(-1, 1)
    own = similarities[np.arange(len(chosen)), right]
    is_other = np.arange(len(items)) != right[:, None]
    greater = (own[:, None] > similarities) + (own[:, None] == similarities) / 2
    others = similarities[is_other]
    return own, others, float(greater[is_other].mean()) if len(others) else 0.5


def tell_modalities(points: Points, files: Sequence[str]) -> float | None:
    """Return the accuracy of a linear classifier of modalities on the files that it does not know.

    None where there are too few files, or only one modality.
    """
    num_folds = min(NUM_FOLDS, len(set(files)))
    if num_folds < 2 or len(set(points.modalities)) < 2:
        return None
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    accuracies = cross_val_score(
        classifier, points.features, points.modalities, groups=files, cv=GroupKFold(num_folds)
    )
    return float(accuracies.mean())


def _find_present(clips: Clips, own: Arrays) -> dict[str, Bool[np.ndarray, " N"]]:
    """Return which clips have each modality; none has text for a network without words."""
    has = {name: clips.rows[f"has_{name}"].to_numpy(dtype=bool) for name in ("video", "audio")}
    has["text"] = np.array([bool(texts) and "text_vt" in own for texts in clips.texts], dtype=bool)
    return has


def _pick(
    name: str, numbers: Int[np.ndarray, " M"], has: Mapping[str, Bool[np.ndarray, " N"]]
) -> Int[np.ndarray, " M"]:
    """Return the rows of clips in arrays: those of texts hold only the clips that have one."""
    return (np.cumsum(has["text"]) - 1)[numbers] if name == "text" else numbers


def _tabulate(
    clips: Clips,
    numbers: Int[np.ndarray, " M"],
    plane: Float[np.ndarray, "M 2"],
    more: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    keys = clips.rows["key"].to_numpy()[numbers]
    return pd.DataFrame({"clip": keys, **more, "x": plane[:, 0], "y": plane[:, 1]})


def _join(tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Return tables one below the other, with their names in the first column."""
    named = pd.concat(dict(tables), names=[column, None])
    return named.reset_index(level=0).reset_index(drop=True)

"""VATT, the Video-Audio-Text Transformer (arXiv 2104.11178), from raw videos to an evaluated model."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vatt.weights.classifier import ExportedClassifier
    from vatt.weights.export import Exported


def load(path: str | Path) -> "Exported":
    """Load a trained model: the folder of an export, or "champion" for the best one so far.

    See `vatt.weights.export.Exported` for what it can do. A folder that is really called
    champion is reached by "./champion".

    Raises:
        StageError: the folder is not an export, or is damaged; the message names the file.
    """
    from vatt.weights.export import load as load_export  # torch is slow to import
    from vatt.weights.registry import CHAMPION, find_champion

    return load_export(find_champion() if path == CHAMPION else Path(path))


def load_classifier(path: str | Path) -> "ExportedClassifier":
    """Load a fine-tuned classifier: a folder that the stage finetune or `import-tf` wrote.

    See `vatt.weights.classifier.ExportedClassifier` for what it can do.

    Raises:
        StageError: the folder is not a classifier, or is damaged; the message names the file.
    """
    from vatt.weights.classifier import load_classifier as load  # torch is slow to import

    return load(Path(path))

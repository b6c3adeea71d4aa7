"""VATT, the Video-Audio-Text Transformer (arXiv 2104.11178): raw videos to an evaluated model."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vatt.weights.inference import Exported, ExportedClassifier


def load(path: str | Path) -> "Exported":
    """Load a trained model: the folder of an export, or "champion" for the best one so far.

    See `vatt.weights.inference.Exported` for what it can do. A folder that is really called
    champion is reached by "./champion".

    Raises:
        StageError: the folder is not an export, or is damaged; the message names the file.
    """
    from vatt.weights import inference, registry  # torch is slow to import

    return inference.load(registry.find_export(path))


def load_classifier(path: str | Path) -> "ExportedClassifier":
    """Load a fine-tuned classifier: a folder that the stage finetune or `import-tf` wrote.

    See `vatt.weights.inference.ExportedClassifier` for what it can do.

    Raises:
        StageError: the folder is not a classifier, or is damaged; the message names the file.
    """
    from vatt.weights import inference  # torch is slow to import

    return inference.load_classifier(Path(path))

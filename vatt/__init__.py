"""VATT, the Video-Audio-Text Transformer (arXiv 2104.11178), from raw videos to an evaluated model."""

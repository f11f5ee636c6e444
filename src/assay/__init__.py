"""assay: what a neural sequence model does with its memory, measured."""

"""Segmentation and classification networks that take images in [0, 1]: one file per family."""

"""Segmentation and classification networks that take images in [0, 1]."""

from gpcore.networks.fcn import FCN, fcn_small, fcn_vgg16, load_imagenet_vgg16

__all__ = ["FCN", "fcn_small", "fcn_vgg16", "load_imagenet_vgg16"]

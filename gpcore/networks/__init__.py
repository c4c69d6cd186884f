"""Segmentation and classification networks that take images in [0, 1]."""

from gpcore.networks.deeplab import DeepLab, deeplab_small, deeplab_vgg16
from gpcore.networks.fcn import FCN, fcn_small, fcn_vgg16
from gpcore.networks.unet import UNet, unet_small, unet_vgg16
from gpcore.networks.vgg import Trunk, load_imagenet_vgg16

__all__ = [
    "FCN",
    "DeepLab",
    "Trunk",
    "UNet",
    "deeplab_small",
    "deeplab_vgg16",
    "fcn_small",
    "fcn_vgg16",
    "load_imagenet_vgg16",
    "unet_small",
    "unet_vgg16",
]

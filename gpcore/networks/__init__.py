"""Segmentation and classification networks that take images in [0, 1]."""

from gpcore.networks.classifiers import Classifier, cifar_net, lenet
from gpcore.networks.deeplab import DeepLab, deeplab_small, deeplab_vgg16
from gpcore.networks.fcn import FCN, fcn_small, fcn_vgg16
from gpcore.networks.unet import UNet, unet_small, unet_vgg16
from gpcore.networks.vgg import Trunk, load_imagenet_vgg16

__all__ = [
    "FCN",
    "Classifier",
    "DeepLab",
    "Trunk",
    "UNet",
    "cifar_net",
    "deeplab_small",
    "deeplab_vgg16",
    "fcn_small",
    "fcn_vgg16",
    "lenet",
    "load_imagenet_vgg16",
    "unet_small",
    "unet_vgg16",
]

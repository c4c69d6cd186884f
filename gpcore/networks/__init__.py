"""Segmentation and classification networks that take images in [0, 1]."""

from gpcore.networks.classifiers import Classifier, cifar_net, lenet
from gpcore.networks.context import ContextModule
from gpcore.networks.crfrnn import CRFRNN
from gpcore.networks.deeplab import DeepLab, deeplab_small, deeplab_vgg16
from gpcore.networks.densenet import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103, fc_densenet_small
from gpcore.networks.fcn import FCN, CropClassifier, crop_classifier, fcn_deep, fcn_small, fcn_vgg16
from gpcore.networks.unet import UNet, unet_small, unet_vgg16
from gpcore.networks.vgg import Trunk, load_imagenet_vgg16

__all__ = [
    "CRFRNN",
    "FCN",
    "Classifier",
    "ContextModule",
    "CropClassifier",
    "DeepLab",
    "FCDenseNet",
    "Trunk",
    "UNet",
    "cifar_net",
    "crop_classifier",
    "deeplab_small",
    "deeplab_vgg16",
    "fc_densenet56",
    "fc_densenet67",
    "fc_densenet103",
    "fc_densenet_small",
    "fcn_deep",
    "fcn_small",
    "fcn_vgg16",
    "lenet",
    "load_imagenet_vgg16",
    "unet_small",
    "unet_vgg16",
]

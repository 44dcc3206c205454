import copy
import torch
from torch import nn


class JointNetwork(nn.Module):
    def __init__(self, module, link, n_joint):
        super().__init__()
        self.module = module
        self.link = link
        self.n_joint = n_joint

    def forward(self, x):
        return self.module(x)


def check_outputs(module, n_joint, probe):
    return JointNetwork(module, "logits", n_joint)


def widen_outputs(module, class_of, n_classes, probe):
    raise NotImplementedError

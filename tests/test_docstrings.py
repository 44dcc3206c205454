import importlib
import inspect
import pkgutil

import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate

import skfairprune
from skfairprune import FairPrunedClassifier


def _modules():
    names = [found.name for found in pkgutil.walk_packages(skfairprune.__path__, "skfairprune.")]
    return [skfairprune, *(importlib.import_module(name) for name in names)]
print(len(_modules()))
def _public():
    found = {}
    for module in _modules():
        for name in getattr(module, "__all__", ()):
            obj = getattr(module, name)
            if not (inspect.isclass(obj) or inspect.isfunction(obj)): continue
            found[f"{obj.__module__}.{obj.__qualname__}"] = obj
            if inspect.isclass(obj):
                for key, member in vars(obj).items():
                    if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, (property, classmethod))):
                        found[f"{obj.__module__}.{obj.__qualname__}.{key}"] = member
    return found

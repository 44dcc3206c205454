import importlib
import inspect
import pkgutil
from pathlib import Path

import pandas as pd
import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate

import skfairprune
from skfairprune import FairPrunedClassifier

# EX01, SA01, ES01: examples, See Also and an extended summary are written where they help.
# GL01, GL02: where the first and the last line stand is the formatter's business.
OPTIONAL = {"EX01", "SA01", "ES01", "GL01", "GL02"}
# Where the sections may be left out: the parameters are one line's words, or "as in" another function.
INTERNAL = OPTIONAL | {"PR01", "PR03", "PR04", "RT01", "RT02", "RT03", "YD01"}
PUBLIC_MODULES = {
    "skfairprune",
    "skfairprune.audit",
    "skfairprune.datasets",
    "skfairprune.deployment",
    "skfairprune.metrics",
}
REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference.rst"
# The fields of a NamedTuple are attributes; several parameters "as in" another function have no type.
ALLOWED = {"NamedTuple": {"PR01"}, "as in": {"PR01", "PR04"}}


def _modules():
    found = pkgutil.walk_packages(skfairprune.__path__, "skfairprune.")
    return [skfairprune, *(importlib.import_module(module.name) for module in found)]


def _members(cls):
    return {
        name: member
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, classmethod | property))
    }


def _documented():
    """Map the import path of every exported class, method and function to whether users meet it."""
    found = {}
    for module in _modules():
        for name in getattr(module, "__all__", ()):
            obj = getattr(module, name)
            if not (inspect.isclass(obj) or inspect.isfunction(obj)):
                continue
            path = f"{obj.__module__}.{obj.__qualname__}"
            for key in [path, *(f"{path}.{m}" for m in (_members(obj) if inspect.isclass(obj) else ()))]:
                found[key] = found.get(key, False) or module.__name__ in PUBLIC_MODULES
    return found


DOCUMENTED = _documented()


def _errors(path, allowed):
    found = validate(path)
    doc = found["docstring"] or ""
    if "Attributes\n" in doc:
        allowed = allowed | ALLOWED["NamedTuple"]
    if "As in " in doc or "as in " in doc:
        allowed = allowed | ALLOWED["as in"]
    return [f"{code}: {message}" for code, message in found["errors"] if code not in allowed]


@pytest.mark.parametrize("path", sorted(path for path, is_public in DOCUMENTED.items() if is_public))
def test_public_docstring(path):
    assert _errors(path, OPTIONAL) == []


@pytest.mark.parametrize("path", sorted(path for path, is_public in DOCUMENTED.items() if not is_public))
def test_internal_docstring(path):
    assert _errors(path, INTERNAL) == []


@pytest.mark.parametrize("module", _modules(), ids=lambda module: module.__name__)
def test_a_module_says_what_it_is_and_exports(module):
    if Path(module.__file__).read_text(encoding="utf-8").strip():
        assert module.__doc__
        assert hasattr(module, "__all__")
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_every_parameter_of_the_classifier_is_documented_and_checked():
    documented = [parameter.name for parameter in ClassDoc(FairPrunedClassifier)["Parameters"]]
    signature = list(inspect.signature(FairPrunedClassifier).parameters)
    assert documented == signature
    assert list(FairPrunedClassifier._parameter_constraints) == signature
    assert list(FairPrunedClassifier().get_params()) == sorted(signature)


def test_every_default_of_the_classifier_is_documented():
    defaults = inspect.signature(FairPrunedClassifier).parameters
    for parameter in ClassDoc(FairPrunedClassifier)["Parameters"]:
        default = defaults[parameter.name].default
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        assert parameter.type.endswith(f"default={shown}")


def test_every_fitted_attribute_of_the_classifier_is_documented(small, train):
    frame = pd.DataFrame(train.X, columns=train.distribution.feature_names)
    clf = small().fit(frame, train.y, sensitive_features=train.sensitive_features)
    fitted = {name for name in vars(clf) if name.endswith("_") and not name.startswith("_")}
    documented = {attribute.name for attribute in ClassDoc(FairPrunedClassifier)["Attributes"]}
    assert documented == fitted


@pytest.mark.parametrize("module", sorted(PUBLIC_MODULES))
def test_reference_has_every_public_name(module):
    names = {name for name in importlib.import_module(module).__all__ if not name.startswith("__")}
    _, _, section = REFERENCE.read_text(encoding="utf-8").partition(f".. currentmodule:: {module}\n")
    listed = section.partition(".. currentmodule::")[0].split()
    assert names <= set(listed)

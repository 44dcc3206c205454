from sklearn.utils.estimator_checks import parametrize_with_checks

from skfairprune import FairPrunedClassifier


@parametrize_with_checks([FairPrunedClassifier()])
def test_scikit_learn_check_passes(estimator, check):
    check(estimator)

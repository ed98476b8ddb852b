"""The tiny CLIP with its small splits, as the tests of the entry points have them."""

from tests.experiments.conftest import small as small
from tests.experiments.conftest import tiny as tiny

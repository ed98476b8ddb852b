"""Suites of tasks: labels, splits and data."""

from knots.suites.tasks import ImageTask, JointLabels, Suite, parse_suite

__all__ = ["ImageTask", "JointLabels", "Suite", "parse_suite"]
